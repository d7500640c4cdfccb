"""Static bit-sliced counting at the sizes of layers, kernels chosen by the rate of a sample, and modes."""

import pickle

import numpy as np
import pytest
from random_graphs import Builder, random_graph, random_inputs
from test_engine_calls import same, spikes, spiking_conv

from picojoule.core import kinds
from picojoule.core.errors import PackError
from picojoule.deploy.engine import ISAS, Engine
from picojoule.graph import nodes as g
from picojoule.graph import reference


def layer(
    seed: int, T: int, kind: kinds.Kind, into: int, out: int, side: int, bits: int, same: bool = False
) -> g.Graph:
    """Spikes, a convolution with `bits`-bit weights (0: ternary), a neuron; spikes out.

    same: 3x3 with padding, else any window.
    """
    b = Builder(np.random.default_rng(seed), T)
    x = b.add(g.Input, (), kind, (into, side, side), T)
    b.codes = lambda shape: weights(b, shape, bits)  # type: ignore[method-assign]
    b.output(b.neuron(b.conv(x, out, same=same)), "out")
    return b.graph()


def weights(b: Builder, shape: tuple[int, ...], bits: int) -> tuple[dict[str, object], np.ndarray]:
    if bits == 1:
        coding, values = g.Coding("sign", 1), b.rng.choice([-1, 1], shape)
    elif bits == 0:
        coding, values = g.Coding("ternary", 2), b.rng.integers(-1, 2, shape)
    else:
        coding, values = g.Coding("int", bits), b.rng.integers(-(1 << bits - 1), 1 << bits - 1, shape)
    return {"weight": b.const(values, np.int8), "coding": coding}, values


CASES = [
    # T, kind, channels in and out, side, weight bits
    (4, kinds.binary, 64, 128, 9, 1),
    (1, kinds.binary, 70, 300, 7, 1),
    (3, kinds.ternary, 33, 64, 6, 0),
    (2, kinds.integer(4), 40, 65, 8, 2),
    (5, kinds.binary, 130, 7, 5, 3),
    (7, kinds.integer(3), 3, 200, 4, 1),
    (300, kinds.binary, 5, 20, 3, 1),  # more steps than lanes
]


@pytest.mark.parametrize("case", range(len(CASES)))
def test_static_counting_equals_the_reference(case: int) -> None:
    graph = layer(case, *CASES[case])
    for seed in (0, 1):
        inputs = random_inputs(graph, 2, seed)
        wanted = {key: value.numpy() for key, value in reference.run(graph, inputs).items()}
        for isa in ISAS[1:]:
            kernels = Engine(graph, isa=isa).kernels("conv1")
            assert "static_bits" in kernels
            for threads in (1, 2, 5):
                engine = Engine(
                    graph, isa=isa, kernels={"conv1": "static_bits"}, threads=threads, mode="latency"
                )
                assert same(engine(inputs), wanted), (isa, threads)
        able = Engine(graph).kernels("neuron2")
        for neuron in {"rows", "planes", "scalar"} & set(able):
            engine = Engine(graph, kernels={"conv1": "static_bits", "neuron2": neuron})
            assert same(engine(inputs), wanted), neuron


def by_boundary(graph: g.Graph, boundary: float, kernel: str = "event_bits", **options: object) -> Engine:
    return Engine(graph, tuned={"conv1": {"kernel": kernel, "boundary": boundary}}, **options)  # type: ignore[arg-type]


def switched(engine: Engine, x: np.ndarray) -> int:
    return sum(row["switched"] for row in engine.profile(x))


