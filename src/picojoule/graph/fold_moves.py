"""Folding windows, joins, moves and time: scale and offset travel with the data. See docs/folding.md."""

from __future__ import annotations

import numpy as np

from picojoule.core.errors import PackError
from picojoule.core.kinds import Kind, binary, ternary
from picojoule.graph import nodes as g
from picojoule.graph import symbolic as sy
from picojoule.graph.folder import Folder, Rule, place
from picojoule.graph.snapped_moves import (
    ConcatOp,
    PoolOp,
    ReadoutOp,
    RepeatOp,
    ReshapeOp,
    SumOp,
    UpsampleOp,
)
from picojoule.graph.snapped_ops import product
from picojoule.graph.symbolic import Array, Sym, dyadic, scalar

MAX_SHIFT = 24  # farther apart, two grids are not joined by shifts


def fold_pool(f: Folder, node: g.Pool) -> Sym:
    """Max: min where the slope is negative. Avg: a sum whose count divides the scale."""
    sym = f.inputs(node)[0]
    padded = any(side for pair in node.padding for side in pair)
    mode = "sum" if node.mode == "avg" else node.mode
    uneven = sy.varying(sym.scale, sym.offset) - {0} or (mode != "sum" and sym.scale.shape[0] > 1)
    if uneven or (mode == "sum" and padded and not sym.no_offset):
        sym = f.on_grid(sym, f.frac(node), node)
    if mode == "sum":
        count = product(node.kernel)
        divisor = (node.divisor or count) if node.mode == "avg" else 1
        return f.emit(
            PoolOp(node, mode, None), node, [sym], node.edge.shape, sym.steps, sym.scale / divisor,
            sym.offset * count / divisor,
        )  # fmt: skip
    negative = np.broadcast_to(sym.scale.reshape(-1) < 0, (sym.shape[0],))
    flip = negative if negative.any() else None
    kind = sym.kind if sym.kind.is_spikes else None
    op = PoolOp(node, mode, flip)
    return f.emit(op, node, [sym], node.edge.shape, sym.steps, sym.scale, sym.offset, kind=kind)


def fold_mean(f: Folder, node: g.Mean) -> Sym:
    """An exact sum; a mean's count divides the scale."""
    sym = f.inputs(node)[0]
    ndim = len(sym.shape)
    axes = tuple(sorted(a % ndim for a in node.axes))
    if any(sym.scale.shape[1 + a] > 1 for a in axes):
        sym = f.on_grid(sym, f.frac(node), node)
    count = product(sym.shape[a] for a in axes)
    share = 1.0 if node.total else 1.0 / count
    along = tuple(1 + a for a in axes)
    offset = np.broadcast_to(
        sym.offset, [sym.shape[i - 1] if i in along else n for i, n in enumerate(sym.offset.shape)]
    ).sum(along, keepdims=True)
    arrays = [sym.scale * share, offset * share]
    if not node.keepdim:
        arrays = [a.squeeze(along) for a in arrays]
    return f.emit(SumOp(axes, node.keepdim, count), node, [sym], node.edge.shape, sym.steps, *arrays)


def fold_concat(f: Folder, node: g.Concat) -> Sym:
    """Scales side by side; edges on dyadic grids are shifted to one scale."""
    syms = f.inputs(node)
    if any(not sym.name for sym in syms):
        raise PackError(f"{place(node)} joins a constant to data; add it to the model's input instead")
    ndim = len(node.edge.shape)
    axis = node.axis % ndim
    fracs = [dyadic(sym) for sym in syms]
    known = [k for k in fracs if k is not None]
    if len(known) == len(syms) and max(known) - min(known) <= MAX_SHIFT:
        shifts = tuple(max(known) - k for k in known)
        scale, offset = scalar(2.0 ** -max(known), ndim), scalar(0, ndim)
        kind = None if any(shifts) else _joined_kind([sym.kind for sym in syms])
    else:
        shifts, kind = (0,) * len(syms), _joined_kind([sym.kind for sym in syms])
        scale, offset = (
            _side_by_side([getattr(sym, k) for sym in syms], syms, axis) for k in ("scale", "offset")
        )
    op = ConcatOp(axis, shifts)
    return f.emit(op, node, syms, node.edge.shape, node.edge.steps, scale, offset, kind=kind)


