"""Lowering of pooling and nearest-neighbour enlargement."""

from __future__ import annotations

import math
from typing import Any

from torch import fx

from picojoule.core.kinds import real
from picojoule.graph import nodes as g
from picojoule.graph.builder import Builder
from picojoule.graph.lowering import Args, lowers, opaque, packet
from picojoule.graph.nodes import Edge
from picojoule.graph.rows import Val


def _many(item: Any, n: int, otherwise: Any = None) -> tuple[int, ...]:
    if item is None or (isinstance(item, list | tuple) and not item):
        item = otherwise
    items = [item] if isinstance(item, int) else list(item)
    return tuple(items * n if len(items) == 1 else items)


def _spaces(node: fx.Node) -> int:
    name = packet(node)
    return next(n for n in (1, 2, 3) if f"{n}d" in name)


@lowers(
    "aten.max_pool1d", "aten.max_pool2d", "aten.max_pool3d", "aten.max_pool2d_with_indices",
    "aten.max_pool3d_with_indices", "aten.avg_pool1d", "aten.avg_pool2d", "aten.avg_pool3d",
)  # fmt: skip
def pool(b: Builder, node: fx.Node, a: Args) -> Any:
    """Max and average windows."""
    v = a["self"]
    n = _spaces(node)
    mode = "max" if "max" in packet(node) else "avg"
    rows, lead = b.rows(v)
    shown = rows
    kernel = _many(a["kernel_size"], n)
    stride = _many(a.get("stride"), n, kernel)
    pads = _many(a.get("padding", 0), n)
    wide = any(d != 1 for d in _many(a.get("dilation", 1), n))
    uneven = mode == "avg" and any(pads) and not a.get("count_include_pad", True)
    uneven = uneven or (mode == "avg" and a.get("ceil_mode"))
    if wide or uneven or lead.extra:
        return opaque(b, node, a)
    if lead.split and len(rows.edge.shape) == n:  # torch takes B for channels; each row is one channel
        shape = (1, *rows.edge.shape)
        rows = b.move(rows, ("view", shape), shape=shape)
    if len(rows.edge.shape) != n + 1:
        return opaque(b, node, a)
    padding, space = [], []
    for size, k, s, p in zip(rows.edge.shape[1:], kernel, stride, pads):
        span = size + 2 * p - k
        count = (math.ceil(span / s) if a.get("ceil_mode") else span // s) + 1
        if a.get("ceil_mode") and (count - 1) * s >= size + p:
            count -= 1  # a window may not start in the padding behind
        space.append(count)
        padding.append((p, max(p, (count - 1) * s + k - size - p)))
    kind = rows.edge.kind if mode == "max" else real
    edge = Edge(kind, (rows.edge.shape[0], *space), rows.edge.steps)
    out = b.emit(
        g.Pool, "main", [rows.node], edge, mode=mode, kernel=kernel, stride=stride, padding=tuple(padding),
        divisor=int(a.get("divisor_override") or 0),
    )  # fmt: skip
    if mode == "max":
        b.like(rows, out.node)
    if len(shown.edge.shape) == n:
        out = b.move(out, ("view", tuple(space)), shape=tuple(space))
    out = b.shown(out, lead)
    return [out, None] if "with_indices" in packet(node) else out


@lowers(
    "aten.adaptive_avg_pool1d",
    "aten.adaptive_avg_pool2d",
    "aten.adaptive_avg_pool3d",
    "aten._adaptive_avg_pool2d",
)
def adaptive(b: Builder, node: fx.Node, a: Args) -> Any:
    """To one value: a Mean; to a divisor of the size: an average Pool; else opaque."""
    n = _spaces(node)
    rows, lead = b.rows(a["self"])
    if lead.extra or lead.split or len(rows.edge.shape) != n + 1:
        return opaque(b, node, a)
    size = rows.edge.shape[1:]
    target = tuple(s if t is None else t for s, t in zip(size, _many(a["output_size"], n)))
    if all(t == 1 for t in target):
        edge = Edge(real, (rows.edge.shape[0], *target), rows.edge.steps)
        return b.emit(g.Mean, "main", [rows.node], edge, axes=tuple(range(1, n + 1)), keepdim=True)
    if any(s % t for s, t in zip(size, target)):
        return opaque(b, node, a)
    if size == target:
        return rows
    kernel = tuple(s // t for s, t in zip(size, target))
    edge = Edge(real, (rows.edge.shape[0], *target), rows.edge.steps)
    return b.emit(
        g.Pool, "main", [rows.node], edge, mode="avg", kernel=kernel, stride=kernel, padding=((0, 0),) * n
    )


@lowers("aten.upsample_nearest1d", "aten.upsample_nearest2d", "aten.upsample_nearest3d")
def upsample(b: Builder, node: fx.Node, a: Args) -> Any:
    """Nearest neighbour by whole factors; else opaque."""
    rows, lead = b.rows(a["self"] if "self" in a else a["input"])
    n = _spaces(node)
    meta = node.meta["val"].shape[-n:]
    size = rows.edge.shape[-n:]
    if lead.split or lead.extra or any(int(m) % s for m, s in zip(meta, size)):
        return opaque(b, node, a)
    factors = tuple(int(m) // s for m, s in zip(meta, size))
    edge = Edge(rows.edge.kind, (rows.edge.shape[0], *(int(m) for m in meta)), rows.edge.steps)
    out: Val = b.emit(g.Upsample, "main", [rows.node], edge, factors=factors)
    b.like(rows, out.node)
    return out
