"""Layers whose kernels are sixteen code words, by firing rate: the kernels of the engine that compete.

    python benchmarks/engine/codebook.py   # a minute; prints the table

3x3 convolutions with random words and their neurons, T = 4, spikes packed in and out, one thread, no calls in
between. `chosen` is what the planner takes when it knows the rate. JSON:
benchmarks/results/engine_codebook.json.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from clock import Sampler, interleave
from machine import describe
from shapes import Cell, Shape, one_layer

from picojoule.deploy.engine import ISAS, Engine

KERNELS = ("event_bits", "static_bits", "lookup_bits", "dot_bits", "lookup_words")
RATES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.6)
SHAPES = {
    "conv128": Shape("conv", 128, 128, 16),
    "conv256": Shape("conv", 256, 256, 8),
    "conv64": Shape("conv", 64, 64, 32),
}
OUT = Path(__file__).resolve().parents[1] / "results" / "engine_codebook.json"


def spent(engine: Engine, x: Any, inner: int) -> Sampler:
    """Seconds of the layer and its neurons in a call, the mean of `inner`."""

    def sample() -> float:
        rows = [row for _ in range(inner) for row in engine.profile(x)]
        mine = (row for row in rows if row["node"] in ("layer", "layer.n"))
        return sum(row["seconds"] for row in mine if row["what"] not in ("pack", "unpack")) / inner

    return sample


def measure(shape: Shape, isa: str, rate: float, rounds: int) -> dict[str, Any]:
    """Milliseconds by kernel, and what the planner takes."""
    net = one_layer(shape, Cell("w", rate=rate))
    graph = net.graph()
    samplers = {name: spent(Engine(graph, isa=isa, kernels={"layer": name}), net.x, 3) for name in KERNELS}
    row = next(
        row for row in Engine(graph, isa=isa, rates=net.planes).info()["nodes"] if row["name"] == "layer"
    )
    return {"ms": interleave(samplers, rounds), "chosen": row["kernel"], "other": row["other"]}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for isa in (isa for isa in ISAS if isa not in ("scalar", "generic")):
        for name, shape in SHAPES.items():
            print(f"{isa}, {shape.text}, ms (median / least)")
            cells = found.setdefault(isa, {})[name] = {}
            for rate in RATES:
                cell = cells[str(rate)] = measure(shape, isa, rate, options.rounds)
                times = (f"{kernel} {ms['median']:.3f}/{ms['min']:.3f}" for kernel, ms in cell["ms"].items())
                print(f"  {rate:4.0%}  {'  '.join(times)}  -> {cell['chosen']}", flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({**describe(threads=1), "T": 4, "layers": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
