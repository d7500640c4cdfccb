"""Grouped convolutions: every kernel on slices that do and do not fill words, against the reference."""

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

KERNELS = (
    "event_bits",
    "static_bits",
    "event_rows",
    "dense_bytes",
    "dense_rows",
    "lookup_bits",
    "dot_bits",
    "lookup_words",
)
# groups, input and output channels of one, (height, width), kernel, stride, dilation, padding, weight codes
CASES = (
    (2, 64, 64, (4, 8), 3, 1, 1, (1, 1), "sign"),  # whole words
    (3, 20, 50, (3, 4), 3, 1, 1, (1, 1), "ternary"),  # slices across words, in and out
    (8, 4, 8, (4, 6), 3, 1, 1, (1, 1), "sign"),  # several groups make a layer
    (5, 13, 1, (3, 5), 1, 2, 1, (0, 1), "4-bit"),  # one output a group
    (12, 1, 3, (5, 4), 3, 1, 2, (2, 2), "2-bit"),  # depthwise with several outputs
    (2, 70, 130, (2, 3), 3, 1, 1, (0, 1), "3-bit"),
    (33, 2, 2, (4, 4), 3, 1, 1, (1, 1), "sign"),
    (4, 32, 48, (1, 1), 1, 1, 1, (0, 0), "sign"),
    (2, 9, 33, (4, 4), 3, 2, 1, (1, 1), "8-bit"),
    (6, 5, 4, (4, 5), 3, 1, 1, (1, 1), "words"),  # sixteen kernels, none of zeros
)


