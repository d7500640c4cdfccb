"""Numbers beyond 32 bits: channels that never or always fire, long decays, affine rows, sums that wrap."""

from typing import Any

import numpy as np
import pytest
from graph_builder import bits_for
from random_graphs import Builder
from test_engine_vector import check, entry, finish

from picojoule.core import kinds
from picojoule.deploy.engine import Engine
from picojoule.graph import nodes as g


def neuron(b: Builder, x: str, fires: Any, axis: int, decay_shift: int, **constants: Any) -> str:
    edge = b.edge(x)
    named = {key: b.const(value) for key, value in constants.items()}
    return b.add(
        g.Neuron, (x,), fires, edge.shape, edge.steps, axis=axis, op="lif", reset=b.pick("hard", "soft"),
        strict=(False,) * fires.levels, decay_shift=decay_shift, rounding=b.pick("floor", "half_up"),
        v_bits=44, **named,
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(16))
def test_dead_and_constant_channels_cost_no_width(seed: int) -> None:
    """Thresholds and biases of 40 bits in channels that fire never or always, beside ordinary ones."""
    b = Builder(np.random.default_rng(seed), T := b_steps(seed))
    C, last = b.pick(5, 24, 40), seed % 3 == 0
    kind = (kinds.binary, kinds.fixed(9, 0), kinds.integer(4))[seed % 3]
    x = entry(b, kind, (b.pick(7, 33), C) if last else (C, 5, b.pick(4, 9)), T)
    fires = (kinds.binary, kinds.integer(3), kinds.ternary)[seed % 3 if seed < 8 else 0]
    levels = fires.levels
    thresholds = np.sort(b.rng.integers(1, 300, (levels, 1, C)), 0)
    bias = b.rng.integers(-20, 21, (1, C))
    dead, always = b.rng.random(C) < 0.3, b.rng.random(C) < 0.2
    thresholds[:, :, dead] = 1 << 40
    bias[:, dead] = -(1 << b.pick(20, 36))
    thresholds[:, :, always & ~dead] = -(1 << 40)
    more: dict[str, Any] = {}
    if fires.name == "ternary":
        more["neg_threshold"] = np.full((1, C), -(1 << 41))
    y = neuron(
        b, x, fires, -1 if last else 0, 1, decay=np.ones((1, 1)), gain=b.rng.integers(1, 5, (1, 1)),
        bias=bias, thresholds=thresholds, reset_value=b.rng.integers(0, 5, (1, C)),
        v_init=b.rng.integers(-3, 4, (1, C)), **more,
    )  # fmt: skip
    check(finish(b, y), seed, y, {"scalar", "vector"})


def b_steps(seed: int) -> int:
    return (4, 2, 7)[seed % 3]


@pytest.mark.parametrize("seed", range(12))
def test_fused_neurons_with_dead_channels(seed: int) -> None:
    b = Builder(np.random.default_rng(seed), 1 + seed % 4)
    into, out = b.pick(8, 40), b.pick(12, 70, 140)
    x = entry(b, kinds.binary, (into, 6, 5), b.T)
    weight = b.rng.choice([-1, 1], (out, into, 3, 3))
    weight[b.rng.random(out) < 0.3] = 1
    y = b.add(
        g.Conv, (x,), kinds.fixed(bits_for(-into * 9, into * 9), 0), (out, 6, 5), b.T, stride=(1, 1),
        dilation=(1, 1), padding=((1, 1), (1, 1)), weight=b.const(weight, np.int8),
        coding=g.Coding("sign", 1),
    )  # fmt: skip
    thresholds = b.rng.integers(1, 500, (1, 1, out))
    dead, always = b.rng.random(out) < 0.3, b.rng.random(out) < 0.2
    thresholds[..., dead], thresholds[..., always & ~dead] = 1 << 42, -(1 << 42)
    bias = b.rng.integers(-200, 200, (1, out)) << np.where(dead, 24, 0)
    z = neuron(
        b, y, kinds.binary, 0, 1, decay=np.ones((1, 1)), gain=np.full((1, 1), 16), bias=bias,
        thresholds=thresholds, reset_value=np.zeros((1, 1)), v_init=np.zeros((1, 1)),
    )  # fmt: skip
    check(finish(b, z), seed, z, {"scalar", "vector", "rows", "planes"})