def test_a_sample_beyond_the_boundary_takes_the_other_kernel() -> None:
    graph = spiking_conv()
    rng = np.random.default_rng(0)
    sparse, dense = ((rng.random((3, 4, 8, 6, 6)) < p).astype(np.uint8) for p in (0.1, 0.8))
    mixed = np.concatenate([sparse, dense, sparse])
    oracle = Engine(graph, isa="scalar")
    for isa in ISAS[1:]:
        engine = by_boundary(graph, 0.4, isa=isa)
        assert switched(engine, sparse) == 0
        assert switched(engine, dense) == 3
        assert switched(engine, mixed) == 3
        for threads in (1, 2, 5):
            assert same(by_boundary(graph, 0.4, isa=isa, threads=threads)(mixed), oracle(mixed))
    row = next(r for r in by_boundary(graph, 0.4).info()["nodes"] if r["name"] == "conv1")
    assert (row["kernel"], row["other"], row["boundary"]) == ("event_bits", "static_bits", 0.4)
    assert row["why"] == "measured on this machine"


def test_a_stream_may_change_kernels_between_chunks() -> None:
    """Both kernels keep the membranes in one layout."""
    graph = spiking_conv(T=6)
    rng = np.random.default_rng(1)
    x = np.concatenate([(rng.random((2, 2, 8, 6, 6)) < p).astype(np.uint8) for p in (0.1, 0.9, 0.1)], 1)
    whole = Engine(graph, isa="scalar")(x)["spikes"]
    for isa in ISAS[1:]:
        stream = by_boundary(graph, 0.4, isa=isa).stream()
        parts = [stream.step(x[:, at : at + 2])["spikes"] for at in (0, 2, 4)]
        np.testing.assert_array_equal(np.concatenate(parts, 1), whole)


def test_the_stored_rate_chooses() -> None:
    graph = layer(0, 4, kinds.binary, 256, 256, 8, 1, same=True)
    for rate, kernel in ((0.01, "event_bits"), (0.99, "static_bits")):
        engine = Engine(graph, rates={"input0": [rate]})
        row = next(r for r in engine.info()["nodes"] if r["name"] == "conv1")
        assert row["rate"] == pytest.approx(rate)
        if kernel == "static_bits" and row["kernel"] == "dot_bits":  # cheaper still, where bits are counted
            continue
        assert row["kernel"] == kernel
        assert row["other"] == ("static_bits" if kernel == "event_bits" else "event_bits")
    unknown = next(r for r in Engine(graph).info()["nodes"] if r["name"] == "conv1")
    assert unknown["rate"] is None
    assert "unknown" in unknown["why"]
    asked = Engine(graph, kernels={"conv1": "event_bits"}, rates={"input0": [0.99]}).info()["nodes"]
    row = next(r for r in asked if r["name"] == "conv1")
    assert (row["kernel"], row["boundary"], row["why"]) == ("event_bits", None, "asked for")


def test_a_tuned_kernel_that_cannot_run_is_passed_over() -> None:
    graph = spiking_conv()
    plain = {r["name"]: r["kernel"] for r in Engine(graph).info()["nodes"]}
    for kernel in ("nothing", "packed"):
        engine = Engine(graph, tuned={"conv1": {"kernel": kernel}})
        assert {r["name"]: r["kernel"] for r in engine.info()["nodes"]} == plain
    engine = Engine(graph, tuned={"conv1": {"kernel": "event_rows"}})
    assert {r["name"]: r["kernel"] for r in engine.info()["nodes"]}["conv1"] == "event_rows"
    again = pickle.loads(pickle.dumps(by_boundary(graph, 0.25)))
    assert next(r for r in again.info()["nodes"] if r["name"] == "conv1")["boundary"] == 0.25


@pytest.mark.parametrize("mode", ["auto", "throughput", "latency"])
def test_modes_agree_for_odd_batches(mode: str) -> None:
    for seed in (401, 405, 411):
        graph = random_graph(seed)
        for batch in (0, 1, 3, 7):
            inputs = random_inputs(graph, batch, seed)
            one = Engine(graph)(inputs)
            for threads in (1, 2, 5):
                assert same(Engine(graph, threads=threads, mode=mode)(inputs), one), (seed, batch, threads)


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(PackError, match="auto, throughput or latency"):
        Engine(spiking_conv(), mode="fast")
    assert Engine(spiking_conv(), mode="latency").info()["mode"] == "latency"
    assert same(
        Engine(spiking_conv(), mode="latency", threads=3)(spikes(1, 4)), Engine(spiking_conv())(spikes(1, 4))
    )
