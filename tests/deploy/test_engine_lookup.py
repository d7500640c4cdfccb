"""Sums of few-bit weights by table lookup and as dot products: sizes of layers, all neurons."""

import numpy as np
import pytest
from random_graphs import Builder, random_inputs
from test_engine_calls import same
from test_engine_static import layer, weights

from picojoule.core import kinds
from picojoule.core.errors import PackError
from picojoule.deploy.engine import ISAS, Engine
from picojoule.graph import nodes as g
from picojoule.graph import reference

KERNELS = ("lookup_bits", "dot_bits")

CASES = [
    # T, kind, channels in and out, side, weight bits (0: ternary)
    (4, kinds.binary, 64, 64, 8, 1),
    (1, kinds.binary, 70, 300, 7, 1),
    (3, kinds.ternary, 33, 64, 6, 0),
    (2, kinds.integer(4), 40, 65, 8, 2),
    (1, kinds.integer(7), 16, 96, 9, 4),
    (5, kinds.binary, 130, 7, 5, 3),
    (11, kinds.integer(3), 3, 200, 4, 1),  # more steps than a piece keeps sums of
    (2, kinds.ternary, 530, 33, 3, 1),  # more words than bytes can count
]


@pytest.mark.parametrize("case", range(len(CASES)))
def test_sums_equal_the_reference(case: int) -> None:
    graph = layer(case, *CASES[case])
    for seed in (0, 1):
        inputs = random_inputs(graph, 2, seed)
        wanted = {key: value.numpy() for key, value in reference.run(graph, inputs).items()}
        for isa in ISAS[1:]:
            assert set(KERNELS) <= set(Engine(graph, isa=isa).kernels("conv1"))
            for kernel in KERNELS:
                for threads in (1, 2, 5):
                    engine = Engine(
                        graph, isa=isa, kernels={"conv1": kernel}, threads=threads, mode="latency"
                    )
                    assert same(engine(inputs), wanted), (isa, kernel, threads)
        able = Engine(graph).kernels("neuron2")
        for kernel in KERNELS:
            for neuron in {"rows", "scalar", "vector"} & set(able):
                engine = Engine(graph, kernels={"conv1": kernel, "neuron2": neuron})
                assert same(engine(inputs), wanted), (kernel, neuron)


@pytest.mark.parametrize("reset", ["hard", "soft", "none"])
@pytest.mark.parametrize("rounding", ["floor", "half_up"])
@pytest.mark.parametrize("decay", [1, 3, 4])
def test_membranes_of_every_reset(reset: str, rounding: str, decay: int) -> None:
    """Decays of 1/4, 3/4 and 1; the first and last by shifts."""
    b = Builder(np.random.default_rng(decay), 10)
    b.codes = lambda shape: weights(b, shape, 2)  # type: ignore[method-assign]
    x = b.add(g.Input, (), kinds.binary, (20, 5, 5), 10)
    y = b.conv(x, 70)
    neuron = b.membrane(y, reset, rounding, decay)
    b.output(neuron, "out")
    graph = b.graph()
    inputs = random_inputs(graph, 2, 1)
    wanted = {key: value.numpy() for key, value in reference.run(graph, inputs).items()}
    for isa in ISAS[1:]:
        for kernel in KERNELS:
            engine = Engine(graph, isa=isa, kernels={y: kernel, neuron: "rows"})
            assert same(engine(inputs), wanted), (isa, kernel)
            stream = engine.stream()
            x0 = inputs["input0"]
            parts = [stream.step(x0[:, at : at + 3])["out"] for at in (0, 3, 6, 9)]
            np.testing.assert_array_equal(np.concatenate(parts, 1), wanted["out"])


def test_what_does_not_fit_is_refused() -> None:
    many = layer(0, 1, kinds.integer(8), 8, 8, 4, 1)
    wide = layer(0, 1, kinds.binary, 8, 8, 4, 5)
    for graph, why in ((many, "spike counts pass 7"), (wide, "more than 4 bit-planes")):
        for kernel in KERNELS:
            with pytest.raises(PackError, match=why):
                Engine(graph, kernels={"conv1": kernel})
    b = Builder(np.random.default_rng(0), 1)
    x = b.add(g.Input, (), kinds.integer(7), (4800,), 1)
    b.codes = lambda shape: weights(b, shape, 1)  # type: ignore[method-assign]
    b.output(b.linear(x, 3), "out")
    with pytest.raises(PackError, match="sums pass 16 bits"):
        Engine(b.graph(), kernels={"linear1": "lookup_bits"})
