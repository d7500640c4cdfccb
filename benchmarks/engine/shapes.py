"""Synthetic networks for the layer table and the growth curves, as snapped graphs.

Weights are random; spikes are Bernoulli at a chosen rate; every threshold is set by bisection so that a layer
fires at that rate, too (a 2x2 pool of spikes raises it: `Net.rates` says what the layers really see).
Nothing here is trained: see `twins.py` for networks that are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from picojoule.core import kinds
from picojoule.graph import nodes as g
from picojoule.graph.rates import plane_counts

CODES = {
    "1": ("sign", 1),
    "w": ("sign", 1),
    "2": ("int", 2),
    "t": ("ternary", 2),
    "4": ("int", 4),
    "8": ("int", 8),
}
BODY = ((128, 128, 16), (128, 128, 16), (128, 256, 8), (256, 256, 8), (256, 512, 4), (512, 512, 4))
PAD = ((1, 1), (1, 1))


@dataclass(frozen=True)
class Shape:
    """One layer: `out` and `channels` wide, `side` pixels square ("conv") or that many tokens ("linear")."""

    kind: str
    channels: int
    out: int
    side: int

    @property
    def row(self) -> tuple[int, ...]:
        """Shape of a row at the input."""
        return (self.channels, self.side, self.side) if self.kind == "conv" else (self.side, self.channels)

    @property
    def row_out(self) -> tuple[int, ...]:
        """Shape of a row at the output."""
        return (self.out, self.side, self.side) if self.kind == "conv" else (self.side, self.out)

    @property
    def text(self) -> str:
        """As printed in tables."""
        if self.kind == "conv":
            return f"conv {self.channels}->{self.out} 3x3 at {self.side}x{self.side}"
        return f"linear {self.channels}->{self.out}, {self.side} tokens"


@dataclass(frozen=True)
class Cell:
    """One kind of layer: weight code of `CODES`, steps, fraction bits of the membrane, rate, spike levels."""

    bits: str = "1"
    T: int = 4
    frac: int = 2
    rate: float = 0.1
    levels: int = 1

    @property
    def text(self) -> str:
        """As printed in tables."""
        word = {"t": "ternary", "w": "16 code words"}.get(self.bits, f"{self.bits}-bit")
        return f"{word}, counts 0..{self.levels}" if self.levels > 1 else f"{word}, {self.frac} fraction bits"


@dataclass
class Net:
    """A graph in the making, and the spikes that its newest node gives for `x` (one sample).

    Fields: x [1, T, *row] uint8; now [T, *row] int64; rates: spikes a virtual step at each layer's input;
    planes: share of set bits of every spike node, which a packed file would hold for the planner.
    """

    cell: Cell
    x: np.ndarray
    now: np.ndarray
    nodes: list[g.Node] = field(default_factory=list)
    tensors: dict[str, np.ndarray] = field(default_factory=dict)
    rates: list[float] = field(default_factory=list)
    planes: dict[str, list[float]] = field(default_factory=dict)

    @property
    def source(self) -> str:
        """Name of the newest node."""
        return self.nodes[-1].name

    @property
    def kind(self) -> kinds.Kind:
        """Kind of the spikes."""
        return kinds.integer(self.cell.levels) if self.cell.levels > 1 else kinds.binary

    def add(self, node: g.Node, spikes: np.ndarray | None = None) -> None:
        """Append a node; with `spikes`, those it gives."""
        self.nodes.append(node)
        if spikes is not None:
            self.now = spikes
            counts = plane_counts(spikes, self.kind)
            self.planes[node.name] = [float(count) / spikes.size for count in counts]

    def graph(self) -> g.Graph:
        """The graph, closed by exact sums of the last spikes by channel."""
        row = self.nodes[-1].edge.shape
        conv = len(row) == 3
        counts = g.Edge(kinds.fixed(24, 0), (row[0] if conv else row[1],), self.cell.T)
        axes = (1, 2) if conv else (0,)
        total = g.Mean(name="sum", inputs=(self.source,), edge=counts, axes=axes, total=True)
        leave = g.Output(name="out", inputs=("sum",), edge=counts)
        return g.Graph((*self.nodes, total, leave), self.tensors, "snapped")


def start(row: tuple[int, ...], cell: Cell) -> Net:
    """A net that is only its input: Bernoulli spikes, or binomial counts of the same rate a virtual step."""
    x = np.random.default_rng(7).binomial(cell.levels, cell.rate, (1, cell.T, *row)).astype(np.uint8)
    net = Net(cell, x, x[0].astype(np.int64))
    net.add(g.Input(name="x", edge=g.Edge(net.kind, row, cell.T)), net.now)
    return net


def weights(rng: np.random.Generator, bits: str, shape: tuple[int, ...]) -> np.ndarray:
    """Random integer codes of a coding of `CODES`, mean 0."""
    if bits == "1":
        return rng.choice(np.array([-1, 1], np.int8), shape)
    if bits == "w":  # every kernel one of sixteen
        book = rng.choice(np.array([-1, 1], np.int8), (16, *shape[2:]))
        return book[rng.integers(0, 16, shape[:2])]
    if bits == "2":
        return rng.choice(np.array([-2, -1, 0, 1], np.int8), shape, p=[1 / 6, 1 / 6, 1 / 6, 1 / 2])
    top = 1 if bits == "t" else 2 ** (int(bits) - 1) - 1
    return rng.integers(-top, top + 1, shape).astype(np.int8)


def synaptic_sums(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Integer sums of a 3x3 convolution (padding 1) or a linear layer: [T, *row] -> [T, *row_out]."""
    import torch

    rows, codes = torch.from_numpy(x).double(), torch.from_numpy(w).double()
    if w.ndim == 4:
        found = torch.nn.functional.conv2d(rows, codes, padding=1)
    else:
        found = torch.nn.functional.linear(rows, codes)
    return found.round().long().numpy()