def graph_of(
    case: tuple, kind: kinds.Kind, seed: int, T: int, fired: kinds.Kind | None = None
) -> tuple[g.Graph, str, str]:
    """Input, convolution, neuron, output; names of the middle two."""
    groups, into, out, (height, width), k, stride, dilation, padding, codes = case
    b = Builder(np.random.default_rng(seed), T)
    x = b.add(g.Input, (), kind, (groups * into, height, width), b.T)
    size = [(n + sum(padding) - dilation * (k - 1) - 1) // stride + 1 for n in (height, width)]
    if codes == "words":
        weight = b.rng.choice((-1, 1), (16, k, k))[b.rng.integers(0, 16, (groups * out, into))]
    else:
        weight = b.rng.choice(CODES[codes], (groups * out, into, k, k))
    top = int(np.abs(weight).reshape(groups * out, -1).sum(1).max()) * max(-kind.low, kind.high) + 9
    y = b.add(
        g.Conv, (x,), kinds.fixed(bits_for(-top, top), 0), (groups * out, *size), b.T,
        weight=b.const(weight, np.int8), groups=groups, stride=(stride, stride), padding=(padding, padding),
        dilation=(dilation, dilation), coding=g.Coding("int", 8),
        bias=b.const(b.rng.integers(-9, 10, groups * out)) if b.chance(0.5) else None,
    )  # fmt: skip
    z = b.neuron(y, kind=fired)
    b.output(z, "out")
    return b.graph(), y, z


def spikes(graph: g.Graph, rate: float, batch: int = 2) -> np.ndarray:
    rng, edge = np.random.default_rng(7), graph.inputs[0].edge
    shape = (batch, edge.steps, *edge.shape)
    draws = rng.integers(edge.kind.low, edge.kind.high + 1, shape)
    return np.where(rng.random(shape) < rate, draws, 0).astype(np.int8)


@pytest.mark.parametrize("kind", [*KINDS, kinds.fixed(5, 0)], ids=lambda kind: kind.name)
@pytest.mark.parametrize("case", range(len(CASES)))
def test_every_kernel(case: int, kind: kinds.Kind) -> None:
    graph, conv, neuron = graph_of(CASES[case], kind, case, 1 + 2 * (case % 2))
    met = set[str]()
    for rate in (0.2, 1.0):
        x = spikes(graph, rate)
        wanted = reference.run(graph, {graph.inputs[0].name: x})["out"].numpy()
        for isa in ISAS[1:]:
            able = Engine(graph, isa=isa)
            np.testing.assert_array_equal(able(x)["out"], wanted, err_msg=f"{isa} {rate}")
            for kernel in set(able.kernels(conv)) & set(KERNELS):
                met.add(kernel)
                fused = set(able.kernels(neuron)) & {"rows", "planes", "scalar"}
                if kernel not in ("event_bits", "static_bits"):
                    fused -= {"planes"}
                for finish in fused:
                    kernels = {conv: kernel, neuron: finish}
                    for threads in (1, 3):
                        engine = Engine(graph, isa=isa, kernels=kernels, threads=threads, mode="latency")
                        what = f"{isa} {kernel} {finish} {rate} {threads}"
                        np.testing.assert_array_equal(engine(x)["out"], wanted, err_msg=what)
    if kind.is_spikes:
        assert {"event_bits", "static_bits", "event_rows", "dense_bytes", "dense_rows"} <= met
        assert ("lookup_words" in met) == (CASES[case][-1] == "words")
        assert ("lookup_bits" in met) == (CASES[case][-1] != "8-bit")
    else:
        assert met == {"dense_bytes", "dense_rows"}


@pytest.mark.parametrize("fired", [kinds.binary, kinds.ternary, kinds.integer(3)], ids=lambda kind: kind.name)
@pytest.mark.parametrize("case", range(len(CASES)))
def test_a_stream_gives_the_same_bits(case: int, fired: kinds.Kind) -> None:
    graph, conv, _ = graph_of(CASES[case], kinds.binary, 20 + case, 5, fired)
    x = spikes(graph, 0.3)
    wanted = reference.run(graph, {graph.inputs[0].name: x})["out"].numpy()
    for isa in ISAS[1:]:
        for kernel in ("event_bits", "event_rows"):
            engine = Engine(graph, isa=isa, kernels={conv: kernel})
            stream = engine.stream()
            parts = [stream.step(x[:, at : at + 2])["out"] for at in (0, 2, 4)]
            np.testing.assert_array_equal(np.concatenate(parts, 1), wanted, err_msg=f"{isa} {kernel}")
            assert engine(x[:0])["out"].shape == (0, *wanted.shape[1:])


def test_a_sample_beyond_the_boundary_takes_the_other_kernel() -> None:
    """It counts once, however many layers took it."""
    graph, conv, _ = graph_of(CASES[0], kinds.binary, 1, 3, kinds.binary)
    engine = Engine(graph, tuned={conv: {"kernel": "event_bits", "boundary": 0.4}})
    oracle = Engine(graph, isa="scalar")
    for rate, samples in ((0.1, 0), (0.9, 2)):
        x = spikes(graph, rate)
        assert sum(row["switched"] for row in engine.profile(x)) == samples
        np.testing.assert_array_equal(engine(x)["out"], oracle(x)["out"])


def test_the_planner_counts_events_and_refusals_say_why() -> None:
    graph, conv, _ = graph_of((4, 64, 64, (8, 8), 3, 1, 1, (1, 1), "sign"), kinds.binary, 0, 4, kinds.binary)
    row = next(
        r
        for r in Engine(graph, isa="avx2" if "avx2" in ISAS else ISAS[-1]).info()["nodes"]
        if r["name"] == conv
    )
    assert row["kernel"] == "event_bits"
    assert row["bytes"] < 2 * 4 * 64 * 64 * 9 / 8 * 2  # its rows are no wider than a group
    b, name = depthwise(8, 4)
    with pytest.raises(PackError, match=f"{name}.*event_bits.*depthwise"):
        Engine(b.graph(), kernels={name: "event_bits"})
    with pytest.raises(PackError, match=f"{conv}.*depth_bits.*not depthwise"):
        Engine(graph, kernels={conv: "depth_bits"})
    wide, conv, _ = graph_of((2, 8, 8, (2, 2), 1, 1, 1, (0, 0), "8-bit"), kinds.binary, 0, 1)
    with pytest.raises(PackError, match=f"{conv}.*lookup_bits.*more than 4 bit-planes"):
        Engine(wide, kernels={conv: "lookup_bits"})
