"""Spike attention on packed words: masks of one pixel, pairs, sums over tokens, beside dense rows."""

import numpy as np
import pytest
from random_graphs import Builder
from test_engine_vector import check, entry, finish

from picojoule.core import kinds
from picojoule.deploy.engine import Engine
from picojoule.graph import nodes as g


def spikes(b: Builder, x: str, out: int) -> str:
    """A 1x1 convolution or a linear layer with a neuron: spikes that are packed when they arrive."""
    edge = b.edge(x)
    if len(edge.shape) == 2:
        return b.neuron(b.linear(x, out), axis=-1, kind=kinds.binary)
    weight = b.rng.choice([-1, 1], (out, edge.shape[0], 1, 1))
    y = b.add(
        g.Conv, (x,), kinds.fixed(9, 0), (out, *edge.shape[1:]), b.T, stride=(1, 1), dilation=(1, 1),
        padding=((0, 0), (0, 0)), weight=b.const(weight, np.int8), coding=g.Coding("sign", 1),
    )  # fmt: skip
    return b.neuron(y, axis=0, kind=kinds.binary)


@pytest.mark.parametrize("seed", range(12))
def test_spike_driven_attention_on_words(seed: int) -> None:
    b = Builder(np.random.default_rng(seed), 1 + seed % 4)
    tokens, C = seed % 2 == 0, b.pick(5, 64, 70, 130)
    x = entry(b, kinds.binary, (b.pick(9, 33), 24) if tokens else (24, 5, b.pick(3, 7)), b.T)
    q, k, v = (spikes(b, x, C) for _ in range(3))
    both = {"kind": kinds.binary, "shape": b.edge(k).shape, "steps": b.T}
    op = ("and", "or", "iand")[seed % 3]
    pair = b.add(g.Mul, (k, v), **both) if seed < 4 else b.add(g.Logic, (k, v), op=op, **both)
    total = b.total(pair, (0,) if tokens else (1, 2), keepdim=True)
    gate = b.neuron(total, axis=-1 if tokens else 0, kind=kinds.binary)
    masked = b.add(g.Mul, (gate, q) if seed % 4 == 1 else (q, gate), **both)
    graph = finish(b, spikes(b, masked, 12))
    chosen = {row["name"]: row["kernel"] for row in Engine(graph).info()["nodes"]}
    packed = Engine(graph).info()["isa"] != "scalar"
    for node in (pair, total, masked):
        check(graph, seed, node, {"scalar", "packed"})
        if packed and all(chosen[name] in ("planes", "rows") for name in (q, k, v)):
            assert chosen[node] == "packed"


@pytest.mark.parametrize("kind", [kinds.ternary, kinds.integer(4), kinds.binary], ids=str)
def test_sums_over_pixels_of_every_kind(kind: kinds.Kind) -> None:
    b = Builder(np.random.default_rng(7), 2)
    x = entry(b, kind, (70, 6, 9), 2)
    check(finish(b, b.total(x, (1, 2), keepdim=False)), 3, b.nodes[-2].name, {"scalar", "packed"})
