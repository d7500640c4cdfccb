"""Files mapped instead of copied: pages shared between processes, changes noticed, all else as before."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import c_library as c
import golden_graphs

from picojoule import deploy
from picojoule.core import kinds
from picojoule.core.errors import FormatError
from picojoule.graph import nodes as g


def eight_bit(width: int = 1024) -> g.Graph:
    """A layer whose codes lie in the file as the graph needs them: width^2 bytes."""
    rng = np.random.default_rng(0)
    weight = rng.integers(-128, 128, (width, width)).astype(np.int8)
    edge = g.Edge(kinds.fixed(40, 0), (width,))
    nodes = (
        g.Input(name="x", edge=g.Edge(kinds.fixed(8, 0), (width,))),
        g.Linear(name="fc", inputs=("x",), edge=edge, weight="w", coding=g.Coding("int", 8)),
        g.Output(name="out", inputs=("fc",), edge=edge),
    )
    return g.Graph(nodes, {"w": weight}, "snapped")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return deploy.write(tmp_path / "net.pj", eight_bit())


def x() -> np.ndarray:
    return np.random.default_rng(1).integers(-100, 100, (2, 1024)).astype(np.int16)


def test_same_answers_mapped_and_copied(path: Path) -> None:
    mapped, copied = deploy.load(path), deploy.load(path, mmap=False)
    np.testing.assert_array_equal(mapped(x()), copied(x()))
    weight = mapped.graph.tensors["w"]
    assert not weight.flags.owndata
    assert not weight.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        weight[0, 0] = 1


def test_golden_files_mapped() -> None:
    for name in golden_graphs.GRAPHS:
        file = golden_graphs.GOLDEN / f"{name}.pj"
        mapped, copied = deploy.load(file), deploy.load(file, mmap=False)
        inputs = golden_graphs.inputs(mapped.graph, 2)
        for key, value in copied.integers(inputs).items():
            np.testing.assert_array_equal(mapped.integers(inputs)[key], value)
        assert mapped.info()["payload_bytes"] == copied.info()["payload_bytes"]


SHARED = """
import sys, re
from picojoule import deploy
model = deploy.load(sys.argv[1])
weight = model.graph.tensors["w"].sum()
print("ready", flush=True)
sys.stdin.readline()
rows = open("/proc/self/smaps").read().split("\\n")
start = next(i for i, row in enumerate(rows) if row.endswith(sys.argv[1]))
for row in rows[start + 1 : start + 24]:
    if row.startswith(("Shared_Clean", "Private_Dirty", "Rss")):
        print(*row.split()[:2])
"""


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs /proc/self/smaps")
def test_processes_share_the_pages(path: Path) -> None:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", SHARED, str(path)]
    pair = [subprocess.Popen(command, **pipes) for _ in range(2)]  # type: ignore[call-overload]
    for process in pair:
        assert process.stdout.readline() == "ready\n"
    for process in pair:  # both are alive and hold the file
        process.stdin.write("go\n")
        process.stdin.flush()
        lines = [process.stdout.readline().split() for _ in range(3)]
        found = {name: int(kib) for name, kib in lines}
        assert found["Shared_Clean:"] >= 1024
        assert found["Private_Dirty:"] == 0
    for process in pair:
        process.communicate()
        assert process.returncode == 0


def test_a_file_cut_while_mapped_is_named_and_ends_nothing(path: Path) -> None:
    model = deploy.load(path)
    before = model(x())
    os.truncate(path, 0)
    np.testing.assert_array_equal(model(x()), before)  # calls do not read the file
    for late in (model.stream, model.info, lambda: pickle.dumps(model)):
        with pytest.raises(FormatError, match=r"net\.pj: was changed while it was mapped"):
            late()
    np.testing.assert_array_equal(model(x()), before)


def test_a_copy_does_not_care(path: Path) -> None:
    model = deploy.load(path, mmap=False)
    os.truncate(path, 0)
    model.stream()
    assert pickle.loads(pickle.dumps(model))(x()).shape == (2, 1024)


def test_replaced_by_renaming_is_not_seen(path: Path) -> None:
    model = deploy.load(path)
    before = model(x())
    deploy.write(path, eight_bit(512))
    np.testing.assert_array_equal(model.stream()(x()), before)


def test_pickle_and_fork(path: Path) -> None:
    model = deploy.load(path)
    again = pickle.loads(pickle.dumps(model))
    path.unlink()
    np.testing.assert_array_equal(again(x()), model(x()))
    if hasattr(os, "fork"):
        child = os.fork()
        if not child:
            os._exit(0 if (model(x()) == again(x())).all() else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_tiny_and_empty_files(tmp_path: Path) -> None:
    for size in (0, 1, 7, 8, 9):
        bad = tmp_path / f"{size}.pj"
        bad.write_bytes(b"\1" * size)
        for mmap in (True, False):
            with pytest.raises(FormatError, match="header length"):
                deploy.load(bad, mmap=mmap)
        with pytest.raises(c.Refused, match="header length"):
            c.CModel(bad)


def test_c_maps_too(path: Path) -> None:
    mapped, copied = c.CModel(path), c.CModel(path, map=0)
    data = {"x": x()}
    before = mapped(data)["out"]
    np.testing.assert_array_equal(copied(data)["out"], before)
    os.truncate(path, 10)
    np.testing.assert_array_equal(mapped(data)["out"], before)
    with pytest.raises(c.Refused, match="was changed while it was mapped") as caught:
        mapped.stream(2)
    assert caught.value.status == c.IO
    np.testing.assert_array_equal(copied.stream(2)(data, 1)["out"], before)


def test_arrays_that_may_change_are_copied() -> None:
    graph = eight_bit(64)
    engine = deploy.engine.Engine(graph)
    data = x()[:, :64]
    before = engine(data)["out"]
    graph.tensors["w"][:] = 0
    np.testing.assert_array_equal(engine.stream().step(data)["out"], before)
