"""Nodes of the one graph that measuring, folding, packing, the engine and every exporter read. No torch.

A graph is in one of two stages:

* ``captured``: what `graph.capture` saw, with float constants in real units;
* ``snapped``: integers only. Every edge holds an integer tensor; ``fixed(bits, frac)`` means
  value = i * 2^-frac, spikes are their own integers. Only this stage is packed, and the reference
  interpreter and the native engine execute it with identical integers.

Rows. An edge's `shape` leaves out the leading axis, which is `T*B` (time-major) when `steps` = T >= 1
and `B` when `steps` = 0 (one row a sample). Axis numbers in nodes count *row* axes: axis 0 is the
channel of a [C, H, W] row, axis -1 the feature of an [N, D] row. Constants are names into
`Graph.tensors`; per-channel constants apply along the node's `axis`.

Integer arithmetic (stage snapped). `rshift(x, k, "floor") = floor(x / 2^k)`;
`rshift(x, k, "half_up") = floor((x + 2^(k-1)) / 2^k)` (k = 0: x). Nothing saturates: `bits` of each
fixed edge is proven large enough when the graph is made.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

import numpy as np

from picojoule.core.errors import CaptureError
from picojoule.core.kinds import Kind, real

ROUNDINGS = ("floor", "half_up")
CODINGS = ("float", "int", "sign", "ternary", "codebook")


@dataclass(frozen=True, slots=True)
class Edge:
    """Type of a value: kind, row shape, and steps (0 = one row a sample)."""

    kind: Kind
    shape: tuple[int, ...]
    steps: int = 0

    @property
    def size(self) -> int:
        """Elements of one row."""
        return int(np.prod(self.shape, dtype=np.int64))


@dataclass(frozen=True, slots=True)
class Coding:
    """How weights are stored: `int` b-bit two's complement, `sign` 1 bit {-1, +1}, `ternary` 2 bits
    {-1, 0, +1}, `codebook`: b-bit indices into a tensor of integer code words [K, word]; `float` before
    snapping.
    """

    name: str = "float"
    bits: int = 32
    codebook: str | None = None

    def __post_init__(self) -> None:
        if self.name not in CODINGS:
            raise ValueError(f"unknown coding {self.name!r}; known: {', '.join(CODINGS)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """Base of all nodes. `inputs` name nodes; `source` is where the user wrote it; `module` its path."""

    name: str
    inputs: tuple[str, ...] = ()
    edge: Edge
    source: str = ""
    module: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Input(Node):
    """An input of the graph, batch-first at the border: [B, *shape] or, with steps = T, [B, T, *shape]
    which is folded to time-major rows here.

    snapped: i = floor(x * 2^frac + 1/2) clamped to the edge's bits; with `table` [C, 256] (int) a u8
    input p of channel c becomes table[c, p].
    """

    table: str | None = None
    axis: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Output(Node):
    """A named output `key`. Rows of steps = T leave as [B, T, *shape]; of steps = 0 as [B, *shape]."""

    key: str = "out"


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeat(Node):
    """One row a sample to T equal rows: [B, ...] -> [T*B, ...], time-major."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conv(Node):
    """Cross-correlation in 1, 2 or 3 space axes; weight [C_out, C_in/groups, *kernel], zero padding.

    snapped: y = sum of integer codes * integer inputs (+ integer bias at the input's scale).
    `padding` is (before, after) per axis. With a codebook, `weight` holds indices [C_out, fan_in / word]
    and `kernel` the space axes that they leave out; `weight_codes` expands them (captured: words
    looked up already, at full shape).
    """

    weight: str
    bias: str | None = None
    stride: tuple[int, ...] = (1, 1)
    padding: tuple[tuple[int, int], ...] = ((0, 0), (0, 0))
    dilation: tuple[int, ...] = (1, 1)
    groups: int = 1
    coding: Coding = Coding()
    scale: str | None = None  # captured and coded: per-output-channel scales [C_out|1]; weight holds codes
    kernel: tuple[int, ...] = ()  # only with a codebook


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear(Node):
    """y = x W^T + b over the last row axis; weight [D_out, D_in] (codebook indices [D_out, D_in / word])."""

    weight: str
    bias: str | None = None
    coding: Coding = Coding()
    scale: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Neuron(Node):
    """Spiking neurons: the row axis `axis` carries channels; time is the T of the edge.

    captured: `op` names the equation, `live` says that a module stands behind it (executor calls it);
    `spec` tensors are absent unless `lowered`.
    snapped, all integers at the neuron's internal grid (`frac` fraction bits):

        h = rshift(decay * v, decay_shift, rounding) + gain * x + bias
        n = #{k : h >= thresholds[k]}  - (1 if h <= neg_threshold, ternary)
        v = hard: n != 0 ? reset_value : h;  soft: h - n * reset_value;  none: h
        v = values[#{j : v >= breaks[j]}]        (when there is a table)

    decay, gain, bias, reset_value, v_init: [T|1, C|1]; thresholds [L, T|1, C|1]; strict comparisons have
    become `>= th + 1`. A negative gain is a reversed comparison. `unit` [1, C|1] (float) is the real
    value of one internal LSB times 2^frac, for people and for surrogates; `v_bits` bounds |h| and |v|.
    """

    op: str = "lif"
    axis: int = 0
    lowered: bool = True
    reset: str = "soft"
    decay: str | None = None
    gain: str | None = None
    bias: str | None = None
    thresholds: str | None = None
    strict: tuple[bool, ...] = (False,)
    neg_threshold: str | None = None
    neg_strict: bool = False
    reset_value: str | None = None
    v_init: str | None = None
    breaks: str | None = None
    values: str | None = None
    out_scale: float = 1.0  # captured only; folded into what follows when snapped
    frac: int = 0
    decay_shift: int = 0
    rounding: str = "floor"
    unit: str | None = None
    v_bits: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Add(Node):
    """Elementwise sum of two or more inputs (row shapes broadcast).

    snapped: y = sum_i sign_i * x_i << shift_i.
    """

    shifts: tuple[int, ...] = ()
    signs: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Mul(Node):
    """Elementwise product of two inputs (row shapes broadcast)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Logic(Node):
    """Elementwise logic of binary inputs: and, or, iand = (not a) and b."""

    op: str = "and"


@dataclass(frozen=True, slots=True, kw_only=True)
class MatMul(Node):
    """Batched matrix product over the last two row axes: a @ b (leading row axes broadcast)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Affine(Node):
    """y = gain * x + bias per channel along `axis` (gain, bias: [C|1]).

    captured: real (BatchNorm in eval mode, layer scale, constants).
    snapped: y = rshift(gain * x + bias, shift, rounding), integers.
    """

    gain: str
    bias: str
    axis: int = 0
    shift: int = 0
    rounding: str = "half_up"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lut(Node):
    """Staircase y = values[#{j : x >= breaks[j]}] of a fixed or spike edge."""

    breaks: str
    values: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool(Node):
    """Window over the space axes (all row axes after axis 0). mode: max, avg (captured), sum, min.

    Padding never wins a max or min and adds zero to a sum. `divisor` is the count an average divides by
    (captured, avg only; `kernel` product when 0). `flip` (bool [C]) turns max into min on those channels.
    """

    mode: str
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    divisor: int = 0
    flip: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Mean(Node):
    """Mean over row `axes` (captured); in stage snapped `total` is True and it is their exact sum."""

    axes: tuple[int, ...]
    keepdim: bool = False
    total: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Concat(Node):
    """Concatenation along row axis `axis`; snapped inputs are shifted left by `shifts` first."""

    axis: int = 0
    shifts: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Upsample(Node):
    """Nearest-neighbour enlargement of the space axes by whole factors."""

    factors: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reshape(Node):
    """Moves data inside a row without arithmetic, as `steps_` of

    ("view", shape) | ("permute", order) | ("slice", axis, start, stop, step) | ("expand", shape) |
    ("pad", ((before, after), ...))  (zeros) | ("flip", axis) | ("roll", axis, shift)
    applied in order.
    """

    moves: tuple[tuple[Any, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Readout(Node):
    """Over time: mode "mean", "sum", "max", "last" gives one row a sample; snapped has no mean."""

    mode: str = "mean"


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeMix(Node):
    """y[t] = sum_j matrix[t, j] x[j] + bias[t] over time.

    matrix [T, T] (optionally [C, T, T]), bias [T|1, C|1].
    `causal` is true when the matrix is lower triangular. snapped: integer matrix and bias, exact.
    """

    matrix: str
    bias: str | None = None
    causal: bool = True
    axis: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan(Node):
    """A recurrent cell: for each step, (y, *state) = body(x[t], *state); state starts at zero.

    The body is a graph of one step whose inputs are "x" and "state0".. and whose outputs are "y" and
    "state0".. in the same order.
    """

    body: Graph


@dataclass(frozen=True, slots=True, kw_only=True)
class Opaque(Node):
    """Any other operator, by its ATen name; measured as multiply-accumulates or listed as not counted;
    never packed. `args` is a description that the float executor can replay.
    """

    target: str
    args: tuple[Any, ...] = ()
    kwargs: tuple[tuple[str, Any], ...] = ()


NODE_TYPES: dict[str, type[Node]] = {
    cls.__name__: cls
    for cls in (
        Input, Output, Repeat, Conv, Linear, Neuron, Add, Mul, Logic, MatMul, Affine, Lut, Pool, Mean,
        Concat, Upsample, Reshape, Readout, TimeMix, Scan, Opaque,
    )
}  # fmt: skip


@dataclass(frozen=True)
class Graph:
    """Nodes in execution order and their constants.

    `live` maps node names to modules or callables that the float executor may call (captured stage,
    unlowered neurons and opaque nodes); it is never saved.
    """

    nodes: tuple[Node, ...]
    tensors: dict[str, np.ndarray] = field(default_factory=dict)
    stage: str = "captured"
    live: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for node in self.nodes:
            for name in node.inputs:
                if name not in seen:
                    raise CaptureError(f"node {node.name!r} reads {name!r}, which does not come before it")
            if node.name in seen:
                raise CaptureError(f"two nodes are named {node.name!r}")
            seen.add(node.name)

    def __getitem__(self, name: str) -> Node:
        for node in self.nodes:
            if node.name == name:
                return node
        raise KeyError(name)

    @cached_property
    def inputs(self) -> tuple[Input, ...]:
        """Input nodes in order."""
        return tuple(n for n in self.nodes if isinstance(n, Input))

    @cached_property
    def outputs(self) -> tuple[Output, ...]:
        """Output nodes in order."""
        return tuple(n for n in self.nodes if isinstance(n, Output))

    def consumers(self, name: str) -> tuple[Node, ...]:
        """Nodes that read `name`."""
        return tuple(n for n in self.nodes if name in n.inputs)

    def tensor(self, name: str | None) -> np.ndarray:
        """The constant of that name; the name must be given."""
        if name is None:
            raise KeyError("this constant is absent")
        return self.tensors[name]

    def replace(self, **changes: Any) -> Graph:
        """A copy with some fields changed."""
        return replace(self, **changes)


def tensor_fields(node: Node) -> dict[str, str]:
    """Fields of a node that name constants, with the names they hold."""
    names = _TENSOR_FIELDS.get(type(node).__name__, ())
    found = {name: getattr(node, name) for name in names if getattr(node, name) is not None}
    coding = getattr(node, "coding", None)
    if coding is not None and coding.codebook is not None:
        found["coding.codebook"] = coding.codebook
    return found


_TENSOR_FIELDS: dict[str, tuple[str, ...]] = {
    "Input": ("table",),
    "Conv": ("weight", "bias", "scale"),
    "Linear": ("weight", "bias", "scale"),
    "Neuron": (
        "decay", "gain", "bias", "thresholds", "neg_threshold", "reset_value", "v_init", "breaks", "values",
        "unit",
    ),
    "Affine": ("gain", "bias"),
    "Lut": ("breaks", "values"),
    "Pool": ("flip",),
    "TimeMix": ("matrix", "bias"),
}  # fmt: skip


def weight_codes(graph: Graph, node: Conv | Linear) -> np.ndarray:
    """The weight of a node at its full shape: integer codes when coded (indices looked up), or floats.

    Returns:
        Array [C_out, C_in/groups, *kernel] of a Conv, [D_out, D_in] of a Linear; scales not applied.
    """
    weight = graph.tensor(node.weight)
    if node.coding.codebook is None:
        return weight
    words = graph.tensor(node.coding.codebook)[weight.astype(np.int64)].reshape(weight.shape[0], -1)
    if isinstance(node, Linear):
        return words
    return words.reshape(weight.shape[0], -1, *node.kernel)


def describe(graph: Graph) -> list[dict[str, Any]]:
    """A plain list of the nodes for tables and JSON: type, name, kind, shape, steps, inputs, module."""
    rows = []
    for node in graph.nodes:
        rows.append(
            {
                "type": type(node).__name__,
                "name": node.name,
                "kind": str(node.edge.kind),
                "shape": list(node.edge.shape),
                "steps": node.edge.steps,
                "inputs": list(node.inputs),
                "module": node.module,
            }
        )
    return rows


def node_fields(node: Node) -> tuple[str, ...]:
    """Names of the fields that a node type adds to `Node`."""
    base = {f.name for f in fields(Node)}
    return tuple(f.name for f in fields(node) if f.name not in base)


__all__ = [
    "NODE_TYPES",
    "Coding",
    "Edge",
    "Graph",
    "Node",
    "describe",
    "node_fields",
    "real",
    "tensor_fields",
    "weight_codes",
]
