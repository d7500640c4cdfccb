"""Neurons done with their synapse on integers: every leak, reset, spike kind and membrane table, in lanes of
16 and of 32 bits, against the reference interpreter.
"""

from typing import Any

import numpy as np
import pytest
from graph_builder import bits_for
from random_graphs import Builder

from picojoule.core import kinds
from picojoule.core.kinds import Kind
from picojoule.deploy.engine import ISAS, Engine
from picojoule.graph import nodes as g
from picojoule.graph import reference

KINDS = (kinds.binary, kinds.ternary, kinds.integer(3), kinds.integer(6))
RESETS = ("hard", "soft", "none")
CHANNELS = (1, 31, 64, 70, 129, 160)
# name, shift, decays to draw from, rounding
LEAKS = (
    ("none", 4, (0,), "floor"),
    ("whole", 3, (8,), "half_up"),
    ("shift", 2, (2,), "floor"),
    ("shift up", 5, (4,), "half_up"),
    ("product", 4, (0, 1, 7, 8, 9, 15, 16), "floor"),
    ("product up", 7, (0, 1, 63, 64, 65, 127, 128), "half_up"),
    ("fine", 15, (32767, 32768, 20000), "floor"),
    ("fine up", 15, (32767, 32768, 1), "half_up"),
    ("no shift", 0, (0, 1), "half_up"),
)


def draw(
    rng: np.random.Generator, leak: tuple[Any, ...], kind: Kind, reset: str, channels: int, *, wide: bool,
    values: int = 0, moving: bool = False, T: int = 5, alone: bool = False,
) -> tuple[g.Graph, str, str]:  # fmt: skip
    """Spikes, a linear layer of 4-bit weights, a neuron; `wide` scales the membrane past 16 bits.

    `alone`: the neuron reads fixed values."""
    b = Builder(rng, T)
    x = b.add(g.Input, (), kinds.binary, (3, 24), T)
    weight, bias = rng.integers(-8, 8, (channels, 24)), rng.integers(-9, 10, channels)
    top = int(np.abs(weight).sum(1).max()) + 9
    y = b.add(
        g.Linear, (x,), kinds.fixed(bits_for(-top, top), 0), (3, channels), T,
        weight=b.const(weight, np.int8), bias=b.const(bias), coding=g.Coding("int", 4),
    )  # fmt: skip
    if alone:
        b = Builder(rng, T)
        x = y = b.add(g.Input, (), kinds.fixed(8, 0), (3, channels), T)
    up = 9 if wide else 0
    lead = T if moving else 1
    _, shift, decays, rounding = leak
    decay = rng.choice(decays, (1, channels) if len(decays) > 1 else (1, 1))
    gain = (
        rng.choice([1, 1, -1, 2], (1, channels)) << up if wide or rng.random() < 0.5 else np.ones((1, 1), int)
    )
    levels = kind.levels if kind.name == "integer" else 1
    base = rng.integers(1, 20, (1, lead, channels))
    thresholds = np.concatenate([base + 7 * i for i in range(levels)]) << up
    neg = -(rng.integers(1, 20, (lead, channels)) << up) if kind.name == "ternary" else None
    if neg is not None and channels > 30:
        neg[0, :3] = thresholds[0, 0, :3] + 5  # both thresholds passed at once
    table: dict[str, Any] = {}
    if values:
        breaks = np.sort(rng.integers(-60 << up, 60 << up, values - 1))
        table = {
            "breaks": b.const(breaks),
            "values": b.const(np.sort(rng.integers(-40 << up, 40 << up, values))),
        }
    z = b.add(
        g.Neuron, (y,), kind, (3, channels), T, axis=-1, op="lif", reset=reset, decay=b.const(decay),
        gain=b.const(gain), bias=b.const(rng.integers(-5, 6, (lead, channels)) << up),
        thresholds=b.const(thresholds), strict=(False,) * levels,
        neg_threshold=None if neg is None else b.const(neg),
        reset_value=b.const(rng.integers(-3, 20, (1, channels)) << up),
        v_init=b.const(rng.integers(-4, 5, (1, channels))), frac=0, decay_shift=shift, rounding=rounding,
        v_bits=40, **table,
    )  # fmt: skip
    b.output(z, "out")
    return b.graph(), y, z


