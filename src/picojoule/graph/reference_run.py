"""One call of the reference interpreter, and the arithmetic that all its node types share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from picojoule.core.errors import KindError, PackError, ShapeError
from picojoule.graph import nodes as g

LIMITS = {torch.float64: 2**53, torch.int64: 2**63 - 1}


@dataclass
class Run:
    """One call: the graph, what holds its integers, steps of the chunk, absolute first step, states."""

    graph: g.Graph
    dtype: torch.dtype
    T: int
    step: int
    state: dict[str, Any]
    constant: Callable[[str], Tensor]

    def steps(self, node: g.Node) -> int:
        """Steps of this chunk on a node's edge: 0 for one row a sample."""
        return self.T if node.edge.steps else 0

    def check(self, node: g.Node, rows: Tensor) -> None:
        """Every integer must lie in the range that the edge's kind declares."""
        kind = node.edge.kind
        if kind.name == "real":
            raise PackError(f"{where(node)} has a real edge in a snapped graph")
        if tuple(rows.shape[1:]) != node.edge.shape:
            raise ShapeError(
                f"node {node.name!r} gave rows {list(rows.shape[1:])}, declared {node.edge.shape}"
            )
        if rows.numel() and (int(rows.min()) < kind.low or int(rows.max()) > kind.high):
            raise KindError(
                f"node {node.name!r} holds {int(rows.min())}..{int(rows.max())}, outside its kind {kind}"
            )

    def bound(self, node: g.Node, largest: int | float) -> None:
        """Refuse arithmetic whose largest intermediate number may be inexact."""
        if largest >= LIMITS[self.dtype]:
            raise PackError(
                f"node {node.name!r} ({type(node).__name__}) may reach {float(largest):.3g}, beyond the "
                "exact range of the interpreter; use fewer fraction bits"
            )


def where(node: g.Node) -> str:
    """A node for error messages: type, name, module path and source line."""
    place = f" of module {node.module!r}" if node.module else ""
    line = f" ({node.source})" if node.source else ""
    return f"{type(node).__name__} {node.name!r}{place}{line}"


def magnitude(x: Tensor) -> int:
    """Largest absolute integer of a tensor; 0 when it is empty."""
    return max(abs(int(x.min())), abs(int(x.max()))) if x.numel() else 0


def rshift(x: Tensor, k: int, rounding: str) -> Tensor:
    """x / 2^k rounded: "floor", or "half_up" = floor((x + 2^(k-1)) / 2^k)."""
    if k == 0:
        return x
    if rounding == "half_up":
        x = x + 2 ** (k - 1)
    return x >> k if x.dtype == torch.int64 else torch.floor(x * 2.0**-k)


def along(vector: Tensor, axis: int, ndim: int) -> Tensor:
    """A vector [C] or [1] shaped to broadcast over rows of `ndim` axes (without the leading one)."""
    if vector.numel() == 1:
        return vector.reshape(())
    shape = [1] * ndim
    shape[axis % ndim] = vector.numel()
    return vector.reshape(shape)


def rows_per_step(x: Tensor, T: int) -> Tensor:
    """[T*B, ...] -> [T, B, ...]."""
    return x.reshape(T, x.shape[0] // T, *x.shape[1:])
