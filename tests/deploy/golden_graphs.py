"""Four hand-made snapped graphs that pin the packed format; `python tests/deploy/golden_graphs.py` rewrites
golden/*.pj and the expected outputs. Only a new format version may change them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from picojoule.core import kinds
from picojoule.graph import nodes as g

GOLDEN = Path(__file__).with_name("golden")
WIDE = kinds.fixed(24, 0)


class Maker:
    """Collects nodes and constants; constants come from one seeded generator."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[g.Node] = []
        self.tensors: dict[str, np.ndarray] = {}

    def const(self, name: str, value: Any) -> str:
        self.tensors[name] = np.asarray(value)
        return name

    def add(
        self, cls: type[g.Node], name: str, reads: str, kind: kinds.Kind, shape: Any, steps: int, **more: Any
    ) -> str:
        edge = g.Edge(kind, tuple(shape), steps)
        if cls is g.Neuron:  # what the caller leaves out is a neuron at rest without leak, bias or reset
            rest = {"decay": 0, "gain": 1, "bias": 0, "reset_value": 0, "v_init": 0}
            more = {key: self.const(f"{name}.{key}", [[rest[key]]]) for key in rest if key not in more} | more
        self.nodes.append(cls(name=name, inputs=tuple(reads.split()), edge=edge, **more))
        return name

    def signs(self, name: str, *shape: int) -> dict[str, Any]:
        weight = self.const(name, self.rng.choice(np.array([-1, 1], np.int8), shape))
        return {"weight": weight, "coding": g.Coding("sign", 1)}

    def graph(self) -> g.Graph:
        return g.Graph(tuple(self.nodes), self.tensors, stage="snapped")


def conv_lif() -> g.Graph:
    """Bytes through a table, two 1-bit convs with leaky neurons, max pooling, a 4-bit head."""
    m, pads = Maker(1), ((1, 1), (1, 1))
    m.const("pixels", (np.arange(256) - 128)[None].repeat(2, 0) * np.array([[1], [-3]]))
    m.add(g.Input, "x", "", kinds.fixed(10, 4), (2, 8, 8), 0, table="pixels")
    m.add(
        g.Conv, "conv1", "x", WIDE, (6, 8, 8), 0, padding=pads, module="stem.0", **m.signs("w1", 6, 2, 3, 3)
    )
    m.add(g.Repeat, "repeat", "conv1", WIDE, (6, 8, 8), 4)
    m.const("half", [[1]])
    m.const("th1", m.rng.integers(100, 900, (1, 1, 6)))
    m.const("b1", m.rng.integers(-200, 200, (1, 6)))
    m.const("zero", [[0]])
    m.const("unit", np.linspace(0.5, 3.0, 6)[None] / 3)
    m.add(
        g.Neuron, "lif1", "repeat", kinds.binary, (6, 8, 8), 4, reset="hard", decay="half", decay_shift=1,
        bias="b1", thresholds="th1", reset_value="zero", unit="unit", v_bits=16,
    )  # fmt: skip
    m.add(
        g.Conv, "conv2", "lif1", kinds.fixed(8, 0), (8, 4, 4), 4, padding=pads, stride=(2, 2), groups=2,
        bias=m.const("bias2", m.rng.integers(-3, 3, 8)), **m.signs("w2", 8, 3, 3, 3),
    )  # fmt: skip
    m.const("gain2", [[64, -64, 64, 64, -64, 64, 64, 64]])
    m.const("th2", np.full((1, 1, 8), 130))
    m.const("vth2", [[130]])
    m.const("decay2", [[3]])
    m.add(
        g.Neuron, "lif2", "conv2", kinds.binary, (8, 4, 4), 4, decay="decay2", decay_shift=2,
        rounding="half_up", gain="gain2", thresholds="th2", reset_value="vth2", frac=6,
    )  # fmt: skip
    flip = m.const("flip", np.array([0, 1, 0, 0, 1, 0, 0, 0], bool))
    m.add(
        g.Pool, "pool", "lif2", kinds.binary, (8, 2, 2), 4, mode="max", kernel=(2, 2), stride=(2, 2),
        padding=((0, 0), (0, 0)), flip=flip,
    )  # fmt: skip
    m.add(g.Reshape, "flat", "pool", kinds.binary, (32,), 4, moves=(("view", (-1,)),))
    m.const("head_w", m.rng.integers(-8, 8, (5, 32)).astype(np.int8))
    m.add(g.Linear, "head", "flat", kinds.fixed(12, 3), (5,), 4, weight="head_w", coding=g.Coding("int", 4))
    m.add(g.Readout, "sum", "head", kinds.fixed(16, 5), (5,), 0, mode="sum")
    m.add(g.Output, "out", "sum", kinds.fixed(16, 5), (5,), 0)
    return m.graph()


