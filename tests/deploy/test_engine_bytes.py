"""Int8 rows of events and dense bytes: sums of any size, and samples that change from one to the other."""

import numpy as np
import pytest
from random_graphs import Builder, random_inputs
from test_engine_calls import same
from test_engine_static import by_boundary, layer, switched, weights

from picojoule.core import kinds
from picojoule.deploy.engine import ISAS, Engine
from picojoule.graph import nodes as g
from picojoule.graph import reference

CASES = [
    # T, kind, channels in and out, weight bits
    (4, kinds.binary, 64, 128, 4),
    (3, kinds.binary, 200, 70, 8),
    (9, kinds.ternary, 33, 200, 8),
    (2, kinds.integer(4), 40, 65, 5),
    (5, kinds.integer(3), 130, 7, 8),
    (1, kinds.binary, 600, 33, 8),  # more events than 16 bits add
]


def ends(b: Builder, shape: tuple[int, ...], bits: int) -> tuple[dict[str, object], np.ndarray]:
    """Weights of the ends of their range, the lowest alone for half of the outputs."""
    top = 1 << bits - 1
    values = b.rng.choice([-top, top - 1], shape)
    values[: shape[0] // 2] = -top
    return {"weight": b.const(values, np.int8), "coding": g.Coding("int", bits)}, values


def layers(
    seed: int, T: int, kind: kinds.Kind, into: int, out: int, bits: int, spiking: bool = True
) -> list[g.Graph]:
    """A convolution of random and of extreme weights, and a neuron after it when `spiking`."""
    graphs = []
    for draw in (weights, ends):
        b = Builder(np.random.default_rng(seed), max(1, T))
        x = b.add(g.Input, (), kind, (into, 6, 5), T)
        b.codes = lambda shape, draw=draw, b=b: draw(b, shape, bits)  # type: ignore[method-assign]
        y = b.conv(x, out, same=seed % 2 == 0)
        b.output(b.neuron(y) if spiking else y, "out")
        graphs.append(b.graph())
    return graphs


def wanted_of(graph: g.Graph, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {key: value.numpy() for key, value in reference.run(graph, inputs).items()}


@pytest.mark.parametrize("case", range(len(CASES)))
def test_rows_and_bytes_equal_the_reference(case: int) -> None:
    for graph in layers(case, *CASES[case]):
        inputs = random_inputs(graph, 2, case)
        wanted = wanted_of(graph, inputs)
        for isa in ISAS[1:]:
            for kernel in ("event_rows", "dense_bytes"):
                for threads in (1, 2, 5):
                    engine = Engine(graph, isa=isa, kernels={"conv1": kernel}, threads=threads)
                    assert same(engine(inputs), wanted), (isa, kernel, threads)


@pytest.mark.parametrize("kind", [kinds.fixed(8, 0), kinds.integer(127), kinds.fixed(5, 0)], ids=str)
@pytest.mark.parametrize("bits", [8, 3])
def test_bytes_of_numbers_equal_the_reference(kind: kinds.Kind, bits: int) -> None:
    """Products of two bytes may pass 16 bits; the largest of all are among them."""
    for steps, channels in ((2, 3), (9, 50), (0, 16)):
        for graph in layers(2 * bits, steps, kind, channels, 37, bits, spiking=False):
            inputs = random_inputs(graph, 2, 1)
            (name,) = inputs
            inputs[name][0] = np.random.default_rng(2).choice([kind.low, kind.high], inputs[name][0].shape)
            wanted = wanted_of(graph, inputs)
            for isa in ISAS[1:]:
                engine = Engine(graph, isa=isa, kernels={"conv1": "dense_bytes"})
                assert same(engine(inputs), wanted), (isa, steps, channels)


def test_a_busy_sample_takes_dense_bytes() -> None:
    graph = layer(3, 4, kinds.binary, 40, 64, 6, 4, same=True)
    rng = np.random.default_rng(0)
    mixed = np.concatenate([(rng.random((2, 4, 40, 6, 6)) < p).astype(np.uint8) for p in (0.1, 0.9, 0.2)])
    oracle = Engine(graph, isa="scalar")(mixed)
    for isa in ISAS[1:]:
        for threads in (1, 2, 5):
            engine = by_boundary(graph, 0.5, "event_rows", isa=isa, threads=threads)
            assert same(engine(mixed), oracle), (isa, threads)
        assert switched(by_boundary(graph, 0.5, "event_rows", isa=isa), mixed) == 2
        stream = by_boundary(graph, 0.5, "event_rows", isa=isa).stream()
        parts = [stream.step(mixed[:, at : at + 2]) for at in (0, 2)]
        for key, value in oracle.items():
            np.testing.assert_array_equal(np.concatenate([p[key] for p in parts], 1), value)


def test_the_stored_rate_chooses_rows_or_bytes() -> None:
    graph = layer(0, 4, kinds.binary, 256, 256, 8, 8, same=True)
    for isa in ISAS[1:]:
        # chosen by its price, dense bytes stay for every sample
        for rate, kernel, other in ((0.02, "event_rows", "dense_bytes"), (0.95, "dense_bytes", "")):
            info = Engine(graph, rates={"input0": [rate]}, isa=isa).info()
            row = next(r for r in info["nodes"] if r["name"] == "conv1")
            if isa == "avx2":
                assert (row["kernel"], row["other"]) == (kernel, other)
            elif isa == "avx512":  # eight bit-planes and bytes of events cost about the same
                assert row["kernel"] in (("event_bits", "event_rows") if rate < 0.5 else ("dense_bytes",))
            elif isa == "generic":  # and multiplies bytes slowly
                assert row["kernel"] not in ("dense_bytes", "dense_rows")
