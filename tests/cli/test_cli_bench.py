"""`pj bench`: figures of a call and of every step; `--tune` writes the table that later loads apply."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from picojoule.cli import main as cli
from picojoule.deploy.model import locate


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return Path(shutil.copy(locate("digits_vgg_w1"), tmp_path / "net.pj"))


def test_bench_as_json(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--json", "--seconds", "0", "--threads", "2", "--batch", "3", "--mode", "throughput"]
    assert cli.main(["bench", str(file), *arguments]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["batch"], found["threads"], found["mode"]) == (3, 2, "throughput")
    assert found["latency"]["median_ms"] <= found["latency"]["p95_ms"]
    assert found["samples_per_second"] == pytest.approx(3e3 / found["latency"]["median_ms"])
    assert sum(row["share"] for row in found["steps"]) == pytest.approx(1)
    assert found["data"] == "noise"


def test_tune_stores_a_table_that_inspect_shows(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("picojoule.deploy.tune.gain", lambda *_, **__: 0.9)
    np.save(file.with_name("x.npy"), np.zeros((2, 1, 8, 8), np.uint8))
    data = ["--data", str(file.with_name("x.npy"))]
    assert cli.main(["bench", str(file), "--tune", "--seconds", "0", *data]) == 0
    shown = capsys.readouterr().out
    assert "samples/s" in shown
    assert "net.pj.tune.json" in shown.replace("\n", "")
    assert cli.main(["inspect", str(file), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert "net.pj.tune.json" in found["tune"]
    assert any(row["why"] == "measured on this machine" for row in found["nodes"])
    assert cli.main(["bench", str(file), "--no-table", "--json", "--seconds", "0"]) == 0
    assert json.loads(capsys.readouterr().out)["table"] == ""


def test_a_table_that_does_not_pay_is_not_stored(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("picojoule.deploy.tune.gain", lambda *_, **__: 1.1)
    assert cli.main(["bench", str(file), "--tune", "--seconds", "0"]) == 0
    assert "no table is stored" in capsys.readouterr().err.replace("\n", " ")
    assert not file.with_name("net.pj.tune.json").exists()
    assert cli.main(["bench", str(file), "--tune", "--seconds", "0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tuned"] == {"ratio": 1.1, "stored": False}


def test_wrong_use(file: Path) -> None:
    assert cli.main(["bench", str(file), "--mode", "fast"]) == 2
    assert cli.main(["bench", str(file), "--batch", "0"]) == 2
    assert cli.main(["bench", str(file), "--isa", "scalar", "--tune"]) == 2
