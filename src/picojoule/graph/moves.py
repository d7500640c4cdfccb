"""Limits of a graph, the error that names a field, and row shapes after the moves of a Reshape. No torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NoReturn

from picojoule.core.errors import PackError
from picojoule.graph import nodes as n

Shape = tuple[int, ...]
MAX_EXTENT = 1 << 31  # of an axis, a window, a padding
MAX_STEPS = 1 << 16
MAX_RANK = 8
MAX_SHIFT = 62
MAX_VALUE = 1 << 62  # every constant lies below it in magnitude


def fail(node: n.Node, field: str, what: str) -> NoReturn:
    """Raise the error that names the node and the field."""
    raise PackError(f"node {node.name!r} ({type(node).__name__}), field {field!r}: {what}")


def axis_of(node: n.Node, axis: int, rank: int, field: str = "axis") -> int:
    """A row axis counted from the front."""
    if not -rank <= axis < rank:
        fail(node, field, f"row axis {axis} does not exist in rows of {rank} axes")
    return axis % rank


def moved(node: n.Reshape, row: Shape, move: tuple[Any, ...]) -> Shape:
    """Row shape after one move."""
    name, *args = move
    counts = {"view": 1, "permute": 1, "slice": 4, "expand": 1, "pad": 1, "flip": 1, "roll": 2}
    if counts.get(name) != len(args):
        fail(node, "moves", f"unknown move {name!r} with {len(args)} arguments")
    wanted = (tuple, list) if name in ("view", "permute", "expand", "pad") else int
    if not all(isinstance(arg, wanted) for arg in args):
        fail(node, "moves", f"{name} takes {'a list' if wanted is not int else 'integers'}, got {args}")
    if name == "view":
        return _view(node, row, args[0])
    if name == "permute":
        order = [axis_of(node, axis, len(row), "moves") for axis in args[0]]
        if sorted(order) != list(range(len(row))):
            fail(node, "moves", f"permute must name each of {len(row)} axes once, got {list(args[0])}")
        return tuple(row[axis] for axis in order)
    if name == "expand":
        return _expand(node, row, args[0])
    if name == "pad":
        if len(args[0]) != len(row) or any(
            len(p) != 2 or not 0 <= min(p) <= max(p) < MAX_EXTENT for p in args[0]
        ):
            fail(node, "moves", f"pad needs (before, after) >= 0 for each of {len(row)} axes, got {args[0]}")
        return tuple(size + before + after for size, (before, after) in zip(row, args[0]))
    axis = axis_of(node, args[0], len(row), "moves")
    if name != "slice":
        return row
    start, stop, step = args[1:]
    picked = range(start, stop, step) if step else range(0)
    if not picked or not (0 <= picked[0] < row[axis] and 0 <= picked[-1] < row[axis]):
        fail(node, "moves", f"slice {start}:{stop}:{step} is empty or leaves an axis of {row[axis]}")
    return (*row[:axis], len(picked), *row[axis + 1 :])


def _view(node: n.Reshape, row: Shape, wanted: Sequence[int]) -> Shape:
    total, known = math.prod(row), math.prod(d for d in wanted if d != -1)
    if any(d < 1 and d != -1 for d in wanted) or list(wanted).count(-1) > 1 or total % max(1, known):
        fail(node, "moves", f"cannot view rows {list(row)} as {list(wanted)}")
    shape = tuple(total // known if d == -1 else d for d in wanted)
    if math.prod(shape) != total:
        fail(node, "moves", f"cannot view rows {list(row)} as {list(wanted)}")
    return shape


def _expand(node: n.Reshape, row: Shape, wanted: Sequence[int]) -> Shape:
    lead = len(wanted) - len(row)
    shape = tuple(row[i - lead] if d == -1 and i >= lead else d for i, d in enumerate(wanted))
    if lead < 0 or any(d < 1 for d in shape) or any(a not in (1, b) for a, b in zip(row, shape[lead:])):
        fail(node, "moves", f"cannot expand rows {list(row)} to {list(wanted)}")
    return shape
