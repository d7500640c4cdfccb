"""Bounds are sound on every graph and exact where intervals are; wrong graphs are refused by name."""

from __future__ import annotations

import itertools
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "deploy"))
from golden_graphs import GRAPHS, Maker, inputs
from random_graphs import random_graph, random_inputs

from picojoule.core import kinds
from picojoule.core.errors import FormatError, PackError
from picojoule.deploy.engine import Engine
from picojoule.graph import nodes as g
from picojoule.graph.check import bounds, check_graph, membranes

LARGE = kinds.fixed(40, 0)


def watched(graph: g.Graph) -> g.Graph:
    """The graph with every edge as a further output."""
    extra = tuple(
        g.Output(name=f"watch/{n.name}", inputs=(n.name,), edge=n.edge, key=f"watch/{n.name}")
        for n in graph.nodes
        if not isinstance(n, g.Output)
    )
    return graph.replace(nodes=graph.nodes + extra)


def extremes(graph: g.Graph, data: Any) -> dict[str, tuple[int, int]]:
    found = Engine(watched(graph))(data)
    return {
        key[6:]: (int(v.min()), int(v.max()))
        for key, v in found.items()
        if key.startswith("watch/") and v.size
    }


@pytest.mark.parametrize("start", range(0, 90, 30))
def test_bounds_hold_on_random_graphs(start: int) -> None:
    for seed in range(start, start + 30):
        graph = random_graph(seed)
        declared = bounds(graph)
        check_graph(graph)
        for name, (low, high) in extremes(graph, random_inputs(graph, 3, seed)).items():
            assert declared[name][0] <= low <= high <= declared[name][1], (seed, name)


@pytest.mark.parametrize("name", sorted(GRAPHS))
def test_bounds_hold_on_golden_graphs(name: str) -> None:
    graph = GRAPHS[name]()
    declared = bounds(graph)
    for key, (low, high) in extremes(graph, inputs(graph, 16)).items():
        assert declared[key][0] <= low <= high <= declared[key][1], key


def one(
    cls: type[g.Node],
    kind: kinds.Kind,
    shape: Any,
    out: Any,
    *,
    steps: int = 0,
    wide: Any = LARGE,
    **more: Any,
) -> g.Graph:
    """Input -> node -> Output; arrays among the fields become constants."""
    m = Maker(0)
    m.add(g.Input, "x", "", kind, shape, steps)
    fields = {k: m.const(k, v) if isinstance(v, np.ndarray) else v for k, v in more.items()}
    m.add(cls, "y", "x", wide, out, steps if cls is not g.Readout else 0, **fields)
    m.add(g.Output, "out", "y", wide, out, steps if cls is not g.Readout else 0)
    return m.graph()


RNG = np.random.default_rng(0)
SMALL = kinds.fixed(3, 0)  # -4..3
# Graphs so small that all inputs can be tried: bounds must be reached at both ends.
EXACT = {
    "linear": one(
        g.Linear, SMALL, (3,), (4,), weight=RNG.integers(-7, 8, (4, 3)), bias=RNG.integers(-9, 9, 4),
        coding=g.Coding("int", 4),
    ),
    "conv without padding": one(
        g.Conv, SMALL, (2, 2), (3, 1), weight=RNG.integers(-7, 8, (3, 2, 2)), stride=(1,), padding=((0, 0),),
        dilation=(1,), coding=g.Coding("int", 4),
    ),
    "grouped conv": one(
        g.Conv, kinds.fixed(2, 0), (4, 1), (2, 1), weight=RNG.integers(-7, 8, (2, 2, 1)), stride=(1,),
        padding=((0, 0),), dilation=(1,), groups=2, coding=g.Coding("int", 4),
    ),
    "affine floor": one(
        g.Affine, SMALL, (3,), (3,), gain=np.array([5, -3, 0]), bias=np.array([1, -2, 7]), shift=2,
        rounding="floor",
    ),
    "affine half up": one(
        g.Affine, SMALL, (3,), (3,), gain=np.array([5, -3, 0]), bias=np.array([1, -2, 7]), shift=2
    ),
    "lut": one(g.Lut, SMALL, (1,), (1,), breaks=np.array([-3, 0, 2, 9]), values=np.array([5, -1, 3, 2, 99])),
    "mean": one(g.Mean, SMALL, (2, 2), (2,), axes=(1,), total=True),
    "sum pool": one(g.Pool, SMALL, (1, 3), (1, 2), mode="sum", kernel=(2,), stride=(1,), padding=((0, 0),)),
    "pad": one(g.Reshape, kinds.integer(3), (2,), (4,), moves=(("pad", ((1, 1),)),)),
    "mix": one(
        g.TimeMix, kinds.fixed(2, 0), (1,), (1,), steps=3,
        matrix=np.array([[1, 0, 0], [-2, 3, 0], [1, 1, -1]]),
    ),
    "readout": one(g.Readout, kinds.fixed(2, 0), (2,), (2,), steps=2, mode="sum"),
}  # fmt: skip


