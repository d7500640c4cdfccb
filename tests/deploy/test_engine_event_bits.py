"""event_bits forced on every geometry, against the reference: shared windows, odd widths, all spikes at once.

Neighbouring pixels share a window where the row divides by the pixels of a vector (two up to 128 outputs,
four up to 64), the stride is 1 and the taps touch; the cases lie on both sides of each condition.
"""

import numpy as np
import pytest
from graph_builder import bits_for
from random_graphs import Builder

from picojoule.core import kinds
from picojoule.core.kinds import Kind
from picojoule.deploy.engine import ISAS, Engine
from picojoule.graph import nodes as g
from picojoule.graph import reference

KINDS = (kinds.binary, kinds.ternary, kinds.integer(4))
# input channels, outputs, (height, width), kernel, stride, dilation, left padding, weight codes
CASES = (
    (3, 64, (4, 8), 3, 1, 1, 1, "sign"),
    (70, 33, (2, 4), 3, 1, 1, 1, "ternary"),
    (8, 128, (3, 6), 3, 1, 1, 1, "sign"),
    (65, 100, (2, 2), 2, 1, 1, 0, "2-bit"),
    (5, 20, (5, 12), 5, 1, 1, 2, "3-bit"),
    (4, 60, (4, 4), 3, 1, 1, 3, "sign"),
    (9, 12, (4, 7), 3, 1, 1, 1, "sign"),
    (9, 90, (5, 9), 3, 2, 1, 1, "2-bit"),
    (6, 30, (6, 12), 3, 1, 2, 2, "sign"),
    (130, 40, (3, 4), 1, 1, 1, 0, "3-bit"),
    (20, 129, (4, 4), 3, 1, 1, 1, "sign"),
    (12, 300, (2, 4), 3, 1, 1, 1, "ternary"),
    # several planes of weights in a vector: 256, 128 and 64 outputs, whole and broken vectors
    (40, 256, (3, 4), 3, 1, 1, 1, "4-bit"),
    (33, 300, (4, 3), 3, 2, 1, 1, "8-bit"),
    (20, 100, (3, 5), 3, 1, 1, 1, "8-bit"),
    (12, 128, (2, 4), 3, 1, 2, 2, "3-bit"),
    (17, 64, (3, 4), 3, 1, 1, 1, "4-bit"),
    (70, 9, (2, 5), 1, 1, 1, 0, "5-bit"),
)
CODES = {"sign": (-1, 1), "ternary": (-1, 0, 1), "2-bit": (-2, -1, 0, 1), "3-bit": tuple(range(-4, 4))}
CODES |= {f"{bits}-bit": tuple(range(-(1 << bits - 1), 1 << bits - 1)) for bits in (4, 5, 8)}


def graph_of(case: tuple, kind: Kind, seed: int) -> tuple[g.Graph, str, str]:
    """Input, convolution, neuron, output; names of the middle two."""
    into, out, (height, width), k, stride, dilation, before, codes = case
    b = Builder(np.random.default_rng(seed), 1 + seed % 3)
    x = b.add(g.Input, (), kind, (into, height, width), b.T)
    span = dilation * (k - 1)
    after = max(0, width * stride - stride + 1 - width + span - before)  # the row keeps its width
    pad, size = (before, after), [(n + before + after - span - 1) // stride + 1 for n in (height, width)]
    weight = b.rng.choice(CODES[codes], (out, into, k, k))
    bias = b.rng.integers(-9, 10, out)
    top = int(np.abs(weight).reshape(out, -1).sum(1).max()) * max(-kind.low, kind.high) + 9
    y = b.add(
        g.Conv, (x,), kinds.fixed(bits_for(-top, top), 0), (out, *size), b.T, weight=b.const(weight, np.int8),
        stride=(stride, stride), dilation=(dilation, dilation), padding=(pad, pad),
        bias=b.const(bias) if b.chance(0.5) else None, coding=g.Coding("int", 8),
    )  # fmt: skip
    z = b.neuron(y)
    b.output(z, "out")
    return b.graph(), y, z


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("case", range(len(CASES)))
def test_every_geometry(case: int, kind: Kind) -> None:
    graph, conv, neuron = graph_of(CASES[case], kind, case)
    entry = graph.inputs[0]
    rng = np.random.default_rng(case)
    for rate in (0.0, 0.15, 1.0):
        shape = (2, entry.edge.steps, *entry.edge.shape)
        x = np.where(rng.random(shape) < rate, rng.integers(kind.low, kind.high + 1, shape), 0).astype(
            np.int8
        )
        wanted = reference.run(graph, {entry.name: x})["out"].numpy()
        for isa in ISAS[1:]:
            fused = set(Engine(graph, isa=isa).kernels(neuron)) & {"rows", "planes", "scalar"}
            for kernel in fused:
                for threads in (1, 3):
                    kernels = {conv: "event_bits", neuron: kernel}
                    found = Engine(graph, isa=isa, kernels=kernels, threads=threads)(x)["out"]
                    np.testing.assert_array_equal(found, wanted, err_msg=f"{isa} {kernel} {rate} {threads}")


@pytest.mark.parametrize("outputs", [40, 200])
def test_counts_beyond_32_bits_of_small_sums(outputs: int) -> None:
    """Codes count from the least one: eight times every spike here, though nearly all weights are zero."""
    b, kind, inputs = Builder(np.random.default_rng(3), 1), kinds.integer(65535), 20000
    x = b.add(g.Input, (), kind, (inputs,), 1)
    weight = np.zeros((outputs, inputs), np.int8)
    weight[:, :2] = b.rng.permuted(np.tile([-8, 7], (outputs, 1)), axis=1)
    y = b.add(
        g.Linear, (x,), kinds.fixed(bits_for(-8 * 65535, 7 * 65535), 0), (outputs,), 1,
        weight=b.const(weight, np.int8), coding=g.Coding("int", 4),
    )  # fmt: skip
    b.output(y, "out")
    graph = b.graph()
    data = np.full((1, 1, inputs), 65535, np.int64)
    data[0, 0, :2] = 40000, 65535
    wanted = reference.run(graph, {graph.inputs[0].name: data})["out"].numpy()
    for isa in ISAS[1:]:
        for kernel in ("event_bits", "static_bits"):
            found = Engine(graph, isa=isa, kernels={y: kernel})(data)["out"]
            np.testing.assert_array_equal(found, wanted, err_msg=f"{isa} {kernel}")


def depthwise(channels: int, bits: int | None, T: int = 2, groups: int | None = None) -> tuple[Builder, str]:
    """Spikes and a convolution of one channel a group."""
    b = Builder(np.random.default_rng(channels), T)
    x = b.add(g.Input, (), kinds.binary, (channels, 4, 4), T)
    codes = (-1, 1) if bits is None else CODES[f"{bits}-bit"]
    into = channels // (groups or channels)
    weight = b.const(b.rng.choice(codes, (channels, into, 3, 3)), np.int8)
    coding = g.Coding("sign", 1) if bits is None else g.Coding("int", bits)
    y = b.add(
        g.Conv, (x,), kinds.fixed(16, 0), (channels, 4, 4), T, weight=weight, groups=groups or channels,
        padding=((1, 1), (1, 1)), coding=coding,
    )  # fmt: skip
    b.output(b.neuron(y), "out")
    return b, y