def add_layer(net: Net, name: str, shape: Shape) -> None:
    """A convolution or linear layer and its neurons: LIF, or spike counts at T = 1."""
    cell, rng = net.cell, np.random.default_rng(len(net.nodes))
    conv = shape.kind == "conv"
    w = weights(rng, cell.bits, (shape.out, shape.channels, *((3, 3) if conv else ())))
    fan = shape.channels * (9 if conv else 1)
    most = fan * int(np.abs(w).max()) * cell.levels
    edge = g.Edge(kinds.fixed(most.bit_length() + 1, 0), shape.row_out, cell.T)
    net.tensors[f"{name}.w"] = w
    common: dict[str, Any] = {
        "name": name, "inputs": (net.source,), "edge": edge, "weight": f"{name}.w",
        "coding": g.Coding(*CODES[cell.bits]),
    }  # fmt: skip
    net.nodes.append(g.Conv(**common, padding=PAD) if conv else g.Linear(**common))
    net.rates.append(float(net.now.mean()) / cell.levels)
    make = leaky if cell.levels == 1 else counting
    planes, options, spikes = make(synaptic_sums(net.now, w), cell, 0 if conv else 1, rng)
    net.tensors.update({f"{name}.{key}": value for key, value in planes.items()})
    options |= {key: f"{name}.{key}" for key in planes}
    edge = g.Edge(net.kind, shape.row_out, cell.T)
    net.add(g.Neuron(name=f"{name}.n", inputs=(name,), edge=edge, axis=0 if conv else 1, **options), spikes)


def along(values: np.ndarray, axis: int, dims: int) -> np.ndarray:
    """Values by channel, shaped so that they broadcast over a row."""
    return values.reshape([-1 if i == axis else 1 for i in range(dims)])


def bisect(rate: float, top: int, fire: Any) -> tuple[int, np.ndarray]:
    """The threshold at which `fire(threshold)` has the mean `rate` (falling), and its spikes there."""
    low, high = 1, max(2, top)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fire(middle).mean() > rate else (low, middle)
    return high, fire(high)