@pytest.mark.parametrize("case", EXACT)
def test_bounds_are_reached(case: str) -> None:
    graph = EXACT[case]
    node = graph.inputs[0]
    size = node.edge.size * max(1, node.edge.steps)
    values = range(node.edge.kind.low, node.edge.kind.high + 1)
    every = np.array(list(itertools.product(values, repeat=size)), np.int64)
    rows = ((node.edge.steps,) if node.edge.steps else ()) + node.edge.shape
    found = Engine(graph)(every.reshape(-1, *rows))["out"]
    assert bounds(graph)["y"] == (found.min(), found.max())


NEURONS: dict[str, dict[str, Any]] = {
    "soft leak": {"decay": 3, "decay_shift": 2, "reset_value": 5, "thresholds": [5]},
    "half up": {"decay": 3, "decay_shift": 2, "reset_value": 5, "thresholds": [5], "rounding": "half_up"},
    "hard": {"decay": 1, "decay_shift": 1, "reset_value": -1, "thresholds": [4], "reset": "hard"},
    "negative gain": {
        "gain": -3,
        "decay": 1,
        "decay_shift": 1,
        "reset_value": 2,
        "thresholds": [4],
        "bias": 1,
    },
    "no reset": {"decay": 1, "reset": "none", "thresholds": [3]},
    "table": {
        "decay": 1,
        "reset_value": 4,
        "thresholds": [4],
        "breaks": [-2, 0, 2],
        "values": [-3, -1, 1, 3],
    },
    "levels": {
        "decay": 1,
        "decay_shift": 1,
        "reset_value": 2,
        "thresholds": [2, 4, 6],
        "kind": kinds.integer(3),
    },
    "ternary": {"decay": 1, "reset_value": 3, "thresholds": [3], "neg_threshold": -3, "kind": kinds.ternary},
    "starts high": {"decay": 1, "reset_value": 3, "thresholds": [3], "v_init": 9},
}


def neuron(case: str, steps: int) -> g.Graph:
    fields = dict(NEURONS[case])
    m = Maker(0)
    m.add(g.Input, "x", "", kinds.fixed(3, 0), (1,), steps)
    kind = fields.pop("kind", kinds.binary)
    thresholds = np.array(fields.pop("thresholds")).reshape(-1, 1, 1)
    planes = ("decay", "gain", "bias", "reset_value", "v_init", "neg_threshold")
    given = {k: m.const(k, [[v]]) for k, v in fields.items() if k in planes}
    given |= {k: m.const(k, v) for k, v in fields.items() if k in ("breaks", "values")}
    rest = {k: v for k, v in fields.items() if k not in given}
    m.add(
        g.Neuron, "n", "x", kind, (1,), steps, thresholds=m.const("th", thresholds),
        strict=(False,) * len(thresholds),        **given, **rest,
    )  # fmt: skip
    m.add(g.Output, "out", "n", kind, (1,), steps)
    return m.graph()


def simulate(case: str, steps: int) -> tuple[int, int]:
    """Smallest and largest h or v over all input sequences, by the equation itself."""
    f = {"decay": 0, "gain": 1, "bias": 0, "reset_value": 0, "v_init": 0, "decay_shift": 0} | NEURONS[case]
    reached, ends = {f["v_init"]}, [f["v_init"]]
    for _ in range(steps):
        after = set()
        for v, x in itertools.product(reached, range(-4, 4)):
            leak = f["decay"] * v
            if f.get("rounding") == "half_up" and f["decay_shift"]:
                leak += 1 << (f["decay_shift"] - 1)
            h = (leak >> f["decay_shift"]) + f["gain"] * x + f["bias"]
            n = sum(h >= th for th in f["thresholds"]) - ("neg_threshold" in f and h <= f["neg_threshold"])
            mode = f.get("reset", "soft")
            v = (
                f["reset_value"]
                if mode == "hard" and n
                else h - n * f["reset_value"]
                if mode == "soft"
                else h
            )
            ends += [h, v]
            if "values" in f:
                v = f["values"][sum(v >= b for b in f["breaks"])]
            after.add(v)
            ends.append(v)
        reached = after
    return min(ends), max(ends)


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("case", NEURONS)
def test_membrane_bounds_against_all_sequences(case: str, steps: int) -> None:
    low, high = membranes(neuron(case, steps))["n"]
    least, most = simulate(case, steps)
    assert low <= least, "sound"
    assert high >= most, "sound"
    # dense integer membranes have no gaps that intervals could lose, so the bounds are the true ends
    if case not in ("negative gain", "table", "levels"):
        assert (low, high) == (least, most)