def check(graph: g.Graph, y: str, z: str, what: str, *, stream: bool = False) -> None:
    """Every instruction set; two kernels that bring sums; 1, 2 and 5 threads; step by step."""
    (entry,) = graph.inputs
    rng = np.random.default_rng(3)
    x = {entry.name: (rng.random((2, entry.edge.steps, *entry.edge.shape)) < 0.4).astype(np.int8)}
    wanted = reference.run(graph, x)["out"].numpy()
    for isa in ISAS[1:]:
        for kernel, threads in (("event_rows", 1), ("dense_bytes", 2), ("event_rows", 5)):
            engine = Engine(graph, isa=isa, kernels={y: kernel, z: "rows"}, threads=threads)
            assert engine.info()["nodes"][-2]["kernel"].endswith("rows")
            np.testing.assert_array_equal(engine(x)["out"], wanted, err_msg=f"{isa} {kernel} {what}")
        if stream:
            state = Engine(graph, isa=isa, kernels={y: "event_rows", z: "rows"}).stream()
            for t in range(entry.edge.steps):
                now = state.step(x[entry.name][:, t : t + 1])["out"]
                np.testing.assert_array_equal(now, wanted[:, t : t + 1], err_msg=f"{isa} stream {what}")


@pytest.mark.parametrize("wide", [False, True], ids=["words", "wide"])
@pytest.mark.parametrize("leak", range(len(LEAKS)), ids=[leak[0] for leak in LEAKS])
def test_every_leak(leak: int, wide: bool) -> None:
    for i, (kind, reset) in enumerate((kind, reset) for kind in KINDS for reset in RESETS):
        rng = np.random.default_rng(100 * leak + i)
        channels = CHANNELS[(i + leak) % len(CHANNELS)]
        graph, y, z = draw(rng, LEAKS[leak], kind, reset, channels, wide=wide, moving=i % 5 == 4)
        check(
            graph,
            y,
            z,
            f"{LEAKS[leak][0]} {kind} {reset} {channels}",
            stream=i % 4 == 1 and LEAKS[leak][0] != "whole",
        )


@pytest.mark.parametrize("wide", [False, True], ids=["words", "wide"])
@pytest.mark.parametrize("values", [1, 2, 32, 33, 64, 65, 250])
def test_membrane_tables(values: int, wide: bool) -> None:
    for i, kind in enumerate(KINDS):
        rng = np.random.default_rng(10 * values + i)
        graph, y, z = draw(
            rng, LEAKS[4 + i % 2], kind, RESETS[i % 3], CHANNELS[i + 2], wide=wide, values=values
        )
        check(graph, y, z, f"{values} values, {kind}", stream=i == 1)


def test_one_step_and_no_samples() -> None:
    for T in (1, 2):
        graph, y, z = draw(np.random.default_rng(T), LEAKS[4], kinds.integer(3), "soft", 70, wide=False, T=T)
        check(graph, y, z, f"T = {T}")
        empty = Engine(graph, kernels={z: "rows"})(np.zeros((0, T, 3, 24), np.int8))["out"]
        assert empty.shape == (0, T, 3, 70)


@pytest.mark.parametrize("values", [1, 40, 250])
def test_membrane_tables_of_neurons_alone(values: int) -> None:
    for i, (kind, wide) in enumerate((kind, wide) for kind in KINDS for wide in (False, True)):
        rng = np.random.default_rng(values + i)
        graph, x, z = draw(
            rng, LEAKS[4], kind, RESETS[i % 3], CHANNELS[i % 6], wide=wide, values=values, alone=True
        )
        data = {x: rng.standard_normal((2, 5, *graph[x].edge.shape)).astype(np.float32) * 60}
        wanted = reference.run(graph, data)["out"].numpy()
        for isa in ISAS[1:]:
            found = Engine(graph, isa=isa, kernels={z: "vector"}, threads=1 + i % 2)(data)["out"]
            np.testing.assert_array_equal(found, wanted, err_msg=f"{isa} {kind} {wide}")