@pytest.mark.parametrize("seed", range(12))
def test_long_decays_in_halves(seed: int) -> None:
    """Decays of 8 to 15 fraction bits on membranes of about 30 bits: their product has no room in 32."""
    b = Builder(np.random.default_rng(seed), T := 6)
    shift, C, last = b.pick(8, 12, 15), b.pick(5, 24, 40), seed % 2 == 0
    x = entry(b, kinds.fixed(12, 0), (b.pick(7, 33), C) if last else (C, 5, b.pick(4, 9)), T)
    decay = b.rng.integers(0, (1 << shift) + 1, (1, C))
    decay[0, :2] = 0, 1 << shift
    y = neuron(
        b, x, kinds.binary, -1 if last else 0, shift, decay=decay, gain=b.rng.integers(1, 1 << 13, (1, C)),
        bias=b.rng.integers(-5000, 5001, (1, C)), thresholds=b.rng.integers(1 << 20, 1 << 23, (1, 1, C)),
        reset_value=b.rng.integers(0, 1 << 20, (1, C)), v_init=b.rng.integers(-99, 99, (1, C)),
    )  # fmt: skip
    check(finish(b, y), seed, y, {"scalar", "vector"})


@pytest.mark.parametrize("seed", range(16))
def test_affine_rows_of_every_width(seed: int) -> None:
    b = Builder(np.random.default_rng(seed), 1 + seed % 2)
    C, last = b.pick(5, 24), seed % 2 == 0
    bits, up = (5, 14, 23, 30, 36)[seed % 5], b.pick(4, 12, 16)
    x = entry(b, kinds.fixed(bits, 0), (b.pick(7, 33), C) if last else (C, 3, b.pick(4, 19)), b.T)
    shift = b.pick(0, 7, 16, 24, 32)
    gain = b.rng.integers(-(1 << up), (1 << up) + 1, (C,))
    bias = b.rng.integers(-(1 << 34), 1 << 34, (C,))
    top = ((1 << (bits + up)) + (1 << 35) >> shift) + 1
    edge = b.edge(x)
    y = b.add(
        g.Affine, (x,), kinds.fixed(bits_for(-top, top), 0), edge.shape, edge.steps, axis=-1 if last else 0,
        gain=b.const(gain), bias=b.const(bias), shift=shift, rounding=b.pick("floor", "half_up"),
    )  # fmt: skip
    check(finish(b, y), seed, y, {"scalar", "vector"})


@pytest.mark.parametrize("seed", range(8))
def test_wide_inputs_of_convolutions_and_products(seed: int) -> None:
    """Inputs of 20 to 26 bits, with sums up to 31 and, for the oracle alone, beyond."""
    b = Builder(np.random.default_rng(seed), 1)
    bits, into, out = b.pick(18, 20, 24, 26), b.pick(3, 16, 33), b.pick(5, 24, 40)
    x = entry(b, kinds.fixed(bits, 0), (into, 7, 6), 1)
    k = b.pick(1, 3)
    weight = b.rng.integers(-4, 5, (out, into, k, k))
    top = int(np.abs(weight).reshape(out, -1).sum(1).max()) << (bits - 1)
    s = b.pick(1, 2)
    shape = (out, 6 // s + 1, 5 // s + 1)
    y = b.add(
        g.Conv, (x,), kinds.fixed(bits_for(-top, top), 0), shape, 1, stride=(s, s),
        dilation=(1, 1), padding=((k // 2, k // 2),) * 2, weight=b.const(weight, np.int8),
        coding=g.Coding("int", 4),
    )  # fmt: skip
    graph = finish(b, y)
    check(graph, seed, y, {"scalar", "vector"} if top < 1 << 31 else None)


def test_dead_channels_stay_dead_in_a_stream() -> None:
    b = Builder(np.random.default_rng(3), 3)
    x = entry(b, kinds.binary, (6, 4, 4), 3)
    thresholds = np.full((1, 1, 6), 3)
    thresholds[..., 2] = 1 << 40
    y = neuron(
        b, x, kinds.binary, 0, 1, decay=np.ones((1, 1)), gain=np.full((1, 1), 2), bias=np.zeros((1, 6)),
        thresholds=thresholds, reset_value=np.zeros((1, 1)), v_init=np.zeros((1, 1)),
    )  # fmt: skip
    graph = finish(b, y)
    data = (np.random.default_rng(0).random((2, 40, 6, 4, 4)) < 0.6).astype(np.int8)
    fast, slow = Engine(graph).stream(), Engine(graph, isa="scalar").stream()
    for begin in (0, 7, 8, 20):
        end = {0: 7, 7: 8, 8: 20, 20: 40}[begin]
        found, wanted = (s.step(data[:, begin:end])["out"] for s in (fast, slow))
        np.testing.assert_array_equal(found, wanted)
        assert not found[:, :, 2].any()
        assert found.any()