def test_v_bits_is_the_first_that_fits() -> None:
    graph = neuron("soft leak", 5)
    low, high = membranes(graph)["n"]
    bits = max(int(max(-low - 1, high)).bit_length() + 1, 1)
    nodes = {
        b: tuple(replace(n, v_bits=b) if n.name == "n" else n for n in graph.nodes) for b in (bits, bits - 1)
    }
    check_graph(graph.replace(nodes=nodes[bits]))
    with pytest.raises(PackError, match="'v_bits'"):
        check_graph(graph.replace(nodes=nodes[bits - 1]))


def test_many_steps_stay_sound_and_fast() -> None:
    """A leakless membrane over 20,000 steps: bounded without stepping through them."""
    graph = neuron("no reset", 20_000)
    low, high = membranes(graph)["n"]
    assert low <= -4 * 20_000
    assert high >= 3 * 20_000
    grows = {"decay": 3, "decay_shift": 1, "reset": "none", "thresholds": [3]}
    NEURONS["grows"] = grows
    try:
        with pytest.raises(PackError, match="62 bits"):
            membranes(neuron("grows", 20_000))
    finally:
        del NEURONS["grows"]


def test_settled_membrane_is_exact_after_many_steps() -> None:
    """A leak settles: T = 5,000 has the bounds of T = 60."""
    assert membranes(neuron("hard", 5_000)) == membranes(neuron("hard", 60))


def test_channels_keep_their_bounds() -> None:
    """Per channel: one wide channel does not widen the others through a permute and an affine."""
    m = Maker(0)
    m.add(g.Input, "x", "", SMALL, (2, 3), 0)
    m.const("gain", [100, 1])
    m.const("bias", [0, 0])
    m.add(g.Affine, "a", "x", LARGE, (2, 3), 0, gain="gain", bias="bias")
    m.add(g.Reshape, "p", "a", LARGE, (3, 2), 0, moves=(("permute", (1, 0)),))
    m.const("back", [1, 100])
    m.add(g.Affine, "b", "p", LARGE, (3, 2), 0, gain="back", bias="bias", axis=-1)
    m.add(g.Output, "out", "b", LARGE, (3, 2), 0)
    assert bounds(m.graph())["b"] == (-400, 300)


def test_scan_states_settle_or_are_refused() -> None:
    def cell(kind: kinds.Kind, steps: int) -> g.Graph:
        m = Maker(0)
        m.add(g.Input, "x", "", kinds.binary, (1,), 0)
        m.add(g.Input, "state0", "", kind, (1,), 0)
        m.add(g.Add, "s", "x state0", kind, (1,), 0)
        m.add(g.Output, "y", "s", kind, (1,), 0, key="y")
        m.add(g.Output, "n", "s", kind, (1,), 0, key="state0")
        out = Maker(0)
        out.add(g.Input, "x", "", kinds.binary, (1,), steps)
        out.add(g.Scan, "scan", "x", kind, (1,), steps, body=m.graph())
        out.add(g.Output, "out", "scan", kind, (1,), steps)
        return out.graph()

    assert bounds(cell(kinds.fixed(8, 0), 20))["scan"] == (0, 20)
    with pytest.raises(PackError, match=r"'s'.*kind"):
        bounds(cell(kinds.fixed(4, 0), 20))


def test_errors_name_node_and_field_in_the_wanted_class() -> None:
    graph = GRAPHS["residual"]()
    wrong = graph.replace(
        nodes=tuple(
            replace(n, edge=replace(n.edge, shape=(4, 6, 7))) if n.name == "norm" else n for n in graph.nodes
        )
    )
    with pytest.raises(PackError, match=r"'norm' \(Affine\).*'shape'"):
        check_graph(wrong)
    with pytest.raises(FormatError, match=r"'norm' \(Affine\).*'shape'"):
        check_graph(wrong, error=FormatError)
    with pytest.raises(PackError, match="snap it first"):
        check_graph(graph.replace(stage="captured"))
