"""The table of operator lowerings, and reading an operator's arguments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from picojoule.core.errors import CaptureError
from picojoule.graph import nodes as g
from picojoule.graph.builder import Builder, array_of
from picojoule.graph.executor import Run, replay
from picojoule.graph.nodes import Edge, Graph
from picojoule.graph.rows import Const, Extent, Lead, Val, lead_of, value

Args = dict[str, Any]
Lowering = Callable[[Builder, fx.Node, Args], Any]
LOWERINGS: dict[str, Lowering] = {}


def lowers(*names: str) -> Callable[[Lowering], Lowering]:
    """Registers a lowering for operators, named as "aten.conv2d" (all overloads) or "pj.repeat"."""

    def add(function: Lowering) -> Lowering:
        for name in names:
            LOWERINGS[name] = function
        return function

    return add


def packet(node: fx.Node) -> str:
    """Name of an operator without its overload, in its form that does not write in place: "aten.add"."""
    return target_name(node).rsplit(".", 1)[0]


def target_name(node: fx.Node) -> str:
    """Full name of an operator in its form that does not write in place: "aten.add.Tensor"."""
    name = str(node.target)
    head, dot, overload = name.rpartition(".")
    return f"{head.rstrip('_')}{dot}{overload}" if head.endswith("_") and not head.endswith("__") else name


def arguments(node: fx.Node, lookup: Callable[[Any], Any]) -> Args:
    """Arguments by their schema names, with values looked up and defaults filled in."""
    schema = node.target._schema  # type: ignore[union-attr]
    found: Args = {}
    for i, argument in enumerate(schema.arguments):
        if i < len(node.args):
            found[argument.name] = lookup(node.args[i])
        elif argument.name in node.kwargs:
            found[argument.name] = lookup(node.kwargs[argument.name])
        elif argument.has_default_value():
            found[argument.name] = argument.default_value
    return found


def extent(size: Any) -> Extent | int:
    """A traced size as a number or a multiple of the batch."""
    if isinstance(size, int):
        return size
    expr = size.node.expr
    if expr.is_Integer:
        return int(expr)
    symbols = list(expr.free_symbols)
    if len(symbols) == 1:
        factor = expr / symbols[0]
        if factor.is_Integer:
            return Extent(int(factor))
    raise CaptureError(f"the size {expr} is not a whole multiple of the batch")


def sizes(node: fx.Node, index: int | None = None) -> list[tuple[int, int]]:
    """Traced sizes of an operator's result as (factor, power of batch)."""
    meta = node.meta["val"]
    shape = (meta if index is None else meta[index]).shape
    out = []
    for size in map(extent, shape):
        out.append((size.factor, 1) if isinstance(size, Extent) else (size, 0))
    return out


def tensors_in(item: Any) -> list[Val]:
    """All data values in nested arguments."""
    if isinstance(item, Val):
        return [item]
    if isinstance(item, dict):
        item = list(item.values())
    if isinstance(item, list | tuple):
        return [v for part in item for v in tensors_in(part)]
    return []


_COUNTING = {"aten.arange", "aten.linspace", "aten.eye", "aten.tril_indices", "aten.triu_indices"}


def evaluated(node: fx.Node, args: Args) -> Any:
    """Result of an operator whose inputs are all constants; made for one sample where it names the batch."""

    def concrete(item: Any) -> Any:
        if isinstance(item, Const):
            return item.tensor
        if isinstance(item, Extent):
            if packet(node) in _COUNTING:
                raise CaptureError(
                    f"{packet(node)} counts over the batch, so it gives every sample another "
                    "number; count over "
                    "axes after the batch"
                )
            return 1
        if isinstance(item, list | tuple):
            return type(item)(concrete(part) for part in item)
        return item

    target: Any = node.target
    schema = target._schema.arguments
    plain = [concrete(args[s.name]) for s in schema if not s.kwarg_only and s.name in args]
    named = {s.name: concrete(args[s.name]) for s in schema if s.kwarg_only and s.name in args}
    result = target(*plain, **named)
    if isinstance(result, Tensor):
        return Const(result)
    if isinstance(result, list | tuple):
        return [Const(r) if isinstance(r, Tensor) else r for r in result]
    return result


# -- everything else: Opaque ------------------------------------------------------------------------------


