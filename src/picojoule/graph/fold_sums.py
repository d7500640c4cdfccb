"""Folding sums, products and staircases: where scales agree, nothing is rounded. See docs/folding.md."""

from __future__ import annotations

import numpy as np

from picojoule.core.errors import PackError
from picojoule.core.kinds import Kind, binary, integer, ternary
from picojoule.graph import nodes as g
from picojoule.graph import symbolic as sy
from picojoule.graph.folder import Folder, Rule, place
from picojoule.graph.snapped_moves import AddOp, LogicOp, MatMulOp, MulOp
from picojoule.graph.snapped_ops import LutOp
from picojoule.graph.symbolic import Array, Sym, dyadic, scalar

MAX_SHIFT = 24  # farther apart, two scales meet on a grid instead


def fold_add(f: Folder, node: g.Add) -> Sym:
    """Equal scales add exactly; others meet on a dyadic grid. Constants join the offset."""
    syms = f.inputs(node)
    signs = list(node.signs or (1,) * len(syms))
    shape, ndim = node.edge.shape, len(node.edge.shape)
    extra = scalar(0, ndim)
    for sym, sign in zip(syms, signs):
        if not sym.name:
            extra = extra + sign * _lifted(sym.offset, ndim)
    data = [(sym, sign) for sym, sign in zip(syms, signs) if sym.name]
    if not data:
        raise PackError(f"{place(node)} adds constants only")
    if len(data) == 1 and data[0][0].shape == shape:
        sym, sign = data[0]
        return sym.with_(scale=sign * sym.scale, offset=sy.compress(sign * sym.offset + extra))
    ratios = _ratios([sym for sym, _ in data], ndim)
    if ratios is None:
        frac = max(f.frac(node), *(dyadic(sym) or 0 for sym, _ in data))
        data = [(f.on_grid(sym, frac, node), sign) for sym, sign in data]
        ratios = _ratios([sym for sym, _ in data], ndim)
    if ratios is None:
        raise PackError(f"{place(node)} adds edges that do not meet on a grid of {f.frac(node)} bits")
    low = min(shift for shift, _ in ratios)
    shifts = tuple(shift - low for shift, _ in ratios)
    turned = tuple(sign * turn for (_, sign), (_, turn) in zip(data, ratios))
    scale = _lifted(data[0][0].scale, ndim) * 2.0 ** (low - ratios[0][0])
    offset = extra + sum(sign * _lifted(sym.offset, ndim) for sym, sign in data)
    return f.emit(
        AddOp(shifts, turned), node, [sym for sym, _ in data], shape, node.edge.steps, scale, offset
    )


def _lifted(array: Array, ndim: int) -> Array:
    """An array over [T, *row] with leading row axes of size 1 added."""
    return array.reshape(array.shape[0], *(1,) * (1 + ndim - array.ndim), *array.shape[1:])


def _ratios(syms: list[Sym], ndim: int) -> list[tuple[int, int]] | None:
    """(shift, sign) of every scale relative to the first, when all ratios are powers of two; else None."""
    first = _lifted(syms[0].scale, ndim)
    found = []
    for sym in syms:
        a, b = np.broadcast_arrays(first, _lifted(sym.scale, ndim))
        if ((a == 0) != (b == 0)).any():
            return None
        q = np.unique(b[a != 0] / a[a != 0]) if (a != 0).any() else np.ones(1)
        if len(q) != 1:
            return None
        mantissa, exponent = np.frexp(abs(q[0]))
        if mantissa != 0.5 or abs(exponent - 1) > MAX_SHIFT:
            return None
        found.append((int(exponent) - 1, 1 if q[0] > 0 else -1))
    return found


def fold_mul(f: Folder, node: g.Mul) -> Sym:
    """Scales multiply; a constant factor is a scale; offsets go onto a grid first."""
    a, b = f.inputs(node)
    ndim = len(node.edge.shape)
    if not a.name:
        a, b = b, a
    if not b.name:
        factor = _lifted(b.offset, ndim)
        if a.shape == node.edge.shape:
            return a.with_(scale=sy.compress(a.scale * factor), offset=sy.compress(a.offset * factor))
        raise PackError(f"{place(node)} enlarges data by a constant; expand the data first")
    a, b = (sym if sym.no_offset else f.on_grid(sym, f.frac(node), node) for sym in (a, b))
    scale = _lifted(a.scale, ndim) * _lifted(b.scale, ndim)
    kind = _product_kind(a.kind, b.kind)
    return f.emit(MulOp(), node, [a, b], node.edge.shape, node.edge.steps, scale, scalar(0, ndim), kind=kind)


def _product_kind(a: Kind, b: Kind) -> Kind | None:
    names = {a.name, b.name}
    if names <= {"binary", "ternary"}:
        return ternary if "ternary" in names else binary
    if names <= {"binary", "integer"}:
        return integer(a.levels * b.levels)
    return None


def fold_logic(f: Folder, node: g.Logic) -> Sym:
    """Binary edges of scale 1."""
    a, b = f.inputs(node)
    for sym in (a, b):
        if sym.kind != binary or dyadic(sym) != 0:
            raise PackError(f"{place(node)} needs binary spikes of value 1 on both sides, got {sym.kind}")
    ndim = len(node.edge.shape)
    return f.emit(
        LogicOp(node.op),
        node,
        [a, b],
        node.edge.shape,
        node.edge.steps,
        scalar(1, ndim),
        scalar(0, ndim),
        kind=binary,
    )


def fold_matmul(f: Folder, node: g.MatMul) -> Sym:
    """Scales multiply where they do not change along the summed axis; offsets go onto a grid first."""
    a, b = f.inputs(node)
    frac = f.frac(node)
    if not a.no_offset or a.scale.shape[-1] > 1:
        a = f.on_grid(a, frac, node)
    if not b.no_offset or b.scale.shape[-2] > 1:
        b = f.on_grid(b, frac, node)
    ndim = len(node.edge.shape)
    scale = _lifted(a.scale, ndim) * _lifted(b.scale, ndim)
    op = MatMulOp(a.shape[-1])
    return f.emit(op, node, [a, b], node.edge.shape, node.edge.steps, scale, scalar(0, ndim))


def fold_lut(f: Folder, node: g.Lut) -> Sym:
    """Breaks compare exactly with integers of one positive scale; values go onto the grid."""
    sym = f.inputs(node)[0]
    frac, ndim = f.frac(node), len(node.edge.shape)
    if sym.scale.size > 1 or sym.offset.size > 1 or sym.scale.reshape(-1)[0] <= 0:
        sym = f.on_grid(sym, frac, node)
    q = (f.tensor(node.breaks) - sym.offset.reshape(-1)[0]) / sym.scale.reshape(-1)[0]
    whole = np.rint(q)
    breaks = np.where(np.abs(q - whole) <= 1e-9 * np.maximum(np.abs(q), 1), whole, np.ceil(q))
    op = LutOp(breaks, f.tensor(node.values), frac)
    return f.emit(
        op, node, [sym], node.edge.shape, node.edge.steps, scalar(2.0**-frac, ndim), scalar(0, ndim)
    )


TABLE: dict[type[g.Node], Rule] = {
    g.Add: fold_add,
    g.Mul: fold_mul,
    g.Logic: fold_logic,
    g.MatMul: fold_matmul,
    g.Lut: fold_lut,
}
