"""Layers and a six-convolution net on the engine against int8, float and spiking runtimes, interleaved.

    python benchmarks/engine/layers.py               # about five minutes; continues where it was stopped
    python benchmarks/engine/layers.py --fresh       # from the start
    python benchmarks/engine/layers.py --only body   # one group of sections

Random weights, Bernoulli spikes, T = 4 (spike counts 0..4: one step); every layer fires at the rate of its
input. `kernel`: the layer and its neurons inside the engine, packed spikes in and out, one thread; `call`: a
whole call from NumPy bytes to NumPy integers. The ANN of the same shape runs one step and, as a batch, T
steps. Spiking networks in PyTorch include their LIF. JSON: benchmarks/results/engine_layers.json.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import annet
import numpy as np
import peers
from clock import Report, Sampler, interleave, wall
from machine import describe
from shapes import Cell, Net, Shape, body, one_layer

RATES = (0.02, 0.05, 0.1, 0.2, 0.4)
SHAPES = {
    "conv128": Shape("conv", 128, 128, 16),
    "conv256": Shape("conv", 256, 256, 8),
    "linear": Shape("linear", 1024, 256, 64),
}
KINDS = (
    Cell("1", frac=2), Cell("1", frac=8), Cell("1", frac=16), Cell("2"), Cell("t"), Cell("4"), Cell("8"),
    Cell("1", T=1, frac=0, levels=4),
)  # fmt: skip
T = 4
HERE = Path(__file__).resolve().parent
OUT = HERE.parent / "results" / "engine_layers.json"


def peer_samplers(parts: list[annet.Part], threads: int, inner: int) -> dict[str, Sampler]:
    """Every other runtime on the ANN (one step, T steps) and on the spiking network (T steps)."""
    import torch
    from torch import nn

    pause = 0.01 if threads > 1 else 0.0
    calls: dict[str, peers.Call] = {}
    for steps, name in ((1, "step"), (T, "T")):
        for int8, form in ((True, "int8"), (False, "fp32")):
            model, x = annet.onnx_bytes(parts, steps, int8)
            calls[f"onnxruntime {form} ANN {name}"] = peers.onnxruntime_call(model, x, threads)
            calls[f"openvino {form} ANN {name}"] = peers.openvino_call(model, x, threads)
        x = torch.rand((steps, *parts[0].row))  # type: ignore[union-attr]
        calls[f"torch eager ANN {name}"] = peers.torch_call(annet.torch_net(parts, nn.ReLU), x, threads)
    spikes = (torch.rand((T, *parts[0].row)) < 0.1).float()  # type: ignore[union-attr]
    plain = annet.torch_net(parts, lambda: peers.plain_neuron(T))
    jelly = annet.torch_net(parts, lambda: peers.spikingjelly_neuron(T))
    calls["torch eager SNN T"] = peers.torch_call(plain, spikes, threads)
    calls["spikingjelly SNN T"] = peers.torch_call(jelly, spikes, threads)
    if spikes.dim() == 4:
        last = torch.channels_last
        calls["spikingjelly channels_last SNN T"] = peers.torch_call(
            annet.torch_net(parts, lambda: peers.spikingjelly_neuron(T)).to(memory_format=last),
            spikes.contiguous(memory_format=last),
            threads,
        )
    fresh = annet.torch_net(parts, lambda: peers.plain_neuron(T))
    calls["torch.compile SNN T"] = peers.compiled_call(fresh, spikes, threads)
    return {name: wall(call, inner, pause) for name, call in calls.items()}


def engine_samplers(net: Net, threads: int, inner: int) -> tuple[dict[str, Sampler], dict[str, Any]]:
    """`call`, and on one thread `kernel`; and what the engine chose."""
    from picojoule.deploy.engine import Engine

    with peers.without_torch():
        engine = Engine(net.graph(), threads=threads, rates=net.planes)
    x = net.x
    space = (2, 3) if net.now.ndim == 4 else 1
    if not np.array_equal(engine(x)["out"][0], net.now.sum(space)):
        raise SystemExit(f"{net.cell.text}: the engine's spikes differ from those of the plain simulation")
    layers = {node.name for node in net.nodes[1:]}

    def kernel() -> float:
        spent = []
        for _ in range(inner + 1):
            rows = engine.profile(x)
            spent.append(
                sum(r["seconds"] for r in rows if r["node"] in layers and r["what"] not in ("pack", "unpack"))
            )
        return sum(spent[1:]) / inner

    info = engine.info()
    about = {
        "kernels": {n["name"]: n["kernel"] for n in info["nodes"] if n["name"] in layers},
        "isa": info["isa"],
        "rates_in": [round(rate, 4) for rate in net.rates],
        "rate_out": round(float(net.now.mean()) / net.cell.levels, 4),
    }
    samplers = {"call": wall(lambda: engine(x), inner, 0.01 if threads > 1 else 0.0)}
    if threads == 1:
        samplers["kernel"] = kernel
    return samplers, about


def measure(
    nets: list[Net], parts: list[annet.Part], threads: int, rounds: int, inner: int
) -> dict[str, Any]:
    """One group: all nets and all peers in one interleaved run."""
    samplers, cells = {}, []
    for index, net in enumerate(nets):
        mine, about = engine_samplers(net, threads, inner)
        samplers |= {f"{index} {name}": sample for name, sample in mine.items()}
        cells.append({"kind": net.cell.text, "rate": net.cell.rate, "T": net.cell.T, **about})
    others = peer_samplers(parts, threads, inner)
    times = interleave({**samplers, **others}, rounds)
    for index, cell in enumerate(cells):
        cell["ms"] = {
            name: times[f"{index} {name}"] for name in ("call", "kernel") if f"{index} {name}" in times
        }
        fastest = cell["ms"].get("kernel", cell["ms"]["call"])["median"]
        cell["times_faster"] = {name: round(times[name]["median"] / fastest, 2) for name in others}
    return {"threads": threads, "cells": cells, "peers_ms": {name: times[name] for name in others}}


def goals(sections: dict[str, Any]) -> list[dict[str, Any]]:
    """The ratios asked for (one thread, 10 % firing) beside those measured."""
    found = []

    def add(what: str, section: str, kind: str, peer: str, goal: float, where: str = "kernel") -> None:
        cells = sections.get(f"{section}, 1 thread", {}).get("cells", [])
        for cell in cells:
            if cell["kind"] == kind and cell["rate"] == 0.1:
                times = sections[f"{section}, 1 thread"]["peers_ms"][peer]["median"]
                ratio = round(times / cell["ms"][where]["median"], 2)
                found.append({"what": what, "peer": peer, "goal": goal, "ratio": ratio, "met": ratio >= goal})

    one, int8 = "1-bit, 2 fraction bits", "onnxruntime int8 ANN step"
    full = (int8, "onnxruntime int8 ANN T", "torch eager SNN T")
    for peer, goal in zip(full, (12, 50, 90)):
        add("conv 256, 1-bit", "conv256", one, peer, goal)
    for peer, goal in zip(full, (5, 20, 35)):
        add("conv 128, 1-bit", "conv128", one, peer, goal)
    add("conv 256, 1-bit, counts 0..4", "conv256", "1-bit, counts 0..4", int8, 10)
    net = (int8, "onnxruntime int8 ANN T", "spikingjelly SNN T")
    for peer, goal in zip(net, (5, 20, 60)):
        add("whole net, 1-bit", "body", one, peer, goal, "call")
    add("whole net, 4-bit", "body", "4-bit, 2 fraction bits", int8, 2.5, "call")
    add("whole net, 8-bit", "body", "8-bit, 2 fraction bits", int8, 1.5, "call")
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fresh", action="store_true", help="measure everything again")
    parser.add_argument("--only", choices=[*SHAPES, "body"], help="one group")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    head = {"machine": describe(*peers.PACKAGES), "T": T, "rounds": args.rounds}
    report = Report(args.out, head, args.fresh)
    for threads in (1, 2):
        word = f"{threads} thread{'s' if threads > 1 else ''}"
        for name, shape in SHAPES.items():
            if args.only in (None, name):
                report.section(
                    f"{name}, {word}",
                    lambda shape=shape, threads=threads: measure(
                        [one_layer(shape, with_rate(cell, rate)) for cell in KINDS for rate in RATES],
                        [shape], threads, args.rounds, 3,
                    ),
                )  # fmt: skip
        if args.only in (None, "body"):
            report.section(
                f"body, {word}",
                lambda threads=threads: measure(
                    [known_body(with_rate(cell, rate)) for cell in KINDS for rate in RATES],
                    annet.body_parts(), threads, max(5, args.rounds // 2), 2,
                ),
            )  # fmt: skip
    report.save(goals=goals(report.sections))
    for row in goals(report.sections):
        print(f"{row['what']} / {row['peer']}: {row['ratio']} (goal {row['goal']})")


@functools.lru_cache(maxsize=64)
def known_body(cell: Cell) -> Net:
    """`body`, made once for all numbers of threads."""
    return body(cell)


def with_rate(cell: Cell, rate: float) -> Cell:
    """The same kind of layer at another firing rate."""
    return Cell(cell.bits, cell.T, cell.frac, rate, cell.levels)


if __name__ == "__main__":
    main()
