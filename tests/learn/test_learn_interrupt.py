"""Ctrl-C with several processes: all finish the step, write one checkpoint and leave; the run goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_learn_ddp import place
from worker_jobs import stop_after

from picojoule.learn import load_recipe


def settings(kind: str) -> list[str]:
    """Four steps an epoch, and more epochs than the interrupt waits for."""
    size = ["model.T=1", "data.limit=128", "data.batch=32"]
    return [*size, "train.epochs=2000", "train.checkpoint_steps=1", f"train.parallel={kind}"]


def start(out: Path, kind: str) -> subprocess.Popen[str]:
    """`pj train` in two processes of torchrun, in a process group of their own as a terminal gives it."""
    line = ["-m", "picojoule.cli.main", "train", "digits_vgg", *settings(kind), "--out", str(out), "--quiet"]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    env = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    return subprocess.Popen(
        [sys.executable, *torchrun, *line],
        env=env,
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )


def saved(out: Path) -> bool:
    return bool([*out.glob("checkpoints/last.safetensors"), *out.glob("checkpoints/*/state.safetensors")])


def workers(out: Path) -> list[int]:
    """Processes whose command names the folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(out).encode() in entry.read_bytes():
                found.append(int(entry.parent.name))
        except OSError:  # it has ended meanwhile
            continue
    return found


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="processes are listed in /proc")
@pytest.mark.parametrize("kind", ["ddp", pytest.param("fsdp2", marks=pytest.mark.slow)])
def test_interrupt_leaves_a_checkpoint_that_goes_on(tmp_path, kind):
    out = tmp_path / "run"
    group = start(out, kind)
    try:
        until = time.monotonic() + 240
        while not saved(out) and group.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        assert saved(out), group.communicate()[1][-3000:]
        os.killpg(group.pid, signal.SIGINT)
        told = group.communicate(timeout=240)[1]
    finally:
        if group.poll() is None:
            os.killpg(group.pid, signal.SIGKILL)
    assert group.returncode != 0
    assert "holds a checkpoint" in told, told[-3000:]
    assert workers(out) == []
    reached = place(out)
    assert reached["step"] >= 1
    assert not (out / "result.json").exists()

    stop_after(load_recipe("digits_vgg", settings(kind)), out, reached["step"] + 2, resume=True)
    assert place(out)["step"] == reached["step"] + 2