def leaky(sums: np.ndarray, cell: Cell, axis: int, rng: np.random.Generator) -> tuple[Any, Any, np.ndarray]:
    """LIF, decay 1/2, hard reset, fraction bits; bias and threshold differ by channel."""
    one, channels = 1 << cell.frac, sums.shape[axis + 1]
    bias, jitter = rng.integers(-one, one + 1, (2, channels))
    shaped = [along(v, axis, sums.ndim - 1) for v in (bias, jitter)]

    def fire(at: int) -> np.ndarray:
        v, out = np.zeros(sums.shape[1:], np.int64), []
        for row in sums:
            h = (v >> 1) + row * one + shaped[0]
            out.append(h >= at + shaped[1])
            v = np.where(out[-1], 0, h)
        return np.stack(out).astype(np.int64)

    at, spikes = bisect(cell.rate, int(np.abs(sums).max()) * one * 2, fire)
    planes = {
        "decay": np.array([[1]]), "gain": np.array([[one]]), "bias": bias[None],
        "thresholds": (at + jitter)[None, None], "reset_value": np.array([[0]]), "v_init": np.array([[0]]),
    }  # fmt: skip
    bits = (int(np.abs(sums).max()) * one * 4 + at + one).bit_length() + 2
    return planes, {"reset": "hard", "decay_shift": 1, "frac": cell.frac, "v_bits": bits}, spikes


def counting(
    sums: np.ndarray, cell: Cell, axis: int, rng: np.random.Generator
) -> tuple[Any, Any, np.ndarray]:
    """Counts 0..levels of one step: as many spikes as thresholds are reached (I-LIF without memory)."""
    jitter = rng.integers(-1, 2, sums.shape[axis + 1])
    shaped = along(jitter, axis, sums.ndim - 1)

    def fire(at: int) -> np.ndarray:
        return sum((sums >= at * k + shaped).astype(np.int64) for k in range(1, cell.levels + 1))  # type: ignore[return-value]

    at, counts = bisect(cell.rate * cell.levels, int(np.abs(sums).max()), fire)
    steps = at * np.arange(1, cell.levels + 1)[:, None, None]
    planes = {
        "decay": np.array([[0]]), "gain": np.array([[1]]), "bias": np.array([[0]]),
        "thresholds": steps + jitter[None, None], "reset_value": np.array([[0]]), "v_init": np.array([[0]]),
    }  # fmt: skip
    bits = int(np.abs(sums).max()).bit_length() + 4
    return planes, {"reset": "none", "strict": (False,) * cell.levels, "v_bits": bits}, counts


def one_layer(shape: Shape, cell: Cell) -> Net:
    """Spikes in, one layer."""
    net = start(shape.row, cell)
    add_layer(net, "layer", shape)
    return net


def body(cell: Cell, scale: int = 1, side: int = 16) -> Net:
    """Six 3x3 convolutions with neurons and two 2x2 max pools (an OR): 189 M multiplications a step.

    Args:
        cell: kind of all six.
        scale: divides every width.
        side: pixels of the input.
    """
    net = start((BODY[0][0] // scale, side, side), cell)
    now = side
    for index, (c_in, c_out, nominal) in enumerate(BODY):
        if nominal * side // 16 < now:
            now //= 2
            add_pool(net, f"p{index}", now)
        add_layer(net, f"c{index}", Shape("conv", c_in // scale, c_out // scale, now))
    return net


def add_pool(net: Net, name: str, side: int) -> None:
    """2x2 max pool, stride 2."""
    channels = net.now.shape[1]
    spikes = net.now.reshape(net.cell.T, channels, side, 2, side, 2).max((3, 5))
    edge = g.Edge(net.kind, (channels, side, side), net.cell.T)
    window: dict[str, Any] = {"kernel": (2, 2), "stride": (2, 2), "padding": ((0, 0), (0, 0))}
    net.add(g.Pool(name=name, inputs=(net.source,), edge=edge, mode="max", **window), spikes)
