"""How a training step grows: over processes, T, batch and width.

    python benchmarks/train/scaling.py [--out FILE.json] [--parts processes T batch width] [--rounds 7]

processes  a step of a whole batch in one process with 1 and with 2 threads, and in two processes (gloo) of
           one thread each, as `ddp` and as `fsdp2`; milliseconds, and the gain over one thread
T, batch, width
           forward and backward of a VGG of two stages, one process, one thread; milliseconds, what autograd
           keeps, and the slope of log time over log size between the ends (1: linear), with and without
           `checkpoint="block"`

Medians of `rounds` after warm ones; sizes are timed in turn, round by round, so that drift hits all. Parts
that are named are written anew, others stay in the file.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from machine import describe

RESULTS = Path(__file__).resolve().parents[1] / "results"
BATCH = 64
SIZES = {"T": (1, 2, 4, 8, 16), "batch": (8, 16, 32, 64), "width": (16, 32, 64, 128)}
ROWS = {
    "one process, 1 thread": (1, 1, "ddp"),
    "one process, 2 threads": (1, 2, "ddp"),
    "two processes, ddp": (2, 1, "ddp"),
    "two processes, fsdp2": (2, 1, "fsdp2"),
}
WORKER = """
import json, statistics, sys, time
import torch
from picojoule.core.tune import tune
from picojoule.learn import Trainer, make_recipe
tune()
values, folder, rounds = json.loads(sys.argv[1]), sys.argv[2], int(sys.argv[3])
trainer = Trainer(make_recipe(values), folder, quiet=True)
trainer.model.train()
times = []
batches = list(zip(range(rounds + 2), trainer.feed.train()))
for _, (x, y) in batches:
    trainer.workers.wait()
    began = time.perf_counter()
    trainer._batch(x, y, last=True)
    trainer.workers.wait()
    times.append(time.perf_counter() - began)
if trainer.workers.main:
    print(json.dumps(1000 * statistics.median(times[2:])))
"""


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def step_ms(world: int, threads: int, parallel: str, rounds: int) -> float:
    """Milliseconds of an optimizer step on the whole batch."""
    values = {
        "model": {"name": "spiking_vgg_digits", "T": 4, "args": {"layout": "64-128-P-128"}},
        "data": {"name": "digits", "batch": BATCH},
        "train": {"parallel": parallel},
    }
    env = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    env |= {"ACCELERATE_USE_CPU": "true", "GLOO_SOCKET_IFNAME": "lo"}
    if world > 1:
        env |= {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    with tempfile.TemporaryDirectory() as folder:
        line = [sys.executable, "-c", WORKER, json.dumps(values), folder, str(rounds)]
        procs = [
            subprocess.Popen(
                line,
                env={**env, **({"RANK": str(r), "LOCAL_RANK": str(r)} if world > 1 else {})},
                stdout=subprocess.PIPE,
                text=True,
            )
            for r in range(world)
        ]
        told = [p.communicate()[0] for p in procs]
    if any(p.returncode for p in procs):
        raise SystemExit(f"a worker ended with {[p.returncode for p in procs]}")
    return float(told[0].splitlines()[-1])


def processes(rounds: int) -> dict[str, Any]:
    """The table over processes; the runs take turns twice."""
    found: dict[str, list[float]] = {name: [] for name in ROWS}
    for _ in range(2):
        for name, how in ROWS.items():
            found[name].append(step_ms(*how, rounds))
    best = {name: min(times) for name, times in found.items()}
    one = best["one process, 1 thread"]
    return {name: {"ms": round(ms, 2), "gain": round(one / ms, 2)} for name, ms in best.items()}


def growth(what: str, rounds: int) -> dict[str, Any]:
    """Time and kept memory over one size; the others stay at T=4, batch 16, width 32."""
    import torch

    from picojoule.learn import checkpoint_
    from picojoule.models import create_model

    torch.set_num_threads(1)
    jobs: dict[tuple[int, str], Callable[..., Any]] = {}
    kept: dict[tuple[int, str], int] = {}
    for size in SIZES[what]:
        at = {"T": 4, "batch": 16, "width": 32, what: size}
        layout = f"{at['width']}-P-{2 * at['width']}"
        for mode in ("none", "block"):
            model = create_model("spiking_vgg_digits", T=at["T"], in_channels=3, layout=layout)
            checkpoint_(model.train(), mode)
            x = torch.rand(at["batch"], 3, 32, 32)

            jobs[size, mode] = partial(_step, model, x)
            kept[size, mode] = _kept(model, x)
    times: dict[tuple[int, str], list[float]] = {key: [] for key in jobs}
    for turn in range(rounds + 1):
        for key, job in jobs.items():
            began = time.perf_counter()
            job()
            if turn:
                times[key].append(1000 * (time.perf_counter() - began))
    found: dict[str, Any] = {"sizes": list(SIZES[what])}
    ends = SIZES[what][0], SIZES[what][-1]
    for mode in ("none", "block"):
        ms = {size: statistics.median(times[size, mode]) for size in SIZES[what]}
        slope = math.log(ms[ends[1]] / ms[ends[0]]) / math.log(ends[1] / ends[0])
        found[f"checkpoint {mode}"] = {
            "ms": [round(v, 2) for v in ms.values()],
            "kept_mib": [round(kept[size, mode] / 2**20, 2) for size in SIZES[what]],
            "slope": round(slope, 2),
        }
    return found


def _step(model: Any, x: Any) -> None:
    """Forward and backward."""
    model(x).sum().backward()
    model.zero_grad()


def _kept(model: Any, x: Any) -> int:
    """Bytes that autograd keeps between the passes; tensors that share storage count once."""
    import torch

    storages: dict[int, int] = {}

    def pack(t: Any) -> Any:
        storages[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        model(x)
    return sum(storages.values())


def main() -> None:
    parser = argparse.ArgumentParser(description="growth of a training step")
    parser.add_argument("--out", type=Path, default=RESULTS / "train_scaling.json")
    parser.add_argument("--parts", nargs="+", default=["processes", *SIZES], choices=["processes", *SIZES])
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    made: dict[str, Any] = {"benchmark": "scaling"}
    made |= json.loads(given.out.read_text()) if given.out.exists() else {}
    made["machine"] = describe("torch", "accelerate", threads=1)
    made["settings"] = {
        "batch of the processes": BATCH,
        "net": "64-128-P-128 on digits, T=4",
        "rounds": given.rounds,
    }
    for part in given.parts:
        made[part] = processes(given.rounds) if part == "processes" else growth(part, given.rounds)
        print(part, json.dumps(made[part]), flush=True)
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main()
