"""Groups of worker processes for tests: imported once, forked many times, joined without a network port."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["picojoule.learn", "picojoule.models", "worker_group", "worker_jobs"])


def _enter(job: Callable[..., None], rank: int, world: int, folder: str, args: tuple[Any, ...]) -> None:
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
    os.environ.update({name: str(value) for name, value in names.items()})
    os.environ.update({"ACCELERATE_USE_CPU": "true", "GLOO_SOCKET_IFNAME": "lo"})
    torch.set_num_threads(1)
    try:
        # A file as meeting point: no port that another process could take in between.
        dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
        dist.barrier()  # a job that ends at once must not leave while others still connect
        job(rank, world, *args)
        dist.destroy_process_group()
    except BaseException:
        Path(folder, f"error-{rank}.txt").write_text(traceback.format_exc())
        os._exit(1)
    os._exit(0)


def launch(job: Callable[..., None], folder: Path, *args: Any, world: int = 2, seconds: float = 300) -> None:
    """Run job(rank, world, *args) in `world` processes of one gloo group; all have to end well, in time."""
    folder.mkdir(parents=True)
    procs = [FORKS.Process(target=_enter, args=(job, r, world, str(folder), args)) for r in range(world)]
    for p in procs:
        p.start()
    late = []
    for rank, p in enumerate(procs):
        p.join(seconds)
        if p.exitcode is None:
            late.append(rank)
            p.kill()
            p.join()
    told = [f"process {rank} was killed after {seconds:g} s" for rank in late]
    told += [f"{file.name}: {file.read_text()}" for file in sorted(folder.glob("error-*.txt"))]
    assert all(p.exitcode == 0 for p in procs), "\n".join(told) or [p.exitcode for p in procs]