def residual() -> g.Graph:
    """A residual stream on a fixed-point grid: Affine, Add with shifts, Upsample, Concat, sum pooling."""
    m, plane = Maker(2), (4, 6, 6)
    m.add(g.Input, "x", "", kinds.fixed(12, 6), plane, 2)
    m.const("th", m.rng.integers(-200, 400, (1, 1, 4)))
    m.add(g.Neuron, "if", "x", kinds.binary, plane, 2, reset="none", thresholds="th")
    m.const("w", m.rng.integers(-2, 2, (4, 4, 3, 3)).astype(np.int8))
    pads = ((1, 1), (1, 1))
    m.add(g.Conv, "conv", "if", WIDE, plane, 2, weight="w", padding=pads, coding=g.Coding("int", 2))
    m.const("gain", m.rng.integers(-90, 90, 4))
    m.const("bias", m.rng.integers(-400, 400, 4))
    m.add(g.Affine, "norm", "conv", kinds.fixed(14, 6), plane, 2, gain="gain", bias="bias", shift=2)
    m.add(g.Add, "add", "norm x", kinds.fixed(16, 6), plane, 2, shifts=(0, 1), signs=(1, -1))
    m.add(
        g.Pool, "pool", "add", kinds.fixed(20, 8), (4, 3, 3), 2, mode="sum", kernel=(2, 2), stride=(2, 2),
        padding=((0, 1), (1, 0)),
    )  # fmt: skip
    m.add(g.Upsample, "up", "pool", kinds.fixed(20, 8), plane, 2, factors=(2, 2))
    m.add(g.Concat, "cat", "up add", kinds.fixed(22, 8), (8, 6, 6), 2, axis=0, shifts=(0, 2))
    m.add(g.Mean, "total", "cat", kinds.fixed(28, 8), (8,), 2, axes=(1, 2), total=True)
    m.add(g.Output, "trace", "total", kinds.fixed(28, 8), (8,), 2, key="trace")
    m.add(g.Readout, "last", "total", kinds.fixed(28, 8), (8,), 0, mode="last")
    m.add(g.Output, "out", "last", kinds.fixed(28, 8), (8,), 0)
    return m.graph()


def attention() -> g.Graph:
    """Spike attention on tokens: ternary projections, two MatMuls, a Mul gate and Logic."""
    m, row = Maker(3), (6, 8)
    m.add(g.Input, "x", "", kinds.binary, row, 2)
    for name in "qkv":
        m.const(f"w{name}", m.rng.integers(-1, 2, (8, 8)).astype(np.int8))
        m.add(
            g.Linear, name, "x", kinds.fixed(6, 0), row, 2, weight=f"w{name}", coding=g.Coding("ternary", 2)
        )
        m.const(f"th{name}", m.rng.integers(0, 3, (1, 1, 8)))
        m.add(g.Neuron, f"s{name}", name, kinds.binary, row, 2, axis=-1, reset="none", thresholds=f"th{name}")
    m.add(g.Reshape, "kt", "sk", kinds.binary, (8, 6), 2, moves=(("permute", (1, 0)),))
    m.add(g.MatMul, "kv", "kt sv", kinds.fixed(5, 0), (8, 8), 2)
    m.add(g.MatMul, "qkv", "sq kv", kinds.fixed(8, 0), row, 2)
    m.const("th", [[[5]]])
    m.const("neg", [[2]])
    m.const("one", [[5]])
    m.add(
        g.Neuron, "att", "qkv", kinds.ternary, row, 2, thresholds="th", neg_threshold="neg", reset_value="one"
    )
    m.add(g.Mul, "gate", "att sq", kinds.ternary, row, 2)
    m.add(g.Logic, "or", "sk sv", kinds.binary, row, 2, op="or")
    m.add(g.Add, "join", "gate or", kinds.fixed(3, 0), row, 2)
    m.add(g.Output, "out", "join", kinds.fixed(3, 0), row, 2)
    return m.graph()


