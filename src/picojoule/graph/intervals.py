"""Exact bounds of the integers on every edge of a snapped graph, by interval arithmetic. No torch.

An interval is a pair of int64 arrays with the rank of the row and extent 1 or full on each axis, so that
bounds stay per channel where that is tight and cheap. Every operation proves that its result stays below
2^62 before it computes, so that nothing wraps around.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from picojoule.core.kinds import Kind
from picojoule.graph import nodes as n
from picojoule.graph.moves import MAX_VALUE, axis_of, fail, moved

Array = np.ndarray
FULL = 1 << 16  # axes up to this extent may keep separate bounds
EXACT_STEPS = 256  # after so many steps of an unsettled membrane a sound leap replaces exact steps


class Interval(NamedTuple):
    """Bounds of a row: arrays that broadcast to the row shape and have its rank."""

    low: Array
    high: Array

    @property
    def ends(self) -> tuple[int, int]:
        """Bounds of the whole row."""
        return int(self.low.min()), int(self.high.max())


class TooWide(ArithmeticError):
    """A bound would pass 62 bits."""


def _peak(a: Array) -> int:
    return max(-int(a.min()), int(a.max()))


def times(a: Array, b: Array) -> Array:
    """Elementwise product, proven to stay below 2^62."""
    if _peak(a) * _peak(b) >= MAX_VALUE:
        raise TooWide
    return a * b


def plus(a: Array, b: Array) -> Array:
    """Elementwise sum, proven to stay below 2^62."""
    if _peak(a) + _peak(b) >= MAX_VALUE:
        raise TooWide
    return a + b


def total(a: Array, axis: int, count: int) -> Array:
    """Sum of `count` equal rows, or along an axis that is stored in full; keeps the axis."""
    if _peak(a) * count >= MAX_VALUE:
        raise TooWide
    return a * count if a.shape[axis] == 1 else a.sum(axis=axis, keepdims=True)


def span(low: int, high: int, rank: int) -> Interval:
    """One interval for the whole row."""
    shape = (1,) * rank
    return Interval(np.full(shape, low, np.int64), np.full(shape, high, np.int64))


def of_kind(kind: Kind, rank: int) -> Interval:
    """What an edge of that kind can hold."""
    return span(kind.low, kind.high, rank)


def along(x: Interval, axis: int) -> tuple[Array, Array]:
    """Bounds per channel along one row axis, each [C|1]."""
    others = tuple(i for i in range(x.low.ndim) if i != axis)
    return x.low.min(axis=others), x.high.max(axis=others)


def spread(values: Array, axis: int, rank: int) -> Array:
    """A [C|1] constant placed on one axis of a row."""
    return values.astype(np.int64).reshape(tuple(-1 if i == axis else 1 for i in range(rank)))


def scale(x: Interval, gain: Array) -> Interval:
    """Bounds of gain * x."""
    a, b = times(gain, x.low), times(gain, x.high)
    return Interval(np.minimum(a, b), np.maximum(a, b))


def rshift(x: Array, shift: int, rounding: str) -> Array:
    """floor(x / 2^shift), or with "half_up" floor(x / 2^shift + 1/2)."""
    if shift and rounding == "half_up":
        x = plus(x, np.array([1 << (shift - 1)]))
    return x >> shift


def _conv_weight(graph: n.Graph, node: n.Conv | n.Linear, spread_out: bool) -> tuple[Array, Array]:
    """Sums of the positive and of the negative weights: [C_out, inputs], or [C_out, 1] for all inputs."""
    weight = graph.tensor(node.weight)
    if node.coding.codebook is not None:
        book = graph.tensor(node.coding.codebook).astype(np.int64)
        index = weight.astype(np.int64)
        return tuple(
            part.sum(1)[index].sum(1)[:, None] for part in (np.maximum(book, 0), np.minimum(book, 0))
        )
    rows = weight.reshape(weight.shape[0], weight.shape[1] if spread_out else 1, -1)
    return tuple(part.sum(2, dtype=np.int64) for part in (np.maximum(rows, 0), np.minimum(rows, 0)))


def _synapse(
    graph: n.Graph, node: n.Conv | n.Linear, x: Interval, axis: int, groups: int, padded: bool
) -> Interval:
    low, high = along(x, axis)
    if padded:
        low, high = np.minimum(low, 0), np.maximum(high, 0)
    by_input = low.size > 1 and node.coding.codebook is None
    if not by_input:
        low, high = low.min(keepdims=True), high.max(keepdims=True)
    positive, negative = _conv_weight(graph, node, by_input)
    width = positive.shape[1]
    if (_peak(positive) + _peak(negative)) * max(_peak(low), _peak(high)) * width >= MAX_VALUE:
        raise TooWide
    if by_input:  # [groups, C_out/groups, C_in/groups] times [groups, C_in/groups, 1]
        shape = (groups, positive.shape[0] // groups, width)
        positive, negative = positive.reshape(shape), negative.reshape(shape)
        low, high = low.reshape(groups, width, 1), high.reshape(groups, width, 1)
        least, most = positive @ low + negative @ high, positive @ high + negative @ low
    else:
        least, most = positive * low + negative * high, positive * high + negative * low
    out = Interval(least.reshape(-1), most.reshape(-1))
    if node.bias is not None:
        bias = graph.tensor(node.bias).astype(np.int64)
        out = Interval(plus(out.low, bias), plus(out.high, bias))
    rank = len(node.edge.shape)
    return Interval(spread(out.low, axis, rank), spread(out.high, axis, rank))


def _conv(graph: n.Graph, node: n.Conv, xs: Sequence[Interval], edges: Sequence[n.Edge]) -> Interval:
    return _synapse(graph, node, xs[0], 0, node.groups, any(map(any, node.padding)))


def _linear(graph: n.Graph, node: n.Linear, xs: Sequence[Interval], edges: Sequence[n.Edge]) -> Interval:
    return _synapse(graph, node, xs[0], len(node.edge.shape) - 1, 1, False)


def _add(graph: n.Graph, node: n.Add, xs: Sequence[Interval], edges: Sequence[n.Edge]) -> Interval:
    rank = len(node.edge.shape)
    low = high = np.zeros((1,) * rank, np.int64)
    for i, x in enumerate(xs):
        sign = (node.signs[i] if node.signs else 1) << (node.shifts[i] if node.shifts else 0)
        part = scale(_lift(x, rank), np.array([sign]))
        low, high = plus(low, part.low), plus(high, part.high)
    return Interval(low, high)


def _lift(x: Interval, rank: int) -> Interval:
    lead = (1,) * (rank - x.low.ndim)
    return Interval(x.low.reshape(lead + x.low.shape), x.high.reshape(lead + x.high.shape))


def _mul(graph: n.Graph, node: n.Mul, xs: Sequence[Interval], edges: Sequence[n.Edge]) -> Interval:
    rank = len(node.edge.shape)
    a, b = _lift(xs[0], rank), _lift(xs[1], rank)
    corners = [times(p, q) for p in a for q in b]
    return Interval(
        np.minimum(np.minimum(corners[0], corners[1]), np.minimum(corners[2], corners[3])),
        np.maximum(np.maximum(corners[0], corners[1]), np.maximum(corners[2], corners[3])),
    )


def _logic(graph: n.Graph, node: n.Logic, xs: Sequence[Interval], edges: Sequence[n.Edge]) -> Interval:
    return span(0, 1, len(node.edge.shape))


def _matmul(graph: n.Graph, node: n.MatMul, xs: Sequence[Interval], edges: Sequence[n.Edge]) -> Interval:
    products = [p * q for p in xs[0].ends for q in xs[1].ends]
    depth = edges[0].shape[-1]
    if max(map(abs, products)) * depth >= MAX_VALUE:
        raise TooWide
    return span(min(products) * depth, max(products) * depth, len(node.edge.shape))


def _affine(graph: n.Graph, node: n.Affine, xs: Sequence[Interval], edges: Sequence[n.Edge]) -> Interval:
    rank = len(node.edge.shape)
    axis = axis_of(node, node.axis, rank)
    bias = spread(graph.tensor(node.bias), axis, rank)
    x = scale(xs[0], spread(graph.tensor(node.gain), axis, rank))
    return Interval(*(rshift(plus(end, bias), node.shift, node.rounding) for end in x))


def _lut(graph: n.Graph, node: n.Lut, xs: Sequence[Interval], edges: Sequence[n.Edge]) -> Interval:
    return span(*staircase(graph, node, *xs[0].ends), len(node.edge.shape))


def staircase(graph: n.Graph, node: n.Lut | n.Neuron, low: int, high: int) -> tuple[int, int]:
    """Bounds of a staircase over the inputs low..high."""
    first, last = np.searchsorted(graph.tensor(node.breaks), [low, high], side="right")
    reached = graph.tensor(node.values)[first : last + 1]
    return int(reached.min()), int(reached.max())


def _pool(graph: n.Graph, node: n.Pool, xs: Sequence[Interval], edges: Sequence[n.Edge]) -> Interval:
    x = xs[0]
    space = tuple(range(1, x.low.ndim))
    low, high = x.low.min(axis=space, keepdims=True), x.high.max(axis=space, keepdims=True)
    if node.mode != "sum":
        return Interval(low, high)
    if any(map(any, node.padding)):
        low, high = np.minimum(low, 0), np.maximum(high, 0)
    if math.prod(node.kernel) >= MAX_VALUE:
        raise TooWide
    count = np.full((1,) * x.low.ndim, math.prod(node.kernel), np.int64)
    return Interval(times(low, count), times(high, count))


def _mean(graph: n.Graph, node: n.Mean, xs: Sequence[Interval], edges: Sequence[n.Edge]) -> Interval:
    row, (low, high) = edges[0].shape, xs[0]
    gone = tuple(axis_of(node, axis, len(row), "axes") for axis in node.axes)
    for axis in gone:
        low, high = total(low, axis, row[axis]), total(high, axis, row[axis])
    if not node.keepdim:
        low, high = low.squeeze(gone), high.squeeze(gone)
    return Interval(low, high)


def _concat(graph: n.Graph, node: n.Concat, xs: Sequence[Interval], edges: Sequence[n.Edge]) -> Interval:
    rank = len(node.edge.shape)
    axis = axis_of(node, node.axis, rank)
    parts = [scale(x, np.array([1 << s])) for x, s in zip(xs, node.shifts or (0,) * len(xs))]
    ends = [along(part, axis) for part in parts]
    sizes = [edge.shape[axis] for edge in edges]
    if sum(sizes) > FULL:
        return span(min(int(a.min()) for a, _ in ends), max(int(b.max()) for _, b in ends), rank)
    low, high = (np.concatenate([np.broadcast_to(e[i], s) for e, s in zip(ends, sizes)]) for i in (0, 1))
    return Interval(spread(low, axis, rank), spread(high, axis, rank))


def _same(graph: n.Graph, node: n.Node, xs: Sequence[Interval], edges: Sequence[n.Edge]) -> Interval:
    return xs[0]


def _upsample(graph: n.Graph, node: n.Upsample, xs: Sequence[Interval], edges: Sequence[n.Edge]) -> Interval:
    space = tuple(range(1, xs[0].low.ndim))
    return Interval(xs[0].low.min(axis=space, keepdims=True), xs[0].high.max(axis=space, keepdims=True))


def _reshape(graph: n.Graph, node: n.Reshape, xs: Sequence[Interval], edges: Sequence[n.Edge]) -> Interval:
    row, x = edges[0].shape, xs[0]
    for move in node.moves:
        after = moved(node, row, move)
        x = _move(node, x, row, after, move)
        row = after
    return x


def _move(
    node: n.Reshape, x: Interval, row: tuple[int, ...], after: tuple[int, ...], move: tuple[Any, ...]
) -> Interval:
    """Bounds after one move: exact where channels keep their place, else one interval for the row."""
    name, rank = move[0], len(after)
    if name == "permute":
        return Interval(x.low.transpose(move[1]), x.high.transpose(move[1]))
    if name == "expand":
        return _lift(x, rank)
    if name in ("slice", "flip", "roll"):
        axis = move[1] % rank
        if x.low.shape[axis] == 1:
            return x
        if name == "slice":
            picked = np.arange(move[2], move[3], move[4])
            return Interval(x.low.take(picked, axis), x.high.take(picked, axis))
    if name == "pad":
        kept = tuple(i for i in range(rank) if any(move[1][i]))
        low, high = x.low.min(axis=kept, keepdims=True), x.high.max(axis=kept, keepdims=True)
        return Interval(np.minimum(low, 0), np.maximum(high, 0)) if kept else x
    return span(*x.ends, rank)


def _readout(graph: n.Graph, node: n.Readout, xs: Sequence[Interval], edges: Sequence[n.Edge]) -> Interval:
    if node.mode != "sum":
        return xs[0]
    return scale(xs[0], np.array([edges[0].steps]))


def _timemix(graph: n.Graph, node: n.TimeMix, xs: Sequence[Interval], edges: Sequence[n.Edge]) -> Interval:
    rank = len(node.edge.shape)
    axis = axis_of(node, node.axis, rank)
    low, high = along(xs[0], axis)
    matrix = graph.tensor(node.matrix).astype(np.int64)
    matrix = matrix[None] if matrix.ndim == 2 else matrix
    if (_peak(matrix) + 1) * matrix.shape[-1] * max(_peak(low), _peak(high)) >= MAX_VALUE:
        raise TooWide
    positive, negative = np.maximum(matrix, 0).sum(2), np.minimum(matrix, 0).sum(2)  # [C|1, T]
    least = positive * low[:, None] + negative * high[:, None]
    most = positive * high[:, None] + negative * low[:, None]
    if node.bias is not None:
        bias = graph.tensor(node.bias).astype(np.int64).T
        least, most = plus(least, bias), plus(most, bias)
    return Interval(spread(least.min(1), axis, rank), spread(most.max(1), axis, rank))


Bound = Callable[[n.Graph, Any, Sequence[Interval], Sequence[n.Edge]], Interval]
BOUNDS: dict[str, Bound] = {
    "Output": _same,
    "Repeat": _same,
    "Conv": _conv,
    "Linear": _linear,
    "Add": _add,
    "Mul": _mul,
    "Logic": _logic,
    "MatMul": _matmul,
    "Affine": _affine,
    "Lut": _lut,
    "Pool": _pool,
    "Mean": _mean,
    "Concat": _concat,
    "Upsample": _upsample,
    "Reshape": _reshape,
    "Readout": _readout,
    "TimeMix": _timemix,
}


def of_input(graph: n.Graph, node: n.Input) -> Interval:
    """What an input can hold: its kind's range, or its table per channel."""
    rank = len(node.edge.shape)
    if node.table is None:
        return of_kind(node.edge.kind, rank)
    table = graph.tensor(node.table)
    axis = axis_of(node, node.axis, rank)
    return Interval(spread(table.min(1), axis, rank), spread(table.max(1), axis, rank))


def too_wide(node: n.Node) -> None:
    """Raise the error of a node whose integers cannot be bounded below 2^62."""
    fail(node, "inputs", "its integers may pass 62 bits; use a coarser grid or smaller constants")
