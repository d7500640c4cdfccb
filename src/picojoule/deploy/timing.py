"""Times of a packed model on this machine: whole calls, and every step of the plan."""

from __future__ import annotations

import platform
import time
from pathlib import Path
from typing import Any

import numpy as np

from picojoule.graph import nodes as g
from picojoule.graph.rates import planes_of

Array = np.ndarray
USUAL_RATE = 0.15  # of spikes whose rate the card does not tell
LEAST_CALLS = 20


def synthetic(graph: g.Graph, batch: int, card: dict[str, Any], seed: int = 0) -> dict[str, Array]:
    """Inputs that stand in for data: spikes at the rates of the card, noise for images.

    Args:
        graph: stage "snapped".
        batch: samples.
        card: of the file; its `rates` set how often the input's bit-planes fire.
        seed: of the noise.
    """
    rng = np.random.default_rng(seed)
    data: dict[str, Array] = {}
    for node in graph.inputs:
        shape = (batch, *((node.edge.steps,) if node.edge.steps else ()), *node.edge.shape)
        kind = node.edge.kind
        if node.table is not None:
            data[node.name] = rng.integers(0, 256, shape).astype(np.uint8)
        elif kind.is_spikes:
            rates = card.get("rates", {}).get(node.name) or [USUAL_RATE] * planes_of(kind)
            data[node.name] = _spikes(rng, shape, kind, rates)
        else:
            top = kind.high * 2.0**-kind.frac
            data[node.name] = (rng.standard_normal(shape) * min(1.0, top)).astype(np.float32)
    return data


def _spikes(rng: np.random.Generator, shape: tuple[int, ...], kind: Any, rates: list[float]) -> Array:
    if kind.name == "ternary":
        draw = rng.random(shape)
        return (draw < rates[0]).astype(np.int8) - (draw > 1 - rates[1]).astype(np.int8)
    if kind.name == "time":
        return rng.integers(kind.low, kind.high + 1, shape).astype(np.int64)
    total = sum((rng.random(shape) < rate).astype(np.int64) << bit for bit, rate in enumerate(rates))
    return np.minimum(total, kind.high)


def calls(engine: Any, inputs: dict[str, Array], seconds: float) -> dict[str, float]:
    """Milliseconds of a call: median, p95, min, and how many were timed.

    Args:
        engine: `deploy.engine.Engine`.
        inputs: one batch.
        seconds: how long to go on; at least 20 calls are timed.
    """
    engine(inputs)
    found: list[float] = []
    until = time.perf_counter() + seconds
    while len(found) < LEAST_CALLS or time.perf_counter() < until:
        start = time.perf_counter()
        engine(inputs)
        found.append((time.perf_counter() - start) * 1e3)
    return {
        "median_ms": float(np.median(found)),
        "p95_ms": float(np.quantile(found, 0.95)),
        "min_ms": min(found),
        "calls": len(found),
    }


def steps(engine: Any, inputs: dict[str, Array], rounds: int) -> list[dict[str, Any]]:
    """Microseconds a sample of every step of the plan on one thread, the smallest of some rounds.

    Args:
        engine: `deploy.engine.Engine`.
        inputs: one batch.
        rounds: calls to take the smallest of.
    """
    batch = len(next(iter(inputs.values())))
    best = engine.profile(inputs)
    for _ in range(rounds - 1):
        for kept, row in zip(best, engine.profile(inputs)):
            kept["seconds"] = min(kept["seconds"], row["seconds"])
    whole = sum(row["seconds"] for row in best) or 1.0
    return [
        {
            "node": row["node"],
            "what": row["what"],
            "us": row["seconds"] / batch * 1e6,
            "share": row["seconds"] / whole,
            "switched": row["switched"],
        }
        for row in best
    ]


def machine() -> str:
    """Name of the processor, as far as the system tells it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


__all__ = ["calls", "machine", "steps", "synthetic"]
