"""What each axis of a traced tensor means: the algebra that keeps batch, time and row axes apart.

A traced tensor is a *value*: a graph node whose rows are canonical (`[T*B, *shape]`, or `[B, *shape]` when
steps = 0), seen through `axes`: one tuple of atoms per tensor axis, several atoms where axes are fused.
Atoms are "N" (all rows), "T" and "B" (rows with time apart), or the number of a row axis.

    [T*B, C, H, W]              (("N",), (0,), (1,), (2,))
    .view(T, B, C, H, W)        (("T",), ("B",), (0,), (1,), (2,))
    .flatten(3)                 (("T",), ("B",), (0,), (1, 2))

Views and permutations only rewrite `axes`; data moves when an operator needs canonical rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from picojoule.core.errors import CaptureError
from picojoule.graph.nodes import Edge

Atom = str | int
Axes = tuple[tuple[Atom, ...], ...]
Size = tuple[int, int]  # (factor, power of the batch size)


@dataclass(frozen=True)
class Val:
    """Data: rows of `node` of type `edge`, seen through `axes`."""

    node: str
    edge: Edge
    axes: Axes

    def with_(self, **changes: object) -> Val:
        """A copy with some fields changed."""
        return replace(self, **changes)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Const:
    """A constant that no input changes; `name` is its path in the state dict, or "". The batch axis of a
    constant made for every sample (`x.new_zeros(B, 4)`) has length 1."""

    tensor: Tensor
    name: str = ""


@dataclass(frozen=True)
class Extent:
    """A traced size: `factor * batch^power`."""

    factor: int
    power: int = 1


def row_axes(edge: Edge) -> Axes:
    """Axes of a tensor that shows canonical rows.

    >>> from picojoule.core.kinds import real
    >>> row_axes(Edge(real, (3, 8), 4))
    (('N',), (0,), (1,))
    """
    return (("N",), *((i,) for i in range(len(edge.shape))))


def value(node: str, edge: Edge) -> Val:
    """Canonical rows of a node."""
    return Val(node, edge, row_axes(edge))


def atom_size(atom: Atom, edge: Edge) -> Size:
    """Length of one atom."""
    if atom == "N":
        return max(edge.steps, 1), 1
    if atom == "T":
        return edge.steps, 0
    if atom == "B":
        return 1, 1
    return edge.shape[int(atom)], 0


def axis_size(axis: Sequence[Atom], edge: Edge) -> Size:
    """Length of a tensor axis."""
    factor, power = 1, 0
    for atom in axis:
        f, p = atom_size(atom, edge)
        factor, power = factor * f, power + p
    return factor, power


def joined(axis: Sequence[Atom]) -> tuple[Atom, ...]:
    """Time and batch fused in one axis are all rows again: (T, B) -> (N)."""
    out: list[Atom] = []
    for atom in axis:
        if atom == "B" and out and out[-1] == "T":
            out[-1] = "N"
        else:
            out.append(atom)
    return tuple(out)


@dataclass
class Regroup:
    """Result of `regroup`: axes over a refined row, whose shape is `shape`; changed says whether the row
    itself has to be viewed anew."""

    axes: Axes
    shape: tuple[int, ...]


def regroup(axes: Axes, edge: Edge, target: Sequence[Size]) -> Regroup:
    """Axes after a reshape to `target` sizes.

    Raises:
        CaptureError: the reshape mixes the batch axis with others in a way no row operator has.
    """
    queue: list[tuple[Atom, int, Size]] = [(a, 0, atom_size(a, edge)) for axis in axes for a in axis]
    parts: dict[int, list[int]] = {}  # row axis -> sizes it was cut into
    for atom, _, (size, _) in queue:
        if isinstance(atom, int):
            parts[atom] = [size]
    units = 0
    out: list[list[tuple[Atom, int]]] = []
    for factor, power in target:
        axis: list[tuple[Atom, int]] = []
        if (factor, power) == (1, 0):
            head = queue[0] if queue else None
            if head is not None and head[2] == (1, 0):
                axis.append(head[:2])
                queue.pop(0)
            elif head is not None and head[0] == "N" and edge.steps == 1:
                axis.append(("T", 0))
                queue[0] = ("B", 0, (1, 1))
            else:
                axis.append((-1, units))
                units += 1
        while (factor, power) != (1, 0):
            if not queue:
                raise _mixes(axes, edge, target)
            atom, part, (f, p) = queue[0]
            if p <= power and factor % f == 0:
                axis.append((atom, part))
                factor, power = factor // f, power - p
                queue.pop(0)
            elif atom == "N" and power == 0 and factor == edge.steps:
                axis.append(("T", 0))
                queue[0] = ("B", 0, (1, 1))
                factor = 1
            elif isinstance(atom, int) and power == 0 and f % factor == 0:
                parts[atom][part:] = [factor, f // factor]
                axis.append((atom, part))
                queue[0] = (atom, part + 1, (f // factor, 0))
                factor = 1
            else:
                raise _mixes(axes, edge, target)
        out.append(axis)
    dropped = set()
    for atom, part, size in queue:
        if size != (1, 0) or not isinstance(atom, int):
            raise _mixes(axes, edge, target)
        dropped.add((atom, part))
    numbers: dict[tuple[Atom, int], int] = {}
    shape: list[int] = []
    for atom in sorted(parts):
        for part, size in enumerate(parts[atom]):
            if (atom, part) not in dropped:
                numbers[atom, part] = len(shape)
                shape.append(size)
    for unit in range(units):
        numbers[-1, unit] = len(shape)
        shape.append(1)
    renamed = (joined([numbers.get(key, key[0]) for key in axis]) for axis in out)
    return Regroup(tuple(renamed), tuple(shape))


def _mixes(axes: Axes, edge: Edge, target: Sequence[Size]) -> CaptureError:
    def text(sizes: Sequence[Size]) -> str:
        names = ("B" if f == 1 and p else f"{f}*B" if p else str(f) for f, p in sizes)
        return f"[{', '.join(names)}]"

    source = text([axis_size(axis, edge) for axis in axes])
    steps = f"rows of T={edge.steps} steps" if edge.steps else "one row a sample"
    return CaptureError(
        f"a reshape from {source} ({steps}) to {text(target)} mixes the batch axis with others; "
        "reshape only the "
        "axes after the batch, or split time with timeline.split(x, T)"
    )


@dataclass(frozen=True)
class Lead:
    """How the leading axes of a tensor hold the rows: `split` shows T and B apart, `extra` counts row axes
    that are fused into the batch axis."""

    split: bool = False
    extra: int = 0

    @property
    def width(self) -> int:
        """Tensor axes before the plain row axes."""
        return 2 if self.split else 1

    def row(self, axis: int, ndim: int) -> int:
        """Row axis of a tensor axis; negative when it is a leading one."""
        axis = axis % ndim if ndim else axis
        return axis - self.width + self.extra if axis >= self.width else -1

    def axes(self, edge: Edge) -> Axes:
        """Axes of a tensor with this lead over canonical rows of `edge`."""
        fused = tuple(range(self.extra))
        rest = tuple((i,) for i in range(self.extra, len(edge.shape)))
        if self.split:
            return (("T",), ("B", *fused), *rest)
        return (("N", *fused), *rest)


def lead_of(axes: Axes, edge: Edge) -> Lead | None:
    """The lead when `axes` show canonical rows in order, else None."""
    split = bool(axes) and axes[0] == ("T",)
    at = 1 if split else 0
    if len(axes) <= at or axes[at][0] != ("B" if split else "N"):
        return None
    lead = Lead(split, len(axes[at]) - 1)
    return lead if lead.axes(edge) == axes else None