def opaque(b: Builder, node: fx.Node, args: Args) -> Any:
    """Any operator as it is: its arguments are described so that the executor can replay it.

    Arguments: ("in", input, split, fused axes, dtype) | ("const", name) | ("rows", name, factor) |
    ("batch", factor) |
    ("list", items) | ("value", plain value).
    """
    data = tensors_in(args)
    if not data:
        b.fail(f"the operator {packet(node)} has no tensor input that the graph knows")
    leads: list[Lead] = []
    fronts: list[tuple[int, ...]] = []
    inputs: list[str] = []

    def describe(item: Any, meta: Any) -> tuple[Any, ...]:
        if isinstance(item, Val):
            rows, lead = b.rows(item)
            leads.append(lead)
            fronts.append(rows.edge.shape[: lead.extra])
            inputs.append(rows.node)
            held = getattr(getattr(meta, "meta", {}).get("val"), "dtype", torch.float32)
            kind = "bool" if held == torch.bool else "float" if held.is_floating_point else "int"
            return ("in", len(inputs) - 1, lead.split, lead.extra, kind)
        if isinstance(item, Const):
            name = b.constant(
                item.name or f"{b.module}.{packet(node)}.{len(b.tensors)}", array_of(item.tensor)
            )
            held = getattr(getattr(meta, "meta", {}).get("val"), "shape", (0,))
            if len(held) and item.tensor.dim() == len(held) and not isinstance(held[0], int):
                rows = extent(held[0])
                return ("rows", name, rows.factor if isinstance(rows, Extent) else 1)
            return ("const", name)
        if isinstance(item, Extent):
            return ("batch", item.factor)
        if isinstance(item, list | tuple):
            metas = meta if isinstance(meta, list | tuple) else [None] * len(item)
            return ("list", tuple(describe(part, m) for part, m in zip(item, metas)))
        return ("value", item)

    raw = arguments(node, lambda item: item)
    described = tuple((name, describe(item, raw.get(name))) for name, item in args.items())
    lead, front = max(zip(leads, fronts), key=lambda one: (one[0].split, one[0].extra))
    steps = max(v.edge.steps for v in data)
    metas = node.meta["val"]
    count = len(metas) if isinstance(metas, list | tuple) else None
    results = []
    for index in range(count) if count is not None else [None]:
        shape = _rows_of(b, node, index, lead, steps, front)
        kind = result_kind(b, node, data, index)
        edge = Edge(kind, shape, steps)
        extra = () if index is None else (("pick", ("value", index)),)
        out = b.add(
            g.Opaque,
            "main",
            inputs,
            edge,
            target=target_name(node),
            args=described,
            kwargs=(
                *extra,
                ("lead", ("value", (lead.split, lead.extra))),
            ),
        )
        _probe(b, node, out)
        results.append(b.shown(value(out.name, edge), lead))
    return results[0] if count is None else results


def _probe(b: Builder, node: fx.Node, made: g.Opaque) -> None:
    """Refuse an opaque operator that lets one sample change another, found by trying it on random rows."""
    sources = {n.name: n.edge for n in b.nodes if n.name in made.inputs}
    random = torch.Generator().manual_seed(0)
    run = Run(Graph(tuple(b.nodes), b.tensors), torch.float32, batch=2)
    results = []
    rows = [torch.rand(max(sources[i].steps, 1), 2, *sources[i].shape, generator=random) for i in made.inputs]
    for _ in range(2):
        try:
            out = replay(run, made, [r.flatten(0, 1) for r in rows])
        except (RuntimeError, IndexError):
            return  # it needs special inputs (indices, regular matrices): random ones teach nothing
        results.append(out.reshape(max(made.edge.steps, 1), 2, *made.edge.shape)[:, 0])
        for r in rows:
            r[:, 1] = torch.rand(r[:, 1].shape, generator=random)
    if not torch.allclose(*results, rtol=1e-4, atol=1e-5, equal_nan=True):
        b.fail(
            f"{packet(node)} runs over the batch axis and mixes samples; work inside a sample, after axis 0"
        )


def _rows_of(
    b: Builder, node: fx.Node, index: int | None, lead: Lead, steps: int, front: tuple[int, ...]
) -> tuple[int, ...]:
    """Row shape of an opaque result that must keep the lead of its inputs; `front` are its fused row axes."""
    found = sizes(node, index)
    head, rest = found[: lead.width], found[lead.width :]
    ok = len(head) == lead.width and head[-1][1] == 1 and all(power == 0 for _, power in rest)
    if ok and lead.split:
        ok = head[0] == (steps, 0)
    if not ok:
        b.fail(
            f"{packet(node)} gives sizes {[f'{f}*B' if p else f for f, p in found]}, in which the batch axis "
            "is lost or moved; operators may work inside a sample only"
        )
    if not lead.extra:
        return tuple(f for f, _ in rest)
    fused = head[-1][0] // (1 if lead.split else max(steps, 1))
    if fused == int(np.prod(front)):
        return (*front, *(f for f, _ in rest))
    if lead.extra == 1:
        return (fused, *(f for f, _ in rest))
    raise b.error(
        f"{packet(node)} changes the length of an axis that is fused with the batch; work on it unfused"
    )


def result_kind(b: Builder, node: fx.Node, data: Sequence[Val], index: int | None) -> Any:
    """Kind of an opaque result: comparisons are binary, the rest is real."""
    from picojoule.core.kinds import binary, real

    meta = node.meta["val"] if index is None else node.meta["val"][index]
    return binary if meta.dtype == torch.bool else real


def same_lead(b: Builder, values: Sequence[Val]) -> tuple[list[Val], Lead]:
    """Several values behind one lead: rows of one step count, with one tensor rank."""
    moved = [b.rows(v) for v in values]
    leads = {lead for _, lead in moved}
    if len(leads) > 1 or len({v.edge.steps for v, _ in moved}) > 1:
        b.fail(
            "tensors with different leading axes meet: "
            + ", ".join(f"{list(v.edge.shape)} with T={v.edge.steps}" for v, _ in moved)
            + "; bring them to rows [T*B, ...] first (timeline.repeat, timeline.readout)"
        )
    return [v for v, _ in moved], moved[0][1]


__all__ = [
    "LOWERINGS", "Args", "arguments", "evaluated", "extent", "lead_of", "lowers", "opaque", "packet",
    "same_lead", "sizes", "tensors_in",
]  # fmt: skip
