"""Sums of kernels of few code words by table lookup: sizes of layers, windows, words, spikes, neurons."""

from typing import Any

import numpy as np
import pytest
from random_graphs import Builder, bits_for, random_inputs
from test_engine_calls import same

from picojoule.core import kinds
from picojoule.core.errors import PackError
from picojoule.deploy.engine import ISAS, Engine
from picojoule.graph import nodes as g
from picojoule.graph import reference

NAME = "lookup_words"
Fields = dict[str, Any]
PADDED: Fields = {"padding": ((1, 1), (1, 1))}


def from_book(b: Builder, shape: tuple[int, ...], words: int, high: int = 0) -> tuple[Fields, np.ndarray]:
    """A weight [C_out, C_in, *kernel] of `words` words: signs (high 0), or integers up to +-high."""
    size = (words, int(np.prod(shape[2:])))
    book = b.rng.choice([-1, 1], size) if high == 0 else b.rng.integers(-high, high + 1, size)
    index = b.rng.integers(0, words, shape[:2])
    coding = g.Coding("codebook", max(1, (words - 1).bit_length()), b.const(book, np.int8))
    return {"weight": b.const(index, np.uint8), "coding": coding, "kernel": shape[2:]}, book[index].reshape(
        shape
    )


def conv(b: Builder, x: str, shape: tuple[int, ...], words: int, high: int = 0, **window: Any) -> str:
    """A convolution with a weight of `shape` from a codebook."""
    fields, values = from_book(b, shape, words, high)
    edge, space = b.edge(x), len(shape) - 2
    bias = b.rng.integers(-30, 31, shape[0])
    window = {"stride": (1,) * space, "padding": ((0, 0),) * space, "dilation": (1,) * space} | window
    sizes = [
        (n + sum(pad) - d * (k - 1) - 1) // s + 1
        for n, k, s, pad, d in zip(edge.shape[1:], shape[2:], *(window[key] for key in window))
    ]
    most = int(np.abs(values).sum(tuple(range(1, space + 2))).max()) * edge.kind.high + 30
    return b.add(
        g.Conv, (x,), kinds.fixed(bits_for(-most, most), 0), (shape[0], *sizes), edge.steps,
        bias=b.const(bias), groups=1, **window, **fields,
    )  # fmt: skip


def layer(
    seed: int,
    T: int,
    kind: kinds.Kind,
    side: tuple[int, ...],
    shape: tuple[int, ...],
    words: int,
    high: int,
    **window: Any,
) -> g.Graph:
    """Spikes, a convolution with kernels from a codebook, a neuron; spikes out."""
    b = Builder(np.random.default_rng(seed), T)
    x = b.add(g.Input, (), kind, (shape[1], *side), T)
    b.output(b.neuron(conv(b, x, shape, words, high, **window)), "out")
    return b.graph()