def _side_by_side(arrays: list[Array], syms: list[Sym], axis: int) -> Array:
    full = []
    common = np.broadcast_shapes(
        *(tuple(1 if i == 1 + axis else n for i, n in enumerate(a.shape)) for a in arrays)
    )
    for array, sym in zip(arrays, syms):
        size = tuple(sym.shape[axis] if i == 1 + axis else n for i, n in enumerate(common))
        full.append(np.broadcast_to(array, size))
    return np.concatenate(full, 1 + axis)


def _joined_kind(kinds: list[Kind]) -> Kind | None:
    names = {kind.name for kind in kinds}
    if names <= {"binary", "integer"}:
        return max(kinds, key=lambda kind: kind.levels) if names != {"binary"} else binary
    return ternary if names <= {"binary", "ternary"} else None


def fold_upsample(f: Folder, node: g.Upsample) -> Sym:
    """Arrays grow with the data."""
    sym = f.inputs(node)[0]
    arrays = []
    for array in (sym.scale, sym.offset):
        for i, factor in enumerate(node.factors):
            if array.shape[2 + i] > 1:
                array = np.repeat(array, factor, 2 + i)
        arrays.append(array)
    kind = sym.kind if sym.kind.is_spikes else None
    return f.emit(UpsampleOp(node.factors), node, [sym], node.edge.shape, sym.steps, *arrays, kind=kind)


def fold_reshape(f: Folder, node: g.Reshape) -> Sym:
    """Arrays move with the data; an offset may not meet new zeros."""
    sym = f.inputs(node)[0]
    if sy.has_pad(node) and not sym.no_offset:
        sym = f.on_grid(sym, f.frac(node), node)
    arrays = [sy.moved(a, sym.shape, node.moves) for a in (sym.scale, sym.offset)]
    if not sym.name:
        return sym.with_(shape=node.edge.shape, scale=arrays[0], offset=arrays[1])
    kind = sym.kind if sym.kind.is_spikes else None
    return f.emit(ReshapeOp(node.moves), node, [sym], node.edge.shape, sym.steps, *arrays, kind=kind)


# -- time ----------------------------------------------------------------------------------------------


def fold_repeat(f: Folder, node: g.Repeat) -> Sym:
    """One row a sample to T rows."""
    sym = f.inputs(node)[0]
    if not sym.name:
        return sym.with_(steps=node.edge.steps)
    kind = sym.kind if sym.kind.is_spikes else None
    return f.emit(RepeatOp(), node, [sym], node.edge.shape, node.edge.steps, sym.scale, sym.offset, kind=kind)


def fold_readout(f: Folder, node: g.Readout) -> Sym:
    """Mean: an exact sum, T divides the scale. Max needs rising scales."""
    sym = f.inputs(node)[0]
    T = max(sym.steps, 1)
    mode = "sum" if node.mode == "mean" else node.mode
    uneven = sym.scale.shape[0] > 1 or (mode == "max" and ((sym.scale < 0).any() or sym.offset.shape[0] > 1))
    if uneven:
        sym = f.on_grid(sym, f.frac(node), node)
    scale, offset, kind = sym.scale, sym.offset, sym.kind if sym.kind.is_spikes else None
    if mode == "sum":
        if f.grid.stream:
            raise PackError(
                f"{place(node)}: a running sum (or mean) has no bound in a stream; read out 'last' or 'steps'"
            )
        share = 1.0 / T if node.mode == "mean" else 1.0
        whole = np.broadcast_to(offset, (T, *offset.shape[1:])).sum(0, keepdims=True)
        scale, offset, kind = scale * share, whole * share, None
    elif mode == "last":
        offset = offset[-1:]
    return f.emit(ReadoutOp(mode, T), node, [sym], node.edge.shape, 0, scale, offset, kind=kind)


TABLE: dict[type[g.Node], Rule] = {
    g.Pool: fold_pool,
    g.Mean: fold_mean,
    g.Concat: fold_concat,
    g.Upsample: fold_upsample,
    g.Reshape: fold_reshape,
    g.Repeat: fold_repeat,
    g.Readout: fold_readout,
}
