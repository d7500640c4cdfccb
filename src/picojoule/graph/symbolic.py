"""Symbolic edges of folding: real = scale * integer + offset. No torch.

`scale` and `offset` are arrays [T|1, *row] whose axes have the row's size or 1; an axis along which nothing
changes is kept at 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from picojoule.core.kinds import Kind
from picojoule.graph import nodes as g

Array = np.ndarray


@dataclass(frozen=True)
class Sym:
    """An edge while folding.

    Fields: `name` of the snapped node that carries the integer ("" for a constant), `kind` of that integer,
    row `shape`, `steps`, proven integers `low..high`, and `real = scale * i + offset`.
    """

    name: str
    kind: Kind
    shape: tuple[int, ...]
    steps: int
    scale: Array
    offset: Array
    low: int = 0
    high: int = 0

    @property
    def no_offset(self) -> bool:
        """True when the integer 0 stands for the real 0."""
        return not self.offset.any()

    def with_(self, **changes: Any) -> Sym:
        """A copy with some fields changed."""
        return replace(self, **changes)


def scalar(value: float, ndim: int) -> Array:
    """A number as an array that broadcasts to [T, *row] of `ndim` row axes."""
    return np.full((1,) * (1 + ndim), float(value))


def compress(array: Array) -> Array:
    """The same array with size 1 along axes where nothing changes."""
    for axis in range(array.ndim):
        if array.shape[axis] > 1:
            first = np.take(array, [0], axis)
            if np.array_equal(np.broadcast_to(first, array.shape), array):
                array = first
    return array


def along(vector: Array, axis: int, ndim: int) -> Array:
    """A plane [T|1, C|1] (or a vector [C|1]) as an array over [T, *row], channels on row axis `axis`."""
    plane = np.asarray(vector, dtype=np.float64)
    if plane.ndim == 1:
        plane = plane[None]
    shape = [1] * (1 + ndim)
    shape[0] = plane.shape[0]
    if plane.shape[1] > 1:
        shape[1 + axis % ndim] = plane.shape[1]
    return plane.reshape(shape)


def plane(array: Array, axis: int) -> Array | None:
    """An array over [T, *row] as a plane [T|1, C|1] of row axis `axis`; None when other axes vary."""
    ndim = array.ndim - 1
    if any(n > 1 for i, n in enumerate(array.shape[1:]) if i != axis % ndim):
        return None
    channels = array.shape[1 + axis % ndim] if ndim else 1
    return array.reshape(array.shape[0], channels)


def varying(*arrays: Array) -> set[int]:
    """Row axes along which any of the arrays changes."""
    return {i for a in arrays for i, n in enumerate(a.shape[1:]) if n > 1}


def dyadic(sym: Sym) -> int | None:
    """f when the edge is exactly integer * 2^-f, else None."""
    if sym.scale.size != 1 or not sym.no_offset:
        return None
    scale = float(sym.scale.reshape(-1)[0])
    if scale <= 0:
        return None
    mantissa, exponent = np.frexp(scale)
    return int(1 - exponent) if mantissa == 0.5 else None


def match(*arrays: Array, axes: Sequence[int], shape: Sequence[int]) -> list[Array]:
    """Arrays broadcast to the full size of some row axes (others stay)."""
    out = []
    for array in arrays:
        full = list(array.shape)
        for axis in axes:
            full[1 + axis % len(shape)] = shape[axis % len(shape)]
        out.append(np.broadcast_to(array, full))
    return out


def moved(array: Array, shape: tuple[int, ...], moves: Sequence[tuple[Any, ...]]) -> Array:
    """An array over [T, *row] after the moves of a Reshape node; padding repeats the edge value."""
    if array.size == array.shape[0] and array.ndim == 1 + len(shape):
        end = moved_shape(shape, moves)
        return array.reshape(array.shape[0], *(1,) * len(end))
    full = np.broadcast_to(array, (array.shape[0], *shape))
    for name, *args in moves:
        ndim = full.ndim - 1
        if name == "view":
            full = full.reshape(full.shape[0], *args[0])
        elif name == "permute":
            full = full.transpose(0, *(1 + a % ndim for a in args[0]))
        elif name == "slice":
            axis, start, stop, step = args
            full = full[(slice(None),) * (1 + axis % ndim) + (slice(start, stop, step),)]
        elif name == "expand":
            full = np.broadcast_to(full, (full.shape[0], *args[0]))
        elif name == "pad":
            full = np.pad(full, ((0, 0), *args[0]), mode="edge")
        elif name == "flip":
            full = np.flip(full, 1 + args[0] % ndim)
        elif name == "roll":
            full = np.roll(full, args[1], 1 + args[0] % ndim)
    return compress(full)


def moved_shape(shape: tuple[int, ...], moves: Sequence[tuple[Any, ...]]) -> tuple[int, ...]:
    """Row shape after the moves of a Reshape node."""
    for name, *args in moves:
        n = len(shape)
        if name in ("view", "expand"):
            shape = tuple(args[0])
        elif name == "permute":
            shape = tuple(shape[a % n] for a in args[0])
        elif name == "slice":
            axis = args[0] % n
            size = len(range(*slice(*args[1:]).indices(shape[axis])))
            shape = (*shape[:axis], size, *shape[axis + 1 :])
        elif name == "pad":
            shape = tuple(s + a + b for s, (a, b) in zip(shape, args[0]))
    return shape


def has_pad(node: g.Reshape) -> bool:
    """True when a Reshape adds zeros."""
    return any(move[0] == "pad" for move in node.moves)
