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
        self.asked: list[str] = []  # nodes whose fraction bits matter
        self._taken = {node.name for node in graph.nodes}
        self._grids: dict[tuple[object, ...], Sym] = {}

    def inputs(self, node: g.Node) -> list[Sym]:
        """Symbolic edges that a node reads."""
        return [self.syms[name] for name in node.inputs]

    def frac(self, node: g.Node) -> int:
        """Fraction bits of a node whose numbers they change."""
        if node.name not in self.asked:
            self.asked.append(node.name)
        return self.grid.of(node.name)

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
        bits = bits_for(low, high)
        if bits > 62:
            raise PackError(
                f"{place(node)} needs {bits} bits: use fewer fraction bits here or before it, "
                f"Grid(nodes={{{node.name!r}: ...}})"
            )
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
        # one integer may stand for several reals: a BatchNorm is part of the edge, not a node
        key = (sym.name, frac, sym.shape, sym.scale.tobytes(), sym.offset.tobytes())
        if key not in self._grids:
            self._grids[key] = self.numbers(sym, frac, node)
        return self._grids[key]

    def numbers(self, sym: Sym, frac: int, node: g.Node) -> Sym:
        """An Affine that gives `sym` the scale 2^-frac and no offset."""
        axes = varying(sym.scale, sym.offset)
        if len(axes) > 1:
            made = self.numbers(self.flat(sym, node), frac, node)
            return self.unflat(made, sym.shape, node)
        axis, ndim = min(axes) if axes else 0, len(sym.shape)
        gain, bias = plane(sym.scale, axis), plane(sym.offset, axis)
        if gain is None or bias is None:
            raise PackError(f"{place(node)} needs a channel axis for the grid of {sym.name!r}")
        if gain.shape[0] > 1 or bias.shape[0] > 1:
            return self._over_time(sym, axis, gain, bias, frac, node)
        shift = _shift(gain, bias, frac, max(abs(sym.low), abs(sym.high), 1))
        op = AffineOp(gain[0], bias[0], axis, frac, shift)
        unit, zero = scalar(2.0**-frac, ndim), scalar(0, ndim)
        return self.emit(op, node, [sym], sym.shape, sym.steps, unit, zero, name=f"{sym.name}.grid")

    def _over_time(self, sym: Sym, axis: int, gain: Array, bias: Array, frac: int, node: g.Node) -> Sym:
        """Scale or offset that change over the steps: a diagonal mix evens the one and adds the other."""
        ndim, T, name = len(sym.shape), max(sym.steps, 1), f"{sym.name}.steps"
        sym = sym.with_(offset=scalar(0, ndim))
        if gain.shape[0] > 1:
            unit = 2.0 ** math.ceil(math.log2(max(float(np.abs(gain).max()), 2.0**-60)))
            matrix = np.stack([np.diag(row) for row in (gain / unit).T])
            op = TimeMixOp(matrix[0] if len(matrix) == 1 else matrix, 15, axis, True)
            scale = scalar(unit * 2.0**-15, ndim)
            sym = self.emit(op, node, [sym], sym.shape, sym.steps, scale, scalar(0, ndim), name=name)
        even = self.on_grid(sym, frac, node)
        op = TimeMixOp(np.eye(T), 0, axis, True, bias, float(even.scale.reshape(-1)[0]))
        return self.emit(op, node, [even], sym.shape, sym.steps, even.scale, even.offset, name=name)

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
