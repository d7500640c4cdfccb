"""`pj inspect`, `pj run`, `pj doctor`: output for people and programs, exit codes, clean errors."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer

from picojoule.cli import main as cli
from picojoule.core.errors import ConfigError
from picojoule.deploy import load, write

sys.path.insert(0, str(Path(__file__).parents[1] / "deploy"))
import golden_graphs
from golden_graphs import GOLDEN, Maker

from picojoule.core import kinds
from picojoule.graph import nodes as g


@pytest.fixture
def gray(tmp_path: Path) -> Path:
    """A net that reads 8-bit grey images 6x6 and gives 3 classes."""
    m = Maker(3)
    m.const("table", (np.arange(256) - 100)[None])
    m.const("w", m.rng.integers(-8, 8, (3, 36)).astype(np.int8))
    m.add(g.Input, "image", "", kinds.fixed(10, 0), (1, 6, 6), 0, table="table")
    m.add(g.Reshape, "flat", "image", kinds.fixed(10, 0), (36,), 0, moves=(("view", (36,)),))
    m.add(g.Linear, "head", "flat", kinds.fixed(20, 4), (3,), 0, weight="w", coding=g.Coding("int", 4))
    m.add(g.Output, "out", "head", kinds.fixed(20, 4), (3,), 0)
    return write(tmp_path / "gray.pj", m.graph(), {"classes": ["cat", "dog", "[bold]hen"]})


def test_inspect_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", str(GOLDEN / "conv_lif.pj"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["file_bytes"] == (GOLDEN / "conv_lif.pj").stat().st_size
    by_name = {row["name"]: row for row in found["nodes"]}
    assert by_name["conv1"]["bits"] == 1
    assert by_name["conv1"]["bytes"] == -(-6 * 2 * 9 // 8)
    assert by_name["lif1"]["kind"] == "binary"
    assert (by_name["lif1"]["low"], by_name["lif1"]["high"]) == (0, 1)
    assert all(row["kernel"] for row in found["nodes"] if row["type"] in ("Conv", "Linear", "Neuron"))
    assert found["card"]["accuracy"] == 0.5


@pytest.mark.parametrize("name", sorted(golden_graphs.GRAPHS))
def test_inspect_for_people(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", str(GOLDEN / f"{name}.pj")]) == 0
    out = capsys.readouterr().out
    assert "payload_bytes" in out
    assert "paper_bytes not stated" in out


def test_run_array(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = GOLDEN / "conv_lif.pj"
    x = golden_graphs.inputs(golden_graphs.conv_lif(), 2)["x"]
    np.save(tmp_path / "x.npy", x)
    assert cli.main(["run", str(path), str(tmp_path / "x.npy"), "--json", "--threads", "2"]) == 0
    found = json.loads(capsys.readouterr().out)
    expected = load(path)(x)
    assert found["outputs"]["out"] == np.asarray(expected).tolist()
    assert found["classes"] == [golden_graphs.CARD["classes"][i] for i in np.asarray(expected).argmax(1)]
    np.save(tmp_path / "one.npy", x[0])
    assert cli.main(["run", str(path), str(tmp_path / "one.npy")]) == 0
    assert found["classes"][0] in capsys.readouterr().out


def test_run_image(gray: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(0).integers(0, 256, (6, 6)).astype(np.uint8)
    image.fromarray(pixels).save(tmp_path / "x.png")
    assert cli.main(["run", str(gray), str(tmp_path / "x.png"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    np.testing.assert_array_equal(found["outputs"]["out"], load(gray)(pixels[None, None]))
    image.fromarray(np.zeros((40, 30, 3), np.uint8)).save(tmp_path / "colour.jpg")
    assert cli.main(["run", str(gray), str(tmp_path / "colour.jpg")]) == 0
    assert "[bold]hen" in capsys.readouterr().out


def test_image_without_pillow_names_the_extra(
    gray: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.png").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert cli.main(["run", str(gray), str(tmp_path / "x.png")]) == 2
    assert "picojoule[images]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("x.png", b"no image", "cannot read the image"),
        ("x.txt", b"", "neither an image"),
        ("x.npy", b"no array", "no plain .npy array"),
        ("absent.npy", None, "no file"),
    ],
)
def test_bad_data(
    gray: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    file: str,
    content: bytes | None,
    words: str,
) -> None:
    if content is not None:
        (tmp_path / file).write_bytes(content)
    assert cli.main(["run", str(gray), str(tmp_path / file)]) == 2
    err = capsys.readouterr().err
    assert words in err
    assert err.count("\n") == 1


def test_pickled_arrays_are_refused(gray: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "x.npy", np.array([{"a": 1}], object), allow_pickle=True)
    assert cli.main(["run", str(gray), str(tmp_path / "x.npy")]) == 2
    assert "no plain .npy" in capsys.readouterr().err


def test_bad_packed_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.pj").write_bytes(b"12345678")
    assert cli.main(["inspect", str(tmp_path / "bad.pj")]) == 2
    out = capsys.readouterr()
    assert out.out == ""
    assert "header length" in out.err
    assert "Traceback" not in out.err
    assert cli.main(["inspect", "--debug", str(tmp_path / "bad.pj")]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_doctor(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "fashion").mkdir()
    monkeypatch.setenv("PICOJOULE_DATA", str(tmp_path))
    assert cli.main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["python"].count(".") == 2
    assert found["engine"]["found"]
    assert found["engine"]["isa"]
    assert found["data"][0] == {
        "place": "$PICOJOULE_DATA", "path": str(tmp_path), "found": True, "entries": ["fashion"],
    }  # fmt: skip
    for name, extra in found["extras"].items():
        assert bool(extra["missing"]) == (extra["install"] == f"pip install 'picojoule[{name}]'")
    assert cli.main(["doctor"]) == 0
    assert "native engine: yes" in capsys.readouterr().out


def test_doctor_knows_the_extras_of_the_project() -> None:
    import tomllib

    from picojoule.cli.doctor import EXTRAS

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    declared = {
        name: {entry.split(">")[0] for entry in entries}
        for name, entries in project["optional-dependencies"].items()
        if name not in ("docs", "test")
    }
    assert {name: {dist for _, dist in packages} for name, packages in EXTRAS.items()} == declared


def test_exit_codes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    raised: list[BaseException] = []

    def build() -> typer.Typer:
        app = typer.Typer()

        @app.command()
        def fail() -> None:
            raise raised[0]

        return app

    monkeypatch.setattr(cli, "build", build)
    for error, code, words in (
        (ConfigError("wrong\nsetting"), 2, "error: wrong setting\n"),
        (RuntimeError("broken"), 1, "error: RuntimeError: broken (--debug shows where)\n"),
        (KeyboardInterrupt(), 130, "stopped"),
        (typer.Exit(3), 3, ""),
    ):
        raised[:] = [error]
        assert cli.main([]) == code
        assert words in capsys.readouterr().err
    monkeypatch.undo()
    assert cli.main(["nonsense"]) == 2
    assert cli.main(["inspect"]) == 2
    assert cli.main(["run", "a", "b", "--threads", "0"]) == 2


def test_as_a_program() -> None:
    command = [sys.executable, "-m", "picojoule.cli.main", "inspect", "absent.pj", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: no file 'absent.pj'")
