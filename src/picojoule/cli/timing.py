"""Images per second of the native engine and of PyTorch, one thread, interleaved in one process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

ROUNDS = 7
LEAST_SECONDS = 0.03  # of one timed sample: shorter ones measure the clock
BATCH = 64


def images_per_second(run: Any, packed: Any) -> tuple[float, float]:
    """(native, PyTorch) throughput at batch 64 on one thread; medians of interleaved rounds.

    Args:
        run: an opened run (cli.road.Run).
        packed: its packed form, or None (then native is nan).
    """
    from picojoule.cli.road import raw_inputs
    from picojoule.deploy.engine import Engine

    x = run.samples("test", BATCH)[0]
    jobs: list[Callable[[], Any]] = [lambda: run.model(x)]
    if packed is not None:
        engine, raw = Engine(packed.graph, threads=1), raw_inputs(run)[0][: len(x)]
        jobs.append(lambda: engine(raw))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            times = interleaved(jobs)
    finally:
        torch.set_num_threads(before)
    rates = [len(x) / t for t in times]
    return (rates[1] if packed is not None else float("nan")), rates[0]


def interleaved(jobs: list[Callable[[], Any]]) -> list[float]:
    """Median seconds of a call of each job; they take turns, so that drift of the machine hits all."""
    counts = []
    for job in jobs:
        job()
        started = time.perf_counter()
        job()
        counts.append(max(1, int(LEAST_SECONDS / max(1e-7, time.perf_counter() - started))))
    samples: list[list[float]] = [[] for _ in jobs]
    for _ in range(ROUNDS):
        for job, count, kept in zip(jobs, counts, samples):
            started = time.perf_counter()
            for _ in range(count):
                job()
            kept.append((time.perf_counter() - started) / count)
    return [statistics.median(kept) for kept in samples]
