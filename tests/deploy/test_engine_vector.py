"""Vector kernels on dense rows at the sizes of real layers, against the reference interpreter.

The random graphs of test_engine_random.py are small; here rows are long enough for every width of loop, with
odd ends, ternary and integer inputs, strides, dilation and thresholds that no input or every input reaches.
"""

from typing import Any

import numpy as np
import pytest
from graph_builder import bits_for
from random_graphs import Builder, random_inputs

from picojoule.core import kinds
from picojoule.core.errors import KindError, NonFiniteError
from picojoule.core.kinds import Kind
from picojoule.deploy.engine import ISAS, Engine
from picojoule.graph import nodes as g
from picojoule.graph import reference

KINDS = (
    kinds.binary,
    kinds.ternary,
    kinds.integer(4),
    kinds.integer(7),
    kinds.fixed(9, 0),
    kinds.fixed(20, 0),
)


def check(graph: g.Graph, seed: int, node: str, wanted_kernels: set[str] | None = None) -> None:
    """Every kernel of `node`, every instruction set, one and three threads."""
    inputs = random_inputs(graph, 2, seed)
    wanted = {key: value.numpy() for key, value in reference.run(graph, inputs).items()}
    kernels = Engine(graph).kernels(node)
    assert wanted_kernels is None or wanted_kernels <= set(kernels)
    for isa in ISAS[1:]:
        for kernel in kernels:
            for threads in (1, 3):
                found = Engine(graph, isa=isa, kernels={node: kernel}, threads=threads)(inputs)
                for key, value in wanted.items():
                    np.testing.assert_array_equal(found[key], value, err_msg=f"{isa} {kernel} {seed}")


def entry(b: Builder, kind: Kind, shape: tuple[int, ...], steps: int) -> str:
    return b.add(g.Input, (), kind, shape, steps)


def finish(b: Builder, x: str) -> g.Graph:
    b.output(x, "out")
    return b.graph()