def wanted_of(graph: g.Graph, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {key: value.numpy() for key, value in reference.run(graph, inputs).items()}


CASES = [
    # T, kind, space, weight, words, largest weight (0: signs), window
    (4, kinds.binary, (8, 8), (64, 64, 3, 3), 16, 0, PADDED),
    (1, kinds.binary, (7, 7), (300, 70, 3, 3), 16, 0, PADDED),
    (3, kinds.ternary, (6, 5), (64, 33, 3, 3), 11, 1, PADDED),
    (2, kinds.integer(4), (8, 9), (65, 40, 3, 3), 5, 0, PADDED),
    (6, kinds.integer(7), (5, 9), (96, 16, 3, 3), 16, 2, PADDED),
    (5, kinds.binary, (5, 5), (7, 130, 3, 3), 1, 0, {"stride": (2, 3)}),
    (11, kinds.integer(3), (4, 4), (200, 3, 3, 3), 2, 7, PADDED),
    (2, kinds.ternary, (3, 3), (33, 530, 3, 3), 16, 0, PADDED),
    (4, kinds.binary, (9, 9), (129, 20, 3, 2), 16, 3, {"padding": ((2, 0), (0, 3)), "dilation": (2, 3)}),
    (3, kinds.ternary, (21,), (40, 20, 7), 12, 0, {"padding": ((3, 4),), "stride": (2,), "dilation": (2,)}),
    (4, kinds.integer(2), (4, 3, 5), (31, 6, 2, 2, 2), 16, 7, {"padding": ((0, 1), (1, 1), (2, 0))}),
]  # fmt: skip


@pytest.mark.parametrize("case", range(len(CASES)))
def test_sums_equal_the_reference(case: int) -> None:
    *rest, window = CASES[case]
    graph = layer(case, *rest, **window)
    for seed in (0, 1):
        inputs = random_inputs(graph, 2, seed)
        wanted = wanted_of(graph, inputs)
        for isa in ISAS[1:]:
            assert NAME in Engine(graph, isa=isa).kernels("conv1")
            for threads in (1, 2, 5):
                engine = Engine(graph, isa=isa, kernels={"conv1": NAME}, threads=threads, mode="latency")
                assert same(engine(inputs), wanted), (isa, threads)
        for neuron in {"rows", "scalar", "vector"} & set(Engine(graph).kernels("neuron2")):
            engine = Engine(graph, kernels={"conv1": NAME, "neuron2": neuron})
            assert same(engine(inputs), wanted), neuron


def membranes(reset: str, rounding: str, decay: int) -> g.Graph:
    """Ten steps of neurons with a membrane behind a layer of code words."""
    b = Builder(np.random.default_rng(decay), 10)
    x = b.add(g.Input, (), kinds.binary, (20, 5, 5), 10)
    y = conv(b, x, (70, 20, 3, 3), 16)
    b.output(b.membrane(y, reset, rounding, decay), "out")
    return b.graph()


@pytest.mark.parametrize("reset", ["hard", "soft", "none"])
@pytest.mark.parametrize(("rounding", "decay"), [("floor", 1), ("half_up", 1), ("half_up", 3), ("floor", 4)])
def test_membranes_of_every_reset_and_streams(reset: str, rounding: str, decay: int) -> None:
    """Decays of 1/4 and 1, by shifts, and of 3/4."""
    graph = membranes(reset, rounding, decay)
    inputs = random_inputs(graph, 2, 1)
    wanted = wanted_of(graph, inputs)
    for isa in ISAS[1:]:
        engine = Engine(graph, isa=isa, kernels={"conv1": NAME, "neuron2": "rows"})
        assert same(engine(inputs), wanted), isa
        stream, x = engine.stream(), inputs["input0"]
        parts = [stream.step(x[:, at:until])["out"] for at, until in ((0, 1), (1, 3), (3, 8), (8, 10))]
        np.testing.assert_array_equal(np.concatenate(parts, 1), wanted["out"])


def test_equal_steps_are_summed_once() -> None:
    b = Builder(np.random.default_rng(3), 5)
    x = b.add(g.Input, (), kinds.binary, (12, 6, 6), 0)
    y = conv(b, b.repeat(x), (70, 12, 3, 3), 16, **PADDED)
    b.output(y, "sums")
    b.output(b.neuron(conv(b, b.repeat(x), (40, 12, 3, 3), 7, **PADDED)), "out")
    graph = b.graph()
    names = [node.name for node in graph.nodes if isinstance(node, g.Conv)]
    inputs = random_inputs(graph, 3, 0)
    for isa in ISAS[1:]:
        found = Engine(graph, isa=isa, kernels=dict.fromkeys(names, NAME))(inputs)
        assert same(found, wanted_of(graph, inputs)), isa
    assert (
        Engine(graph, kernels=dict.fromkeys(names, NAME))({"input0": inputs["input0"][:0]})["out"].shape[0]
        == 0
    )


def test_expanded_weights_of_few_kernels_are_words_too() -> None:
    """What counts is how many kernels differ, not how the file stores them; their indices take four bits."""
    b = Builder(np.random.default_rng(0), 2)
    x = b.add(g.Input, (), kinds.binary, (64, 6, 6), 2)
    weight = b.const(b.rng.choice([-1, 1], (128, 64, 2, 2)), np.int8)  # sixteen patterns in all
    coding = g.Coding("sign", 1)
    b.output(b.add(g.Conv, (x,), kinds.fixed(10, 0), (128, 5, 5), 2, weight=weight, coding=coding), "out")
    graph = b.graph()
    engine = Engine(graph, kernels={"conv1": NAME})
    inputs = random_inputs(graph, 2, 0)
    assert same(engine(inputs), wanted_of(graph, inputs))
    row = next(row for row in engine.info()["nodes"] if row["name"] == "conv1")
    assert row["kernel"] == NAME
    assert row["bytes"] < 128 * 64 // 2 + 16 * 16 + 1024


def test_what_does_not_fit_is_refused() -> None:
    refusals = {
        "more than 16 different": layer(0, 1, kinds.binary, (4, 4), (8, 8, 3, 3), 17, 0),
        "spike counts pass 7": layer(0, 1, kinds.integer(8), (4, 4), (8, 8, 3, 3), 16, 0),
        "2 to 9 taps": layer(0, 1, kinds.binary, (4, 4, 4), (8, 8, 3, 3, 3), 16, 0),
        "sums of its kernels pass 8 bits": layer(0, 1, kinds.binary, (4, 4), (8, 8, 3, 3), 16, 15),
        "sums pass 16 bits": layer(0, 1, kinds.integer(7), (3, 3), (3, 600, 3, 3), 16, 0),
        "no spike counts": layer(0, 1, kinds.fixed(6, 0), (4, 4), (8, 8, 3, 3), 16, 0),
    }
    for why, graph in refusals.items():
        assert NAME not in Engine(graph).kernels("conv1")
        with pytest.raises(PackError, match=why):
            Engine(graph, kernels={"conv1": NAME})
    b = Builder(np.random.default_rng(0), 1)
    b.output(b.linear(b.add(g.Input, (), kinds.binary, (48,), 1), 3), "out")
    with pytest.raises(PackError, match="2 to 9 taps"):
        Engine(b.graph(), kernels={"linear1": NAME})


def test_the_planner_takes_it_where_spikes_come_often() -> None:
    """With AVX2, whose other kernels of one-bit weights cost more from about a third of set bits on."""
    if "avx2" not in ISAS:
        pytest.skip("no AVX2 here")
    graph = layer(0, 4, kinds.binary, (16, 16), (128, 128, 3, 3), 16, 0, **PADDED)
    for rate, kernel in ((0.05, "event_bits"), (0.6, NAME)):
        rows = Engine(graph, isa="avx2", rates={"input0": [rate]}).info()["nodes"]
        assert next(row["kernel"] for row in rows if row["name"] == "conv1") == kernel
