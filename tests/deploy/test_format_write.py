"""Writing is all or nothing, and what cannot be packed is refused by name."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import golden_graphs

from picojoule.core import kinds
from picojoule.core.errors import PackError
from picojoule.deploy import read, write
from picojoule.graph import nodes as g


def test_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.pj"
    write(path, golden_graphs.residual(), {"n": 1})
    old, real, calls = path.read_bytes(), os.write, []

    def full(handle: int, data: memoryview) -> int:
        calls.append(len(data))
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(handle, data[:100])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space"):
        write(path, golden_graphs.conv_lif(), {"n": 2})
    assert len(calls) == 2
    assert path.read_bytes() == old
    assert [p.name for p in tmp_path.iterdir()] == ["net.pj"]


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: real(handle, data[:37]))
    write(tmp_path / "net.pj", golden_graphs.residual(), golden_graphs.CARD)
    assert (tmp_path / "net.pj").read_bytes() == (golden_graphs.GOLDEN / "residual.pj").read_bytes()


def test_synced_before_the_name_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    sync, rename = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda h: (order.append("sync"), sync(h))[1])
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append("rename"), rename(a, b))[1])
    write(tmp_path / "net.pj", golden_graphs.residual())
    assert order == ["sync", "rename", "sync"]


def test_kill_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "net.pj"
    write(path, golden_graphs.residual(), {"n": 1})
    old = path.read_bytes()
    code = (
        "import os, sys, time\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import golden_graphs\n"
        "from picojoule.deploy import write\n"
        "real = os.write\n"
        "def slow(handle, data):\n"
        "    done = real(handle, data[:64])\n"
        "    print('half', flush=True); time.sleep(60)\n"
        "    return done\n"
        "os.write = slow\n"
        f"write({str(path)!r}, golden_graphs.conv_lif(), {{'n': 2}})\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "half\n"
        child.send_signal(signal.SIGKILL)
        child.wait(30)
    finally:
        child.kill()
    assert path.read_bytes() == old
    assert read(path)[1] == {"n": 1}


def test_file_mode_follows_the_umask(tmp_path: Path) -> None:
    if os.name != "posix":
        pytest.skip("modes are a POSIX matter")
    before = os.umask(0o027)
    try:
        write(tmp_path / "net.pj", golden_graphs.residual())
    finally:
        os.umask(before)
    assert (tmp_path / "net.pj").stat().st_mode & 0o777 == 0o640


def test_concurrent_writers_leave_one_whole_file(tmp_path: Path) -> None:
    import threading

    path = tmp_path / "net.pj"
    graphs = [golden_graphs.residual(), golden_graphs.conv_lif()]
    workers = [threading.Thread(target=write, args=(path, graphs[i % 2], {"i": i})) for i in range(6)]
    for worker in workers:
        worker.start()
    deadline = time.monotonic() + 60
    for worker in workers:
        worker.join(max(0.0, deadline - time.monotonic()))
    assert read(path)[1]["i"] in range(6)
    assert [p.name for p in tmp_path.iterdir()] == ["net.pj"]


BAD_CARDS = [
    ({"a": float("nan")}, "card.a"),
    ({"a": [1, {"b": np.float32(1)}]}, r"card.a\[1\].b"),
    ({1: 2}, "keys must be text"),
    ({"classes": "cat"}, "card.classes"),
    ([], "JSON object"),
]


@pytest.mark.parametrize(("card", "match"), BAD_CARDS)
def test_bad_cards(card: object, match: str) -> None:
    from picojoule.deploy import dumps

    with pytest.raises(PackError, match=match):
        dumps(golden_graphs.residual(), card)  # type: ignore[arg-type]


def test_refuses_what_cannot_be_packed() -> None:
    from picojoule.deploy import dumps

    graph = golden_graphs.residual()
    with pytest.raises(PackError, match="captured"):
        dumps(graph.replace(stage="captured"))
    with pytest.raises(PackError, match="real edge"):
        dumps(
            graph.replace(
                nodes=(replace(graph.nodes[0], edge=g.Edge(kinds.real, (4, 6, 6), 2)), *graph.nodes[1:])
            )
        )
    opaque = g.Opaque(name="softmax", inputs=("x",), edge=graph.nodes[0].edge, target="aten.softmax")
    with pytest.raises(PackError, match=r"'softmax' \(Opaque\)"):
        dumps(graph.replace(nodes=(*graph.nodes, opaque)))
    with pytest.raises(PackError, match=r"'weight'.*does not exist"):
        dumps(graph.replace(tensors={k: v for k, v in graph.tensors.items() if k != "w"}))
    with pytest.raises(PackError, match=r"'gain'.*integers"):
        dumps(graph.replace(tensors=graph.tensors | {"gain": graph.tensors["gain"] * 0.5}))
