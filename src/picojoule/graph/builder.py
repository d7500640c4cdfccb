"""Collects the nodes of a captured graph: names, constants, kinds, scales and row moves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from picojoule.compress.base import Codes
from picojoule.core import kinds
from picojoule.core.errors import CaptureError
from picojoule.core.kinds import Kind
from picojoule.graph import nodes as g
from picojoule.graph.nodes import Coding, Edge
from picojoule.graph.rows import Const, Lead, Val, axis_size, lead_of, regroup, row_axes, value

N = TypeVar("N", bound=g.Node)

TO_ROW = "pj::time_to_row"  # rows of T steps [T*B, *S] -> one row a sample [B, T, *S]
TO_TIME = "pj::row_to_time"  # one row a sample [B, T, *S] -> rows of T steps [T*B, *S]
CONSTANT = "pj::constant"  # the same constant row for every sample


def array_of(tensor: Tensor) -> np.ndarray:
    """A constant as numpy, in its own precision (half precisions become float32)."""
    t = tensor.detach().cpu()
    if t.dtype in (torch.float16, torch.bfloat16):
        t = t.float()
    return t.contiguous().numpy().copy()


class Builder:
    """The graph under construction, and what the lowerings need around it.

    Attributes:
        nodes, tensors, live: parts of the graph.
        codes: integer codes of quantized weights, by parameter path.
        scales: real value of one spike on an edge, by node name (1.0 when absent).
        module, source, hint, op: where the operator being lowered comes from, and its short name.
    """

    def __init__(self, codes: dict[str, Codes] | None = None) -> None:
        self.nodes: list[g.Node] = []
        self.tensors: dict[str, np.ndarray] = {}
        self.live: dict[str, Any] = {}
        self.codes = codes or {}
        self.scales: dict[str, float] = {}
        self.modules: dict[str, nn.Module] = {}
        self.module = ""
        self.source = ""
        self.hint = ""
        self.op = "op"
        self._names: dict[str, int] = {}

    # -- names, constants, errors ---------------------------------------------------------------------

    def error(self, what: str) -> CaptureError:
        """An error that names the module path and the source line."""
        return CaptureError(f"{where(self.module, self.source)}: {what}")

    def fail(self, what: str) -> NoReturn:
        """Stop with that error."""
        raise self.error(what)

    def fresh(self, base: str) -> str:
        """A unique node name."""
        count = self._names.get(base, 0) + 1
        self._names[base] = count
        return base if count == 1 else self.fresh(f"{base}.{count}")

    def name_for(self, part: str) -> str:
        """A readable unique name for a node made by the current operator.

        A library layer that is one operator lends its path; any other operator adds its own name.
        """
        if part == "main":
            if self.hint:
                return self.fresh(self.hint)
            part = self.op
        return self.fresh(f"{self.module}.{part}" if self.module else part)

    def constant(self, name: str, array: np.ndarray) -> str:
        """File a constant; the same name with the same values is shared."""
        known = self.tensors.get(name)
        if known is not None and (known.shape != array.shape or not np.array_equal(known, array)):
            return self.constant(f"{name}'", array)
        self.tensors[name] = array
        return name

    def add(self, cls: type[N], part: str, inputs: Sequence[str], edge: Edge, **fields: Any) -> N:
        """Append a node made by the current operator."""
        name = fields.pop("name", None) or self.name_for(part)
        node = cls(
            name=name, inputs=tuple(inputs), edge=edge, source=self.source, module=self.module, **fields
        )
        self.nodes.append(node)
        return node

    def emit(self, cls: type[g.Node], part: str, inputs: Sequence[str], edge: Edge, **fields: Any) -> Val:
        """Append a node and return its canonical rows."""
        return value(self.add(cls, part, inputs, edge, **fields).name, edge)

    def scale(self, node: str) -> float:
        """Real value of one spike on the edge of `node`."""
        return self.scales.get(node, 1.0)

    def like(self, v: Val, node: str) -> None:
        """`node` carries spikes of the same scale as `v`."""
        if v.node in self.scales:
            self.scales[node] = self.scales[v.node]

    # -- moving data ----------------------------------------------------------------------------------

    def move(self, v: Val, *moves: tuple[Any, ...], shape: tuple[int, ...], part: str = "reshape") -> Val:
        """Apply Reshape moves to the canonical rows of `v`; the result has row `shape`."""
        edge = Edge(v.edge.kind, shape, v.edge.steps)
        out = self.emit(g.Reshape, part, [v.node], edge, moves=moves)
        self.like(v, out.node)
        return out

    def reshape(self, v: Val, target: Sequence[tuple[int, int]]) -> Val:
        """`v` viewed with axes of the target sizes (factor, power of batch)."""
        v = self.time_from_front(v, target)
        try:
            plan = regroup(v.axes, v.edge, target)
        except CaptureError:
            free = self._free_view(v, target)
            if free is None:
                raise
            return free
        if plan.shape == v.edge.shape:
            return v.with_(axes=plan.axes)
        node = v.node
        edge = Edge(v.edge.kind, plan.shape, v.edge.steps)
        moved = self.move(v, ("view", plan.shape), shape=plan.shape)
        return Val(moved.node if moved.node != node else node, edge, plan.axes)

    def _free_view(self, v: Val, target: Sequence[tuple[int, int]]) -> Val | None:
        """Any view of whole rows, where the leading target axes are the rows themselves; else None."""
        T = max(v.edge.steps, 1)
        if target and target[0] == (T, 1):
            lead = Lead()
        elif len(target) > 1 and tuple(target[:2]) == ((v.edge.steps, 0), (1, 1)):
            lead = Lead(split=True)
        else:
            return None
        shape = tuple(f for f, power in target[lead.width :] if not power)
        rows, _ = self.rows(v)
        if int(np.prod(shape)) != rows.edge.size:
            return None
        return self.shown(self.move(rows, ("view", shape), shape=shape), lead)

    def time_from_front(self, v: Val, target: Sequence[tuple[int, int]] | None = None) -> Val:
        """A row axis moved in front of the batch of an untimed value becomes its time."""
        if v.edge.steps or len(v.axes) < 2 or v.axes[1][:1] != ("N",) or len(v.axes[0]) != 1:
            return v
        first = v.axes[0][0]
        if not isinstance(first, int) or (target and tuple(target[0]) == (v.edge.shape[first], 0)):
            return v
        return self.row_to_time(v, first)

    def row_to_time(self, v: Val, axis: int) -> Val:
        """Row axis `axis` of an untimed value becomes time."""
        if axis:
            order = (axis, *(i for i in range(len(v.edge.shape)) if i != axis))
            moved = self.move(v, ("permute", order), shape=tuple(v.edge.shape[i] for i in order))
            place = {old: new for new, old in enumerate(order)}
            axes = tuple(tuple(place[a] if isinstance(a, int) else a for a in ax) for ax in v.axes)
            v = Val(moved.node, moved.edge, axes)
        edge = Edge(v.edge.kind, v.edge.shape[1:], v.edge.shape[0])
        out = self.emit(g.Opaque, "row_to_time", [v.node], edge, target=TO_TIME)
        self.like(v, out.node)

        def rename(atom: Any) -> Any:
            return "B" if atom == "N" else "T" if atom == 0 else atom - 1

        return Val(out.node, edge, tuple(tuple(rename(a) for a in axis) for axis in v.axes))

    def time_to_row(self, v: Val) -> Val:
        """Time of a split value becomes row axis 0."""
        edge = Edge(v.edge.kind, (v.edge.steps, *v.edge.shape), 0)
        out = self.emit(g.Opaque, "time_to_row", [v.node], edge, target=TO_ROW)
        self.like(v, out.node)

        def rename(atom: Any) -> Any:
            return {"B": "N", "T": 0}.get(atom, atom) if isinstance(atom, str) else atom + 1

        return Val(out.node, edge, tuple(tuple(rename(a) for a in axis) for axis in v.axes))

    def rows(self, v: Val) -> tuple[Val, Lead]:
        """`v` with its data in canonical order behind a lead; moves data where the axes ask for it."""
        lead = lead_of(v.axes, v.edge)
        if lead is not None:
            return v, lead
        flat = [a for axis in v.axes for a in axis]
        if "T" in flat and not (v.axes[0] == ("T",) and v.axes[1][0] == "B"):
            return self.rows(self.time_to_row(v))
        if "T" not in flat and v.axes[0][:1] != ("N",):
            moved = self.time_from_front(v)
            if moved is v:
                self.fail(
                    "the batch axis is not in front: "
                    f"axes {_spelled(v)}; permute so that the batch (or time, batch) axes come first"
                )
            return self.rows(moved)
        order = tuple(a for a in flat if isinstance(a, int))
        moved = v
        if order != tuple(range(len(order))):
            moved = self.move(
                v, ("permute", order), shape=tuple(v.edge.shape[i] for i in order), part="permute"
            )
        at = 2 if "T" in flat else 1
        lead = Lead("T" in flat, len(v.axes[at - 1]) - 1)
        sizes = [v.edge.shape[a] for a in order[: lead.extra]]
        sizes += [axis_size(axis, v.edge)[0] for axis in v.axes[at:]]
        if tuple(sizes) != moved.edge.shape:
            moved = self.move(moved, ("view", tuple(sizes)), shape=tuple(sizes))
        return Val(moved.node, moved.edge, lead.axes(moved.edge)), lead

    def plain(self, v: Val) -> Val:
        """Canonical rows, whatever the lead: for operators that see rows only."""
        moved, _ = self.rows(v)
        return moved.with_(axes=row_axes(moved.edge))

    def shown(self, v: Val, lead: Lead) -> Val:
        """Canonical rows seen through a lead."""
        return v.with_(axes=lead.axes(v.edge))

    # -- constants as data ----------------------------------------------------------------------------

    def constant_rows(self, const: Const, steps: int, shape: tuple[int, ...]) -> Val:
        """A node that holds the same row for every sample."""
        name = self.constant(
            const.name or f"{self.name_for('constant')}.value", array_of(const.tensor).reshape(shape)
        )
        edge = Edge(constant_kind(const.tensor), shape, steps)
        return self.emit(g.Opaque, "constant", [], edge, target=CONSTANT, args=(("const", name),))

    def coded(self, const: Const) -> tuple[str, Coding, str | None]:
        """Names of a weight's (codes or floats), its coding and its scales."""
        codes = self.codes.get(const.name)
        if codes is None:
            name = const.name or f"{self.name_for('weight')}"
            return self.constant(name, array_of(const.tensor)), Coding(), None
        scale = self.constant(f"{const.name}.scale", array_of(codes.scales))
        if codes.codebook is None:
            return self.constant(const.name, array_of(codes.ints)), Coding(codes.coding, codes.bits), scale
        book = self.constant(f"{const.name}.codebook", array_of(codes.codebook))
        words = array_of(codes.codebook)[array_of(codes.ints).astype(np.int64)].reshape(codes.shape)
        return self.constant(const.name, words), Coding("codebook", codes.bits, book), scale


def constant_kind(tensor: Tensor) -> Kind:
    """Kind of a constant: spikes when it holds only 0 and 1."""
    if tensor.numel() and bool(((tensor == 0) | (tensor == 1)).all()):
        return kinds.binary
    return kinds.real


def where(module: str, source: str) -> str:
    """How errors name a place: module path and source line."""
    place = f"module {module!r}" if module else "the model itself"
    return f"{place} ({source})" if source else place


def _spelled(v: Val) -> str:
    return "[" + ", ".join("*".join(str(a) for a in axis) or "1" for axis in v.axes) + "]"
