"""Chains of element-wise nodes in one pass, channel last between convolutions, inputs: like the oracle."""

from typing import Any

import numpy as np
import pytest
from graph_builder import bits_for
from random_graphs import Builder, random_inputs
from test_engine_vector import entry

from picojoule.core import kinds
from picojoule.core.errors import NonFiniteError
from picojoule.deploy.engine import ISAS, Engine
from picojoule.graph import nodes as g
from picojoule.graph import reference

CHANNELS = (1, 3, 8, 24, 64, 70, 600)


def conv(b: Builder, x: str, out: int, k: int) -> str:
    """Same-size convolution with weights of 4 bits."""
    edge = b.edge(x)
    weight = b.rng.integers(-8, 8, (out, edge.shape[0], k, k))
    top = int(np.abs(weight).reshape(out, -1).sum(1).max()) * max(-edge.kind.low, edge.kind.high)
    return b.add(
        g.Conv, (x,), kinds.fixed(bits_for(-top, top), 0), (out, *edge.shape[1:]), edge.steps,
        padding=((k // 2, k // 2),) * 2, weight=b.const(weight, np.int8), coding=g.Coding("int", 4),
    )  # fmt: skip


def scaled(b: Builder, x: str) -> str:
    """Affine row by channel; one in three needs products of 64 bits."""
    edge = b.edge(x)
    C, shift = edge.shape[0], b.pick(4, 10, 31)
    gain, bias = b.rng.integers(-(1 << shift), 1 << shift, C), b.rng.integers(-(1 << shift), 1 << shift, C)
    top = max(-edge.kind.low, edge.kind.high) + 2
    return b.add(
        g.Affine, (x,), kinds.fixed(bits_for(-top, top), 0), edge.shape, edge.steps, axis=0, shift=shift,
        gain=b.const(gain), bias=b.const(bias), rounding=b.pick("floor", "half_up"),
    )  # fmt: skip


def neuron(b: Builder, x: str, fires: Any) -> str:
    """Constants that do not change with time, the same for all channels or not."""
    edge = b.edge(x)
    C, levels = edge.shape[0], fires.levels
    top = max(2, max(-edge.kind.low, edge.kind.high) // 4)

    def row(low: int, high: int) -> np.ndarray:
        return b.rng.integers(low, high, (1, b.pick(1, C)))

    return b.add(
        g.Neuron, (x,), fires, edge.shape, edge.steps, axis=0, op="lif", reset=b.pick("hard", "soft", "none"),
        strict=(False,) * levels, decay=b.const(row(0, 5)), decay_shift=2, gain=b.const(row(-2, 3)),
        bias=b.const(row(-9, 9)), thresholds=b.const(np.sort(b.rng.integers(-top, top, (levels, 1, C)), 0)),
        neg_threshold=b.const(row(-top, 0)) if fires.name == "ternary" else None,
        reset_value=b.const(row(0, top)), v_init=b.const(row(-3, 4)), rounding=b.pick("floor", "half_up"),
        v_bits=40,
    )  # fmt: skip


def residual(seed: int) -> tuple[g.Graph, list[str]]:
    """Conv -> affine -> sum with an earlier stream -> neuron -> conv, spikes and sums also read elsewhere."""
    b = Builder(np.random.default_rng(seed), (1, 2, 4)[seed % 3])
    C, side = CHANNELS[seed % len(CHANNELS)], b.pick(3, 5)
    fires = (kinds.binary, kinds.ternary, kinds.integer(3), kinds.integer(4))[seed % 4]
    x = entry(b, kinds.integer(2), (b.pick(2, 5), side, side + 1), b.T)
    stream = scaled(b, conv(b, x, C, 1))
    chained = [stream]
    for _ in range(2):
        spikes = neuron(b, stream, fires)
        branch = scaled(b, conv(b, spikes, C, 3 if C < 100 else 1))
        stream = b.join(stream, branch)
        chained += [spikes, branch, stream]
    last = neuron(b, stream, fires)
    b.output(b.total(last, (1, 2)), "total")
    b.output(stream, "stream")
    b.output(chained[1], "spikes")
    return b.graph(), [*chained, last]


@pytest.mark.parametrize("seed", range(14))
def test_residual_streams(seed: int) -> None:
    graph, chained = residual(seed)
    inputs = random_inputs(graph, 2, seed)
    wanted = {key: value.numpy() for key, value in reference.run(graph, inputs).items()}
    small = all(n.edge.kind.high < 1 << 31 for n in graph.nodes)
    for isa in ISAS[1:]:
        ran = {row["name"]: row["kernel"] for row in Engine(graph, isa=isa).info()["nodes"]}
        if small:
            assert {ran[name] for name in chained} <= {"block", "rows", "planes"}
            assert [ran[name] for name in chained].count("block") > 4
        for threads in (1, 2, 5):
            found = Engine(graph, isa=isa, threads=threads)(inputs)
            for key, value in wanted.items():
                np.testing.assert_array_equal(found[key], value, err_msg=f"{isa} {threads} {key}")
        stream = Engine(graph, isa=isa).stream()
        T = max(node.edge.steps for node in graph.nodes)
        steps = [stream.step({k: v[:, t : t + 1] for k, v in inputs.items()}) for t in range(T)]
        found_spikes = np.concatenate([step["spikes"] for step in steps], 1)
        np.testing.assert_array_equal(found_spikes, wanted["spikes"], err_msg=isa)


@pytest.mark.parametrize("frac", [0, 4, 12])
@pytest.mark.parametrize("reader", [False, True], ids=["rows", "convolution"])
def test_numbers_enter_rounded_half_up(frac: int, reader: bool) -> None:
    """Halves, their neighbours, tiny and huge numbers, in every element type, for rows and convolutions."""
    b = Builder(np.random.default_rng(frac), 1)
    kind = kinds.fixed(15, frac)
    shape = (3, 5, 19)
    x = entry(b, kind, shape, 0)
    if reader:
        eye = np.eye(3, dtype=np.int8).reshape(3, 3, 1, 1)
        y = b.add(g.Conv, (x,), kind, shape, 0, weight=b.const(eye, np.int8), coding=g.Coding("int", 2))
    b.output(y if reader else x, "out")
    graph = b.graph()
    rng = np.random.default_rng(frac)
    halves = (rng.integers(-(1 << 14) - 9, (1 << 14) + 9, shape) + rng.choice([0, 0.5], shape)) * 2.0**-frac
    odd = [0.0, -0.0, 1e-30, -1e-30, 1e-42, 3e38, -3e38, 0.49999997, -0.49999997, -0.50000006]
    values = np.nextafter(halves, rng.choice([-1e9, 1e9], shape)).astype(np.float32)
    values.ravel()[: len(odd)] = odd
    values.ravel()[100:200] = halves.ravel()[100:200]
    wanted = np.clip(np.floor(values.astype(np.float64) * 2.0**frac + 0.5), kind.low, kind.high)
    for isa in ISAS:
        engine = Engine(graph, isa=isa)
        for dtype in (np.float32, np.float64):
            np.testing.assert_array_equal(engine(values[None].astype(dtype))["out"][0], wanted, err_msg=isa)
        for bad in (np.nan, np.inf, -np.inf):
            spoiled = values.copy()
            spoiled[2, 4, 18] = bad
            with pytest.raises(NonFiniteError):
                engine(spoiled[None])


@pytest.mark.parametrize("shape", [(3, 9, 7), (1, 4, 4), (5, 3, 1)], ids=str)
def test_bytes_enter_by_table(shape: tuple[int, ...]) -> None:
    for axis, bits in ((0, 15), (1, 7), (2, 20)):
        b = Builder(np.random.default_rng(axis), 1)
        rows = b.pick(1, shape[axis])
        table = b.rng.integers(-(1 << (bits - 1)), 1 << (bits - 1), (rows, 256))
        x = b.add(g.Input, (), kinds.fixed(bits, 0), shape, 0, table=b.const(table), axis=axis)
        b.output(conv(b, x, 4, 1), "sums")
        b.output(x, "out")
        graph = b.graph()
        inputs = {x: b.rng.integers(0, 256, (2, *shape)).astype(np.uint8)}
        wanted = {key: value.numpy() for key, value in reference.run(graph, inputs).items()}
        for isa in ISAS:
            found = Engine(graph, isa=isa)(inputs)
            for key, value in wanted.items():
                np.testing.assert_array_equal(found[key], value, err_msg=f"{isa} axis {axis} {key}")


@pytest.mark.parametrize("seed", range(6))
def test_sums_beyond_32_bits_of_two_pieces(seed: int) -> None:
    b = Builder(np.random.default_rng(seed), 1 + seed % 2)
    side, out = b.pick(3, 6), b.pick(5, 24, 40)
    x = entry(b, kinds.fixed(31, 0), (b.pick(3, 70), side, side), b.T)
    y = conv(b, x, out, b.pick(1, 3))
    b.output(y, "out")
    graph = b.graph()
    data = np.random.default_rng(seed).integers(-(1 << 30), 1 << 30, (2, b.T, *b.edge(x).shape))
    wanted = reference.run(graph, {x: data})["out"].numpy()
    for isa in ISAS[1:]:
        assert "dense_rows" in Engine(graph, isa=isa).kernels(y)
        for threads in (1, 5):
            found = Engine(graph, isa=isa, kernels={y: "dense_rows"}, threads=threads)({x: data})["out"]
            np.testing.assert_array_equal(found, wanted, err_msg=isa)
