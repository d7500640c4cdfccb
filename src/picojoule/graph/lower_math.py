"""Lowering of elementwise arithmetic, constants on channels and reductions."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from picojoule.core import kinds
from picojoule.core.kinds import Kind
from picojoule.graph import nodes as g
from picojoule.graph.builder import Builder, array_of
from picojoule.graph.lower_shape import repeated, row_axis
from picojoule.graph.lowering import Args, lowers, opaque, packet, same_lead
from picojoule.graph.nodes import Edge
from picojoule.graph.rows import Const, Val, value

Operand = Any  # Val | Const | float | int


def _constant(x: Operand) -> Tensor | None:
    if isinstance(x, Const):
        return x.tensor.detach().to(torch.float64)
    if isinstance(x, bool | int | float):
        return torch.tensor(float(x), dtype=torch.float64)
    return None


# -- a value and a constant: Affine ----------------------------------------------------------------------


def affine(b: Builder, v: Val, gain: Tensor, bias: Tensor, part: str = "affine") -> Val:
    """gain * v + bias, where gain and bias broadcast against the tensor that `v` shows."""
    n = len(v.axes)
    if max(gain.dim(), bias.dim()) > n:
        b.fail(
            f"a constant of {max(gain.dim(), bias.dim())} axes meets a tensor of {n}; a constant "
            "may not add axes "
            "in front of the batch"
        )
    gain = gain.reshape((1,) * (n - gain.dim()) + tuple(gain.shape))
    bias = bias.reshape((1,) * (n - bias.dim()) + tuple(bias.shape))
    wide = [i for i in range(n) if gain.shape[i] != 1 or bias.shape[i] != 1]
    if any(v.axes[i] == ("T",) for i in wide):
        return _per_step(b, v, gain, bias, wide)
    if any(isinstance(x, str) for i in wide for x in v.axes[i]):
        b.fail("a constant has the length of the batch axis, which fixes the batch; make it length 1 there")
    grows = any(
        isinstance(x, int) and v.edge.shape[x] == 1 and max(gain.shape[i], bias.shape[i]) > 1
        for i in wide
        for x in v.axes[i][:1]
    )
    if grows:
        v = _grown(b, v, [max(gain.shape[i], bias.shape[i]) for i in range(n)])
    if len(wide) == 1 and len(v.axes[wide[0]]) == 1:
        axis = int(v.axes[wide[0]][0])
        return _affine(b, v, gain.flatten(), bias.flatten(), axis, part)
    if not wide:
        return _affine(b, v, gain.reshape(1), bias.reshape(1), 0, part)
    rows, lead = b.rows(v)
    full = [1] * lead.width + list(rows.edge.shape[lead.extra :])
    if lead.extra:
        b.fail("a constant of several axes meets a batch fused with row axes; add it before fusing")
    flat = int(np.prod(rows.edge.shape))
    flat_rows = b.move(rows, ("view", (flat,)), shape=(flat,))
    done = _affine(b, flat_rows, gain.expand(full).flatten(), bias.expand(full).flatten(), 0, part)
    return b.shown(b.move(done, ("view", rows.edge.shape), shape=rows.edge.shape), lead)


def _grown(b: Builder, v: Val, lengths: list[int]) -> Val:
    shape = list(v.edge.shape)
    for axis, length in zip(v.axes, lengths):
        if len(axis) == 1 and isinstance(axis[0], int) and shape[axis[0]] == 1:
            shape[axis[0]] = length
    moved = b.move(v, ("expand", tuple(shape)), shape=tuple(shape), part="expand")
    return Val(moved.node, moved.edge, v.axes)


def _affine(b: Builder, v: Val, gain: Tensor, bias: Tensor, axis: int, part: str) -> Val:
    if bool((gain == 1).all()) and bool((bias == 0).all()):
        return v
    masks = bool(((gain == 0) | (gain == 1)).all()) and bool((bias == 0).all())
    edge = Edge(v.edge.kind if masks else kinds.real, v.edge.shape, v.edge.steps)
    name = b.name_for(part)
    fields = {
        "gain": b.constant(f"{name}.gain", array_of(gain)),
        "bias": b.constant(f"{name}.bias", array_of(bias)),
    }
    b.add(g.Affine, part, [v.node], edge, name=name, axis=axis, **fields)
    if masks:
        b.like(v, name)
    return Val(name, edge, v.axes)


def _per_step(b: Builder, v: Val, gain: Tensor, bias: Tensor, wide: list[int]) -> Val:
    """Constants that differ from step to step: a diagonal TimeMix."""
    T, at = v.edge.steps, v.axes.index(("T",))
    others = [i for i in wide if i != at]
    if len(others) > 1 or any(len(v.axes[i]) != 1 or isinstance(v.axes[i][0], str) for i in others):
        b.fail("a constant that differs per step may differ along one more axis (the channels), not several")
    axis = int(v.axes[others[0]][0]) if others else 0
    size = [1] * len(v.axes)
    size[at] = T
    if others:
        size[others[0]] = v.edge.shape[axis]
    order = [at, *others]

    def plane(c: Tensor) -> Tensor:
        return (
            c.expand(size).permute([*order, *(i for i in range(c.dim()) if i not in order)]).flatten(1)
        )  # [T, C|1]

    gains = plane(gain)
    matrix = torch.diag_embed(gains.t()) if others else torch.diag(gains[:, 0])
    name = b.name_for("time_scale")
    edge = Edge(kinds.real, v.edge.shape, T)
    b.add(
        g.TimeMix, "time_scale", [v.node], edge, name=name, axis=axis, causal=True,
        matrix=b.constant(f"{name}.matrix", array_of(matrix)),
        bias=b.constant(f"{name}.bias", array_of(plane(bias))),
    )  # fmt: skip
    return Val(name, edge, v.axes)


# -- two values ------------------------------------------------------------------------------------------


def pair(b: Builder, x: Val, y: Val) -> tuple[Val, Val, Any]:
    """Two values that can be combined elementwise, and the axes of the result (from broadcasting)."""
    if x.axes == y.axes and x.edge.steps == y.edge.steps:
        return x, y, x.axes
    x, y = _same_time(b, x, y), _same_time(b, y, x)
    if x.axes == y.axes and x.edge.steps == y.edge.steps:
        return x, y, x.axes
    (x, y), lead = same_lead(b, [x, y])
    return x, y, lead


def _same_time(b: Builder, x: Val, other: Val) -> Val:
    """`x` repeated over time where it is one row a sample and the other has steps."""
    T = other.edge.steps
    if x.edge.steps or not T:
        return x
    if other.axes[0] == ("T",):
        first = x.axes[0]
        if len(x.axes) == len(other.axes) - 1 and x.axes[0][0] == "N":
            return repeated(b, x, T)
        if len(x.axes) == len(other.axes) and len(first) == 1 and isinstance(first[0], int):
            if x.edge.shape[first[0]] != 1:
                return x
            shape = tuple(s for i, s in enumerate(x.edge.shape) if i != first[0])
            moved = b.move(x, ("view", shape), shape=shape)
            axes = tuple(
                tuple(a - 1 if isinstance(a, int) and a > first[0] else a for a in ax) for ax in x.axes[1:]
            )
            return repeated(b, Val(moved.node, moved.edge, axes), T)
    elif T == 1 and x.axes[0][:1] == ("N",):
        out = repeated(b, x, 1)
        return out.with_(axes=x.axes)
    return x


def result(b: Builder, x: Val, y: Val, axes: Any, kind: Kind) -> tuple[Edge, Any]:
    """Edge and axes of an elementwise result."""
    n = max(len(x.edge.shape), len(y.edge.shape))
    shape = np.broadcast_shapes(
        (1,) * (n - len(x.edge.shape)) + x.edge.shape, (1,) * (n - len(y.edge.shape)) + y.edge.shape
    )
    edge = Edge(kind, tuple(int(s) for s in shape), x.edge.steps)
    return edge, axes.axes(edge) if hasattr(axes, "axes") else axes


def add(b: Builder, x: Val, y: Val, signs: tuple[int, int]) -> Val:
    """signs[0] * x + signs[1] * y."""
    x, y, axes = pair(b, x, y)
    kind, scale = _sum_kind(b, x, y, signs)
    edge, axes = result(b, x, y, axes, kind)
    part = "add" if signs == (1, 1) else "sub"
    out = b.add(g.Add, part, [x.node, y.node], edge, shifts=(0, 0), signs=signs)
    if scale != 1.0:
        b.scales[out.name] = scale
    return Val(out.name, edge, axes)


def _sum_kind(b: Builder, x: Val, y: Val, signs: tuple[int, int]) -> tuple[Kind, float]:
    counts = {"binary", "integer"}
    scales = {b.scale(x.node), b.scale(y.node)}
    if x.edge.kind.name in counts and y.edge.kind.name in counts and signs == (1, 1) and len(scales) == 1:
        return kinds.integer(x.edge.kind.levels + y.edge.kind.levels), scales.pop()
    return kinds.real, 1.0


def product_kind(x: Kind, y: Kind) -> Kind:
    """Kind of the product of two edges."""
    names = {x.name, y.name}
    if names <= {"binary"}:
        return kinds.binary
    if names <= {"binary", "ternary"}:
        return kinds.ternary
    if names <= {"binary", "integer"}:
        return kinds.integer(x.levels * y.levels)
    return kinds.real


def multiply(b: Builder, x: Val, y: Val) -> Val:
    """Elementwise product; masking by a binary value keeps the spike kind."""
    x, y, axes = pair(b, x, y)
    kind = product_kind(x.edge.kind, y.edge.kind)
    edge, axes = result(b, x, y, axes, kind)
    out = b.add(g.Mul, "mul", [x.node, y.node], edge)
    if kind.is_spikes and b.scale(x.node) * b.scale(y.node) != 1.0:
        b.scales[out.name] = b.scale(x.node) * b.scale(y.node)
    return Val(out.name, edge, axes)


@lowers("aten.add", "aten.sub", "aten.rsub", "aten.subtract")
def add_sub(b: Builder, node: fx.Node, a: Args) -> Any:
    """Sums and differences."""
    x, y, alpha = a["self"], a["other"], float(a.get("alpha", 1))
    sign_x, sign_y = 1.0, alpha
    if "rsub" in packet(node):
        sign_x, sign_y = -alpha, 1.0
    elif "sub" in packet(node):
        sign_y = -alpha
    cx, cy = _constant(x), _constant(y)
    if cy is not None:
        return affine(b, x, torch.tensor(sign_x, dtype=torch.float64), sign_y * cy, _word(node))
    if cx is not None:
        return affine(b, y, torch.tensor(sign_y, dtype=torch.float64), sign_x * cx, _word(node))
    x, sign_x = _unit(b, x, sign_x)
    y, sign_y = _unit(b, y, sign_y)
    return add(b, x, y, (int(sign_x), int(sign_y)))


def _unit(b: Builder, v: Val, factor: float) -> tuple[Val, float]:
    """Only signs stay in a sum; other factors become an Affine before it."""
    if abs(factor) == 1.0:
        return v, factor
    zero = torch.zeros((), dtype=torch.float64)
    return affine(b, v, torch.tensor(factor, dtype=torch.float64), zero, "alpha"), 1.0


def _word(node: fx.Node) -> str:
    return packet(node).split(".")[-1]


@lowers("aten.mul", "aten.multiply", "aten.div", "aten.divide", "aten.true_divide")
def mul_div(b: Builder, node: fx.Node, a: Args) -> Any:
    """Products, and quotients by constants."""
    x, y = a["self"], a["other"]
    if a.get("rounding_mode") is not None:
        return opaque(b, node, a)
    divides = "div" in packet(node)
    cx, cy = _constant(x), _constant(y)
    zero = torch.zeros((), dtype=torch.float64)
    if cy is not None:
        return affine(b, x, 1 / cy if divides else cy, zero, _word(node))
    if divides:
        return opaque(b, node, a)
    if cx is not None:
        return affine(b, y, cx, zero, _word(node))
    return multiply(b, x, y)


@lowers("aten.neg")
def negate(b: Builder, node: fx.Node, a: Args) -> Any:
    """-x."""
    one, zero = torch.tensor(-1.0, dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    return affine(b, a["self"], one, zero, "neg")


@lowers(
    "aten.logical_and",
    "aten.logical_or",
    "aten.bitwise_and",
    "aten.bitwise_or",
    "aten.__and__",
    "aten.__or__",
)
def logic(b: Builder, node: fx.Node, a: Args) -> Any:
    """Logic of two binary values."""
    x, y = a["self"], a["other"]
    if not (isinstance(x, Val) and isinstance(y, Val)) or {x.edge.kind, y.edge.kind} != {kinds.binary}:
        return opaque(b, node, a)
    x, y, axes = pair(b, x, y)
    edge, axes = result(b, x, y, axes, kinds.binary)
    op = "and" if "and" in packet(node) else "or"
    out = b.add(g.Logic, op, [x.node, y.node], edge, op=op)
    return Val(out.name, edge, axes)


# -- reductions ------------------------------------------------------------------------------------------


@lowers("aten.mean", "aten.sum")
def reduce(b: Builder, node: fx.Node, a: Args) -> Any:
    """Mean or sum over row axes, and over time."""
    v: Val = a["self"]
    dims = a.get("dim")
    total = "sum" in packet(node)
    if dims is None or (isinstance(dims, list) and not dims):
        b.fail(f"{_word(node)}() without dim runs over the batch; name the axes: x.{_word(node)}(dim=(...))")
    dims = sorted({d % len(v.axes) for d in ([dims] if isinstance(dims, int) else dims)})
    keep = bool(a.get("keepdim"))
    while any(v.axes[d] == ("T",) for d in dims):
        d = next(i for i in dims if v.axes[i] == ("T",))
        if len(dims) == 1 and not keep:
            return over_time(b, v, d, "sum" if total else "mean")
        rest = [i for i in dims if i != d]
        if rest:
            v = _over_rows(b, v, rest, total, True)
        v = over_time(b, v, d, "sum" if total else "mean")
        shown = [(1, 0) if i in dims and keep else _axis(v, i, d) for i in range(len(v.axes) + 1)]
        kept = [s for i, s in enumerate(shown) if keep or i not in dims]
        return b.reshape(v, kept) if keep or rest else v
    return _over_rows(b, v, dims, total, keep)


def _axis(v: Val, i: int, gone: int) -> tuple[int, int]:
    from picojoule.graph.rows import axis_size

    return (1, 0) if i == gone else axis_size(v.axes[i - (i > gone)], v.edge)


def over_time(b: Builder, v: Val, dim: int, mode: str, part: str = "") -> Val:
    """A readout of a value with time apart."""
    kind = v.edge.kind
    if mode == "mean":
        kind = kinds.real
    elif mode == "sum":
        kind = kinds.integer(kind.levels * v.edge.steps) if kind.name in ("binary", "integer") else kinds.real
    edge = Edge(kind, v.edge.shape, 0)
    out = b.emit(g.Readout, part or mode, [v.node], edge, mode=mode)
    if kind.is_spikes:
        b.like(v, out.node)
    axes = tuple(tuple("N" if x == "B" else x for x in ax) for i, ax in enumerate(v.axes) if i != dim)
    return Val(out.node, edge, axes)


def _over_rows(b: Builder, v: Val, dims: list[int], total: bool, keep: bool) -> Val:
    axes = []
    for dim in dims:
        if len(v.axes[dim]) != 1:
            v = b.shown(*b.rows(v))
        v, axis, _ = row_axis(b, v, dim, "a mean or sum")
        axes.append(axis)
    axes.sort()
    count = int(np.prod([v.edge.shape[i] for i in axes]))
    kept = tuple(1 if i in axes else s for i, s in enumerate(v.edge.shape))
    shape = kept if keep else tuple(s for i, s in enumerate(v.edge.shape) if i not in axes)
    counts = total and v.edge.kind.name in ("binary", "integer")
    kind = kinds.integer(v.edge.kind.levels * count) if counts else kinds.real
    edge = Edge(kind, shape, v.edge.steps)
    out = b.add(
        g.Mean, "sum" if total else "mean", [v.node], edge, axes=tuple(axes), keepdim=keep, total=total
    )
    if counts:
        b.like(v, out.name)
    if keep:
        return Val(out.name, edge, v.axes)

    def rename(x: Any) -> Any:
        return x - sum(i < x for i in axes) if isinstance(x, int) else x

    left = tuple(tuple(rename(x) for x in ax) for i, ax in enumerate(v.axes) if i not in dims)
    return Val(out.name, edge, left)


@lowers("aten.amax", "aten.max")
def largest(b: Builder, node: fx.Node, a: Args) -> Any:
    """Maximum over time is a readout; of two values, or over row axes, it stays opaque."""
    v, dims = a["self"], a.get("dim")
    if "other" in a or not isinstance(v, Val) or "amax" not in packet(node):
        return opaque(b, node, a)
    dims = [dims] if isinstance(dims, int) else list(dims or [])
    if len(dims) == 1 and v.axes[dims[0] % len(v.axes)] == ("T",) and not a.get("keepdim"):
        return over_time(b, v, dims[0] % len(v.axes), "max")
    return opaque(b, node, a)


__all__ = ["add", "affine", "multiply", "over_time", "value"]
