"""Folding under way: operators made so far, and edges as scale * integer + offset (docs/folding.md)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from picojoule.core.errors import PackError
from picojoule.core.kinds import Kind, fixed
from picojoule.graph import nodes as g
from picojoule.graph.grid import Grid
from picojoule.graph.snapped_moves import ReshapeOp
from picojoule.graph.snapped_ops import AffineOp, Op, TimeMixOp, bits_for
from picojoule.graph.symbolic import Array, Sym, compress, dyadic, plane, scalar, varying

Rule = Callable[["Folder", Any], Sym]


def place(node: g.Node) -> str:
    """Module path and source line of a node, for errors."""
    module = f"module {node.module!r}" if node.module else "the model itself"
    line = f" ({node.source})" if node.source else ""
    return f"{module}{line}: {type(node).__name__} {node.name!r}"


class Folder:
    """The snapped operators made so far, and what each captured edge has become."""

    def __init__(self, graph: g.Graph, grid: Grid, samples: Any = None) -> None:
        self.graph, self.grid, self.samples = graph, grid, samples
        self.ops: list[Op] = []
        self.syms: dict[str, Sym] = {}
        self._taken = {node.name for node in graph.nodes}
        self._grids: dict[tuple[str, int], Sym] = {}

    def inputs(self, node: g.Node) -> list[Sym]:
        """Symbolic edges that a node reads."""
        return [self.syms[name] for name in node.inputs]

    def tensor(self, name: str | None) -> Array:
        """A captured constant in float64."""
        return np.asarray(self.graph.tensor(name), dtype=np.float64)

    def fresh(self, base: str) -> str:
        """A node name that is not taken."""
        name, count = base, 1
        while name in self._taken:
            count += 1
            name = f"{base}{count}"
        self._taken.add(name)
        return name

    def emit(
        self,
        op: Op,
        node: g.Node,
        inputs: list[Sym],
        shape: tuple[int, ...],
        steps: int,
        scale: Array,
        offset: Array,
        kind: Kind | None = None,
        name: str | None = None,
    ) -> Sym:
        """Add an operator; its range and bits are proven here.

        Args:
            kind: kind of a spike edge; None for a fixed edge, whose bits follow from its range.
            name: None takes the captured node's name.
        """
        op.name = node.name if name is None else self.fresh(name)
        op.inputs = tuple(sym.name for sym in inputs)
        op.shape, op.steps, op.source, op.path = tuple(shape), steps, node.source, node.module
        low, high = op.interval(*((sym.low, sym.high) for sym in inputs))
        op.kind = kind if kind is not None and kind.is_spikes else None
        found = Sym(op.name, fixed(8, 0), op.shape, steps, compress(scale), compress(offset), low, high)
        f = dyadic(found)
        op.frac = f if f is not None and f >= 0 else 0
        if op.kind is not None:
            low, high = min(low, op.kind.low), max(high, op.kind.high)
        bits = min(bits_for(low, high), 63)
        self.ops.append(op)
        return found.with_(kind=op.kind or fixed(bits, op.frac), low=low, high=high)

    # -- onto a dyadic grid -----------------------------------------------------------------------------

    def on_grid(self, sym: Sym, frac: int, node: g.Node) -> Sym:
        """`sym` with scale 2^-frac and no offset; unchanged on a dyadic grid that is not finer."""
        f = dyadic(sym)
        if f is not None and 0 <= f <= frac:
            return sym
        if not sym.name:
            raise PackError(f"{place(node)} uses a constant where only data can be packed")
        key = (sym.name, frac)
        known = self._grids.get(key)
        if known is not None and known.shape == sym.shape:
            return known
        made = self._materialise(sym, frac, node)
        self._grids[key] = made
        return made

    def _materialise(self, sym: Sym, frac: int, node: g.Node) -> Sym:
        base = f"{sym.name}.grid"
        if sym.scale.shape[0] > 1 or sym.offset.shape[0] > 1:
            return self._over_time(sym, frac, node)
        axes = varying(sym.scale, sym.offset)
        if len(axes) > 1:
            flat = self.flat(sym, node)
            made = self._materialise(flat, frac, node)
            return self.unflat(made, sym.shape, node)
        axis = min(axes) if axes else 0
        gain, bias = plane(sym.scale, axis), plane(sym.offset, axis)
        if gain is None or bias is None:
            raise PackError(f"{place(node)} needs a channel axis for the grid of {sym.name!r}")
        shift = _shift(gain, bias, frac, max(abs(sym.low), abs(sym.high), 1))
        op = AffineOp(gain[0], bias[0], axis, frac, shift)
        ndim = len(sym.shape)
        unit = scalar(2.0**-frac, ndim)
        return self.emit(op, node, [sym], sym.shape, sym.steps, unit, scalar(0, ndim), name=base)

    def _over_time(self, sym: Sym, frac: int, node: g.Node) -> Sym:
        """Scale or offset that change over the steps: a diagonal mix evens the scale, its bias adds the offset."""
        ndim, T = len(sym.shape), max(sym.steps, 1)
        base, later = f"{sym.name}.steps", sym.offset
        if sym.scale.shape[0] > 1:
            if varying(sym.scale):
                raise PackError(
                    f"{place(node)} reads an edge whose scale changes over time and channels at once, which only a "
                    "neuron takes; put a neuron between"
                )
            weights = sym.scale.reshape(-1)
            unit = 2.0 ** math.ceil(math.log2(max(float(np.abs(weights).max()), 2.0**-60)))
            op = TimeMixOp(np.diag(weights / unit), 15, 0, True)
            sym = self.emit(
                op, node, [sym], sym.shape, sym.steps, scalar(unit * 2.0**-15, ndim), later, name=base
            )
        if later.shape[0] == 1:
            return self._materialise(sym, frac, node)
        sym = sym.with_(offset=scalar(0, ndim))
        f = dyadic(sym)
        even = sym if f is not None and 0 <= f <= frac else self._materialise(sym, frac, node)
        axes = varying(later)
        bias = plane(later, min(axes) if axes else 0)
        if bias is None:
            raise PackError(
                f"{place(node)} reads an edge whose offset changes over time and several axes, which only a neuron "
                "takes; put a neuron between"
            )
        step = float(even.scale.reshape(-1)[0])
        op = TimeMixOp(np.eye(T), 0, min(axes) if axes else 0, True, bias, step)
        return self.emit(op, node, [even], sym.shape, sym.steps, even.scale, even.offset, name=base)

    def flat(self, sym: Sym, node: g.Node) -> Sym:
        """Rows viewed as [size], so that every element is a channel."""
        size = math.prod(sym.shape)
        arrays = [
            np.broadcast_to(a, (a.shape[0], *sym.shape)).reshape(a.shape[0], size)
            for a in (sym.scale, sym.offset)
        ]
        op = ReshapeOp((("view", (size,)),))
        return self.emit(op, node, [sym], (size,), sym.steps, *arrays, kind=sym.kind, name=f"{sym.name}.flat")

    def unflat(self, sym: Sym, shape: tuple[int, ...], node: g.Node, name: str | None = None) -> Sym:
        """Inverse of `flat` for an edge whose scale is uniform."""
        arrays = [a.reshape(a.shape[0], *(1,) * len(shape)) for a in (sym.scale, sym.offset)]
        op = ReshapeOp((("view", tuple(shape)),))
        given = None if name is None else name
        if given == node.name:
            return self.emit(op, node, [sym], shape, sym.steps, *arrays, kind=sym.kind)
        return self.emit(op, node, [sym], shape, sym.steps, *arrays, kind=sym.kind, name=f"{sym.name}.back")


def _shift(gain: Array, bias: Array, frac: int, largest: int) -> int:
    """Further bits of an Affine's constants: their rounding costs less than a quarter of a grid step.

    Constants that are whole on the grid already need fewer bits, or none.
    """
    k = math.ceil(math.log2(largest)) + 2
    reach = float(np.abs(gain).max()) * largest + float(np.abs(bias).max())
    room = 50 - frac - (math.ceil(math.log2(reach)) if reach > 0 else 0)
    k = max(min(k, room), 0)
    exact = np.concatenate([gain.reshape(-1), bias.reshape(-1)]) * 2.0**frac
    for fewer in range(k):
        scaled = exact * 2.0**fewer
        if np.array_equal(scaled, np.rint(scaled)):
            return fewer
    return k
