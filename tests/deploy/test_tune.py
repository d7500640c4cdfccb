"""Measured tables beside a file: applied where they belong, else ignored with a reason, written whole."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import golden_graphs
from test_engine_calls import spikes, spiking_conv

from picojoule.core.errors import PackError
from picojoule.deploy import load, timing, tune, write
from picojoule.deploy.engine import ISAS, Engine


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "net.pj", spiking_conv(), {"rates": {"input0": [0.3]}})


def table(file: Path, **rows: Any) -> Path:
    return tune.write_table(file, rows or {"conv1": {"kernel": "event_rows"}}, ISAS[-1])


def kernel(file: Path, **options: Any) -> tuple[str, str]:
    model = load(file, **options)
    rows = {row["name"]: row for row in model.info()["engine"]["nodes"]}
    return rows["conv1"]["kernel"], rows["conv1"]["why"]


def test_every_kernel_is_measured_and_kept_tables_change_no_integer(file: Path) -> None:
    graph = spiking_conv()
    names: list[str] = []
    found = tune.tune(graph, {"input0": spikes(2, 4)}, rounds=2, tick=names.append)
    assert set(found) == set(names) >= {"conv1", "neuron2"}
    for name, row in found.items():
        assert set(row["us"]) <= set(Engine(graph).kernels(name)) - {"scalar"}
        assert row["us"][row["kernel"]] > 0
    assert set(found["conv1"]["us"]) == set(Engine(graph).kernels("conv1")) - {"scalar"}
    assert 0 <= found["conv1"].get("boundary", 0) <= 1
    tune.write_table(file, found, ISAS[-1])
    model = load(file)
    assert "net.pj.tune.json" in model.info()["tune"]
    wanted = load(file, tuned=False).integers(spikes(2, 4))
    for key, value in model.integers(spikes(2, 4)).items():
        np.testing.assert_array_equal(value, wanted[key])


def faked(monkeypatch: pytest.MonkeyPatch, us: dict[str, float], noise: float = 0.0) -> dict[str, Any]:
    """`tune` where conv1 takes so long by each kernel, give or take noise."""
    rng = np.random.default_rng(0)

    def steps(engine: Engine, *_: Any) -> list[dict[str, Any]]:
        what = next(r["kernel"] for r in engine.info()["nodes"] if r["name"] == "conv1")
        time = us.get(what, 99.0) * float(np.exp(noise * rng.standard_normal()))
        return [{"node": "conv1", "what": what, "us": time}, {"node": "out", "what": "scalar", "us": 500.0}]

    monkeypatch.setattr(timing, "steps", steps)
    monkeypatch.setattr(tune, "_boundary", lambda *_: 0.01)
    return tune.tune(spiking_conv(), {"input0": spikes(1, 4)}, rates={"input0": [0.3]})


def test_only_wins_beyond_noise_change_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    planned = next(
        r for r in Engine(spiking_conv(), rates={"input0": [0.3]}).info()["nodes"] if r["name"] == "conv1"
    )
    first, other = planned["kernel"], "event_rows"
    assert first != other
    clear = faked(monkeypatch, {first: 10.0, other: 8.0})["conv1"]
    assert clear["kernel"] == other
    assert clear["boundary"] == pytest.approx(0.6)  # events won at a rate of 0.3
    assert faked(monkeypatch, {first: 10.0, other: 9.9})["conv1"]["kernel"] == first
    assert faked(monkeypatch, {first: 10.0, other: 9.5}, noise=0.5)["conv1"]["kernel"] == first
    assert faked(monkeypatch, {first: 10.0, other: 5.0}, noise=0.1)["conv1"]["kernel"] == other


def test_a_table_that_slows_the_file_down_is_not_kept(file: Path) -> None:
    rows = {"conv1": {"kernel": "event_rows"}}
    assert tune.keep_table(file, rows, ISAS[-1], 0.99) == tune.table_path(file)
    assert kernel(file)[0] == "event_rows"
    assert tune.keep_table(file, rows, ISAS[-1], 1.01) is None
    assert not tune.table_path(file).exists()
    assert tune.gain(spiking_conv(), {"input0": spikes(1, 4)}, rows, rounds=3) > 0


def test_a_table_chooses_and_can_be_left_out(file: Path) -> None:
    table(file)
    assert kernel(file) == ("event_rows", "measured on this machine")
    assert kernel(file, tuned=False)[0] != "event_rows"
    assert kernel(file, kernels={"conv1": "dense_rows"}) == ("dense_rows", "asked for")
    table(file, neuron2={"kernel": "rows"}, conv1={"kernel": "static_bits", "boundary": 0.0})
    nodes = {row["name"]: row for row in load(file).info()["engine"]["nodes"]}
    assert (nodes["neuron2"]["kernel"], nodes["neuron2"]["why"]) == ("rows", "measured on this machine")
    assert (nodes["conv1"]["kernel"], nodes["conv1"]["boundary"]) == ("static_bits", 0.0)
    table(file, conv1={"kernel": "vector"}, neuron2={"kernel": "vector"})
    nodes = {row["name"]: row["kernel"] for row in load(file).info()["engine"]["nodes"]}
    assert (nodes["conv1"], nodes["neuron2"]) == ("vector", "vector")


def edit(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"file_sha256": "0" * 64}, "another file"),
        ({"machine": {"processor": "abacus", "isa": "avx2", "engine": "0"}}, "another machine.*abacus"),
        ({"version": 2}, "damaged.*version"),
        ({"nodes": []}, "damaged.*objects"),
        ({"nodes": {"conv1": {"kernel": 3}}}, "damaged.*conv1"),
        ({"nodes": {"conv1": {"kernel": "event_rows", "boundary": 2}}}, "damaged.*boundary"),
        ({"nodes": {"conv1": {"kernel": "event_rows", "hook": "x"}}}, "damaged.*conv1"),
        ({"more": 1}, "damaged.*exactly"),
    ],
)
def test_foreign_and_damaged_tables_are_ignored_with_a_reason(
    file: Path, change: dict[str, Any], match: str
) -> None:
    before = kernel(file)
    edit(table(file), **change)
    with pytest.warns(UserWarning, match=match):
        assert kernel(file) == before


@pytest.mark.parametrize("text", ["", "{", "[]", '{"nodes": {"a": NaN}}', "\x00" * 100])
def test_broken_tables_lose_nothing(file: Path, text: str) -> None:
    before = kernel(file)
    tune.table_path(file).write_text(text)
    with pytest.warns(UserWarning, match="damaged"):
        assert kernel(file) == before


def test_a_table_is_written_whole_or_not_at_all(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = table(file)
    old = path.read_bytes()

    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.write", full)
    with pytest.raises(OSError, match="older one is untouched"):
        table(file, conv1={"kernel": "dense_rows"})
    assert path.read_bytes() == old
    assert [p.name for p in file.parent.iterdir() if ".tmp" in p.name] == []


def test_the_oracle_is_not_tuned() -> None:
    with pytest.raises(PackError, match="scalar"):
        tune.tune(spiking_conv(), {"input0": spikes(1, 4)}, isa="scalar")


def test_stand_in_inputs_are_what_the_graphs_take() -> None:
    for name, make in golden_graphs.GRAPHS.items():
        graph = make()
        x = timing.synthetic(graph, 3, {})
        assert all(len(v) == 3 for v in Engine(graph)(x).values()), name
    x = timing.synthetic(spiking_conv(), 40, {"rates": {"input0": [0.25]}})["input0"]
    assert abs(x.mean() - 0.25) < 0.02
    rows = timing.steps(Engine(spiking_conv()), {"input0": x[:2]}, 2)
    assert sum(row["share"] for row in rows) == pytest.approx(1)
    times = timing.calls(Engine(spiking_conv()), {"input0": x[:1]}, 0.0)
    assert times["min_ms"] <= times["median_ms"] <= times["p95_ms"]
    assert times["calls"] >= 20