def codebook() -> g.Graph:
    """Integer spikes, weights from a codebook, a membrane table, time mixing, a Lut, a recurrent cell."""
    m, row = Maker(4), (3, 5, 5)
    m.add(g.Input, "x", "", kinds.integer(4), row, 3)
    m.const("book", m.rng.choice(np.array([-1, 1], np.int8), (8, 9)))
    m.const("index", m.rng.integers(0, 8, (4, 3)).astype(np.int8))
    coding = g.Coding("codebook", 3, "book")
    m.add(
        g.Conv, "conv", "x", kinds.fixed(9, 0), (4, 5, 5), 3, weight="index", coding=coding, kernel=(3, 3),
        padding=((1, 1), (1, 1)),
    )  # fmt: skip
    m.const("levels", np.array([[[2]], [[9]], [[17]]]))
    m.const("reset", [[7]])
    m.const("breaks", np.arange(-12, 14, 4))
    m.const("values", np.arange(-14, 16, 4))
    m.const("quarter", [[3]])
    m.add(
        g.Neuron, "ilif", "conv", kinds.integer(4), (4, 5, 5), 3, decay="quarter", decay_shift=2,
        thresholds="levels", strict=(False,) * 3, reset_value="reset", breaks="breaks", values="values",
    )  # fmt: skip
    m.const("mix", np.tril(m.rng.integers(-3, 4, (3, 3))))
    m.add(g.TimeMix, "mix", "ilif", kinds.fixed(7, 0), (4, 5, 5), 3, matrix="mix")
    m.const("steps", [-10, 0, 10])
    m.const("heights", [-2, -1, 1, 2])
    m.add(g.Lut, "lut", "mix", kinds.fixed(3, 0), (4, 5, 5), 3, breaks="steps", values="heights")
    m.add(g.Mean, "total", "lut", kinds.fixed(8, 0), (4,), 3, axes=(1, 2), total=True)
    m.add(g.Scan, "cell", "total", kinds.binary, (4,), 3, body=_cell())
    m.add(g.Output, "out", "cell", kinds.binary, (4,), 3)
    return m.graph()


def _cell() -> g.Graph:
    m = Maker(5)
    m.add(g.Input, "x", "", kinds.fixed(8, 0), (4,), 0)
    m.add(g.Input, "state0", "", kinds.binary, (4,), 0)
    m.add(g.Linear, "recur", "state0", kinds.fixed(4, 0), (4,), 0, **m.signs("w", 4, 4))
    m.add(g.Add, "sum", "x recur", kinds.fixed(12, 0), (4,), 0, shifts=(0, 3), signs=(1, 1))
    m.const("th", [[[22]]])
    m.add(g.Neuron, "fire", "sum", kinds.binary, (4,), 0, reset="none", thresholds="th")
    m.add(g.Output, "y", "fire", kinds.binary, (4,), 0, key="y")
    m.add(g.Output, "next", "fire", kinds.binary, (4,), 0, key="state0")
    return m.graph()


GRAPHS = {f.__name__: f for f in (conv_lif, residual, attention, codebook)}
CARD = {
    "name": "golden",
    "classes": ["a", "b", "c", "d", "e"],
    "T": 4,
    "accuracy": 0.5,
    "recipe": {"epochs": 3},
}


def inputs(graph: g.Graph, batch: int) -> dict[str, np.ndarray]:
    """Seeded inputs of a graph with one input."""
    (node,) = graph.inputs
    rng = np.random.default_rng(9)
    shape = (batch, *((node.edge.steps,) if node.edge.steps else ()), *node.edge.shape)
    if node.table is not None:
        return {node.name: rng.integers(0, 256, shape).astype(np.uint8)}
    if node.edge.kind.is_spikes:
        return {node.name: rng.integers(0, node.edge.kind.high + 1, shape).astype(np.uint8)}
    return {node.name: rng.normal(size=shape).astype(np.float32) * 4}


def main() -> None:
    """Rewrite the golden files."""
    from picojoule.deploy import write
    from picojoule.deploy.engine import Engine

    GOLDEN.mkdir(exist_ok=True)
    for name, make in GRAPHS.items():
        graph = make()
        write(GOLDEN / f"{name}.pj", graph, CARD)
        found = Engine(graph)(inputs(graph, 2))
        text = json.dumps({key: value.tolist() for key, value in found.items()}, separators=(",", ":"))
        (GOLDEN / f"{name}.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