@pytest.mark.parametrize("seed", range(24))
def test_depthwise_and_grouped_convolutions(seed: int) -> None:
    b = Builder(np.random.default_rng(seed), 1 + seed % 2)
    groups, side = b.pick(8, 24, 48), b.pick(4, 7, 8, 14, 28)
    into, out = groups * b.pick(1, 1, 2), groups * b.pick(1, 1, 2)
    k, s, d = b.pick(1, 3, 3, 5, 7), b.pick(1, 1, 2, 3), b.pick(1, 1, 2)
    pad = (d * (k - 1) // 2, b.pick(d * (k - 1) // 2, d * (k - 1)))
    size = (side + sum(pad) - d * (k - 1) - 1) // s + 1
    kind = KINDS[seed % len(KINDS)]
    x = entry(b, kind, (into, side, side), b.T)
    bits = b.pick(1, 4, 8)
    weight = (
        b.rng.choice([-1, 1], (out, into // groups, k, k))
        if bits == 1
        else b.rng.integers(-(1 << (bits - 1)), 1 << (bits - 1), (out, into // groups, k, k))
    )
    bias = b.rng.integers(-90, 91, out)
    top = int(np.abs(weight).reshape(out, -1).sum(1).max()) * max(-kind.low, kind.high) + 90
    y = b.add(
        g.Conv, (x,), kinds.fixed(bits_for(-top, top), 0), (out, size, size), b.T, groups=groups,
        bias=b.const(bias) if b.chance(0.5) else None, stride=(s, s), dilation=(d, d), padding=(pad, pad),
        weight=b.const(weight, np.int8), coding=g.Coding("sign" if bits == 1 else "int", bits),
    )  # fmt: skip
    check(finish(b, y), seed, y, {"scalar", "vector"})


@pytest.mark.parametrize("seed", range(18))
def test_dense_convolutions_and_their_neurons(seed: int) -> None:
    """All kernels of a convolution, packed and dense inputs, alone and with the neuron that follows."""
    b = Builder(np.random.default_rng(100 + seed), 1 + seed % 3)
    kind = (kinds.binary, kinds.ternary, kinds.integer(4), kinds.fixed(4, 2), kinds.fixed(8, 0))[seed % 5]
    side, into, out = b.pick(4, 7, 8, 14), b.pick(1, 3, 24, 48, 70), b.pick(10, 24, 48, 130)
    k, s, d = b.pick(1, 3, 3, 5), b.pick(1, 1, 2), b.pick(1, 1, 2)
    pad = (d * (k - 1) // 2, b.pick(0, d * (k - 1) // 2 + 1))
    size = (side + sum(pad) - d * (k - 1) - 1) // s + 1
    x = entry(b, kind, (into, side, side), b.T)
    if kind.is_spikes and b.chance(0.5):  # spikes that are packed when they arrive
        eye = np.eye(into, dtype=np.int8).reshape(into, into, 1, 1)
        wide = kinds.fixed(4, 0)
        same = (into, side, side)
        y = b.add(
            g.Conv, (x,), wide, same, b.T, weight=b.const(eye, np.int8), coding=g.Coding("int", 2)
        )  # fmt: skip
        x = b.neuron(y, kind=kinds.integer(3))
        kind = kinds.integer(3)
    weight = b.rng.choice([-1, 1], (out, into, k, k)) * b.pick(1, 1, b.rng.integers(0, 4, (out, into, k, k)))
    top = int(np.abs(weight).reshape(out, -1).sum(1).max()) * max(-kind.low, kind.high) + 9
    y = b.add(
        g.Conv, (x,), kinds.fixed(bits_for(-top, top), 0), (out, size, size), b.T, stride=(s, s),
        dilation=(d, d), padding=(pad, pad), bias=b.const(b.rng.integers(-9, 10, out)),
        weight=b.const(weight, np.int8), coding=g.Coding("int", 4),
    )  # fmt: skip
    z = b.neuron(y)
    graph = finish(b, z)
    check(graph, seed, y, {"scalar", "dense_bytes"} if top * (kind.high - kind.low) < 16000 else None)
    check(graph, seed, z)


@pytest.mark.parametrize("seed", range(40))
def test_neurons_on_long_rows(seed: int) -> None:
    """With and without memory, per-channel gains of both signs and zero, levels out of reach."""
    rng = np.random.default_rng(seed)
    b = Builder(rng, b_steps := (1, 1, 1, 3)[seed % 4])
    kind = KINDS[seed % len(KINDS)]
    C, last = b.pick(5, 24, 48, 96), b.chance(0.3)
    shape = (b.pick(9, 33), C) if last else (C, b.pick(3, 8, 13), b.pick(4, 11))
    x = entry(b, kind, shape, b_steps)
    fires = b.pick(kinds.binary, kinds.ternary, kinds.integer(2), kinds.integer(4), kinds.integer(9))
    levels = fires.levels if fires.name == "integer" else 1
    top, gain = max(-kind.low, kind.high), rng.integers(-3, 4, (1, C))
    reach = top * 3 + 6
    thresholds = np.sort(rng.integers(-2 * reach, 2 * reach, (levels, 1, b.pick(1, C))), 0)
    near = rng.random(thresholds.shape) < 0.7
    thresholds = np.sort(np.where(near, rng.integers(-4, top + 3, thresholds.shape), thresholds), 0)
    shift, steady = int(rng.integers(0, 3)), b.chance(0.7)
    decay = (
        np.zeros((1, 1))
        if b.chance(0.4)
        else rng.integers(0, (1 << shift) + 1, (1 if steady else b_steps, C))
    )
    name = b.add(
        g.Neuron, (x,), fires, shape, b_steps, axis=-1 if last else 0, op="lif",
        reset=b.pick("hard", "soft", "none"), decay=b.const(decay), gain=b.const(gain),
        bias=b.const(rng.integers(-5, 6, (1, C))),
        thresholds=b.const(thresholds), strict=(False,) * levels,
        neg_threshold=b.const(rng.integers(-top - 3, 1, (1, C))) if fires.name == "ternary" else None,
        reset_value=b.const(rng.integers(-2, 5, (1, C))), v_init=b.const(rng.integers(-4, 5, (1, C))),
        decay_shift=shift, rounding=b.pick("floor", "half_up"), v_bits=40,
    )  # fmt: skip
    check(finish(b, name), seed, name, {"scalar", "vector"})


@pytest.mark.parametrize("seed", range(12))
def test_products_sums_and_affine_rows(seed: int) -> None:
    rng = np.random.default_rng(seed)
    b = Builder(rng, 1 + seed % 2)
    kind, other = KINDS[seed % 5], KINDS[(seed * 7 + 2) % 5]
    lead, m, k, n = b.pick(1, 4), b.pick(1, 16, 24), b.pick(1, 12, 49), b.pick(1, 12, 16, 40)
    a = entry(b, kind, (lead, m, k), b.T)
    c = entry(b, other, (b.pick(1, lead), k, n), b.T)
    y = b.matmul(a, c)
    z = b.add(g.Input, (), kinds.fixed(12, 0), (1, m, 1), b.T)
    total = b.join(y, z)
    scaled = b.affine(total)
    graph = finish(b, scaled)
    for node in (y, total, scaled):
        check(graph, seed, node, {"scalar", "vector"})


@pytest.mark.parametrize("seed", range(12))
def test_pools_and_totals_of_maps(seed: int) -> None:
    b = Builder(np.random.default_rng(seed), 1 + seed % 2)
    kind = KINDS[seed % len(KINDS)]
    x = entry(b, kind, (b.pick(3, 40), b.pick(7, 8), b.pick(8, 13)), b.T)
    y = b.pool(x)
    z = b.total(y, b.pick((1, 2), (-1,), (0, 2)), keepdim=b.chance(0.5))
    graph = finish(b, z)
    check(graph, seed, y, {"scalar", "vector"})
    check(graph, seed, z)


@pytest.mark.parametrize("kind", [kinds.binary, kinds.ternary, kinds.integer(4), kinds.integer(100)], ids=str)
@pytest.mark.parametrize("shape", [(3, 5, 7), (64, 8, 8), (70, 9, 9), (130, 4, 4)], ids=str)
def test_packing_keeps_every_spike(kind: Kind, shape: tuple[int, ...]) -> None:
    """An identity convolution reads the packed words and gives the spikes back."""
    b = Builder(np.random.default_rng(0), 2)
    x = entry(b, kind, shape, 2)
    C = shape[0]
    eye = np.eye(C, dtype=np.int8).reshape(C, C, 1, 1)
    y = b.add(
        g.Conv, (x,), kinds.fixed(9, 0), shape, 2, weight=b.const(eye, np.int8), coding=g.Coding("ternary", 2)
    )
    graph = finish(b, y)
    data = random_inputs(graph, 3, 1)
    for isa in ISAS[1:]:
        found = Engine(graph, isa=isa, kernels={y: "event_rows"})(data)["out"]
        np.testing.assert_array_equal(found, data[x].astype(np.int64))


def test_bad_data_has_an_error_of_its_own() -> None:
    def net(kind: Kind) -> tuple[Engine, str]:
        b = Builder(np.random.default_rng(0), 1)
        x = entry(b, kind, (4,), 0)
        return Engine(finish(b, x)), x

    engine, name = net(kinds.fixed(8, 2))
    for bad in (np.nan, np.inf):
        data: Any = np.array([[0, bad, 0, 0]], np.float32)
        with pytest.raises(NonFiniteError, match=name):
            engine(data)
    engine, name = net(kinds.binary)
    for dtype in (np.float32, np.int64):
        with pytest.raises(KindError, match=name):
            engine(np.array([[0, 1, 2, 0]], dtype))
        with pytest.raises(KindError, match=name):
            engine.stream().step(np.array([[0, 1, -1, 0]], dtype))


@pytest.mark.parametrize("seed", range(10))
def test_mixing_of_steps(seed: int) -> None:
    b = Builder(np.random.default_rng(seed), (1, 4, 7)[seed % 3])
    kind, shape = KINDS[seed % len(KINDS)], ((5, 4, 9), (130,), (33, 2))[seed % 3]
    y = b.timemix(entry(b, kind, shape, b.T))
    check(finish(b, y), seed, y, {"scalar", "vector"})
