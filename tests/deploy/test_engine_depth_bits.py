"""Depthwise convolutions on packed spikes, forced on every geometry, against the reference."""

import numpy as np
import pytest
from graph_builder import bits_for
from random_graphs import Builder
from test_engine_event_bits import CODES, KINDS, depthwise

from picojoule.core import kinds
from picojoule.core.errors import PackError
from picojoule.deploy.engine import ISAS, Engine
from picojoule.graph import nodes as g
from picojoule.graph import reference

# channels, (height, width), kernel, stride, dilation, padding, weight codes
CASES = (
    (64, (4, 8), 3, 1, 1, (1, 1), "sign"),
    (33, (5, 7), 3, 1, 1, (1, 1), "ternary"),
    (100, (3, 6), 3, 1, 1, (1, 1), "4-bit"),
    (128, (4, 5), 3, 2, 1, (1, 1), "8-bit"),
    (300, (3, 4), 3, 1, 1, (0, 2), "4-bit"),
    (256, (4, 4), 3, 1, 2, (2, 2), "2-bit"),
    (10, (6, 9), 5, 1, 1, (2, 2), "8-bit"),
    (130, (7, 3), 7, 1, 1, (3, 3), "3-bit"),
    (20, (8, 8), 4, 3, 1, (0, 1), "8-bit"),
    (1, (3, 3), 1, 1, 1, (0, 0), "sign"),
    (5, (1, 1), 3, 1, 1, (4, 4), "4-bit"),
)


def graph_of(case: tuple, kind: kinds.Kind, seed: int) -> tuple[g.Graph, str, str]:
    """Input, depthwise convolution, neuron, output; names of the middle two."""
    channels, (height, width), k, stride, dilation, padding, codes = case
    b = Builder(np.random.default_rng(seed), 1 + seed % 3)
    x = b.add(g.Input, (), kind, (channels, height, width), b.T)
    span = dilation * (k - 1)
    size = [(n + sum(padding) - span - 1) // stride + 1 for n in (height, width)]
    weight = b.rng.choice(CODES[codes], (channels, 1, k, k))
    bias = b.rng.integers(-9, 10, channels)
    top = int(np.abs(weight).reshape(channels, -1).sum(1).max()) * max(-kind.low, kind.high) + 9
    y = b.add(
        g.Conv, (x,), kinds.fixed(bits_for(-top, top), 0), (channels, *size), b.T,
        weight=b.const(weight, np.int8), groups=channels, stride=(stride, stride),
        dilation=(dilation, dilation), padding=(padding, padding),
        bias=b.const(bias) if b.chance(0.5) else None, coding=g.Coding("int", 8),
    )  # fmt: skip
    z = b.neuron(y)
    b.output(z, "out")
    return b.graph(), y, z


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("case", range(len(CASES)))
def test_every_geometry(case: int, kind: kinds.Kind) -> None:
    graph, conv, neuron = graph_of(CASES[case], kind, case)
    entry = graph.inputs[0]
    rng = np.random.default_rng(case)
    for rate in (0.0, 0.3, 1.0):
        shape = (2, entry.edge.steps, *entry.edge.shape)
        draws = rng.integers(kind.low, kind.high + 1, shape)
        x = np.where(rng.random(shape) < rate, draws, 0).astype(np.int8)
        wanted = reference.run(graph, {entry.name: x})["out"].numpy()
        for isa in ISAS[1:]:
            for kernel in set(Engine(graph, isa=isa).kernels(neuron)) & {"rows", "planes", "scalar"}:
                for threads in (1, 2, 5):
                    kernels = {conv: "depth_bits", neuron: kernel}
                    found = Engine(graph, isa=isa, kernels=kernels, threads=threads)(x)["out"]
                    np.testing.assert_array_equal(found, wanted, err_msg=f"{isa} {kernel} {rate} {threads}")


def test_a_stream_gives_the_same_bits() -> None:
    for seed, kind in enumerate(KINDS):
        graph, conv, _ = graph_of(CASES[2 + seed], kind, 5)
        entry = graph.inputs[0]
        draws = np.random.default_rng(1).integers(
            kind.low, kind.high + 1, (2, entry.edge.steps, *entry.edge.shape)
        )
        x = draws.astype(np.int8)
        for isa in ISAS[1:]:
            engine = Engine(graph, isa=isa, kernels={conv: "depth_bits"})
            stream = engine.stream()
            steps = [stream.step(x[:, t : t + 1])["out"] for t in range(x.shape[1])]
            np.testing.assert_array_equal(np.concatenate(steps, 1), engine(x)["out"])
        empty = engine(x[:0])["out"]
        assert empty.shape == (0, *engine(x)["out"].shape[1:])


def test_the_planner_takes_it_and_refusals_say_why() -> None:
    b, y = depthwise(8, 4)
    row = next(r for r in Engine(b.graph()).info()["nodes"] if r["name"] == y)
    assert row["kernel"] == "depth_bits"
    whole, name = depthwise(8, 4, groups=2)
    with pytest.raises(PackError, match=f"{name}.*depth_bits.*not depthwise"):
        Engine(whole.graph(), kernels={name: "depth_bits"})
    plain = Builder(np.random.default_rng(0), 1)
    x = plain.add(g.Input, (), kinds.fixed(8, 0), (4, 3, 3), 1)
    weight = plain.const(plain.rng.integers(-7, 8, (4, 1, 3, 3)), np.int8)
    edge = kinds.fixed(20, 0)
    conv = plain.add(g.Conv, (x,), edge, (4, 1, 1), 1, weight=weight, groups=4, coding=g.Coding("int", 4))
    plain.output(conv, "out")
    with pytest.raises(PackError, match=f"{conv}.*depth_bits.*no spike counts"):
        Engine(plain.graph(), kernels={conv: "depth_bits"})
