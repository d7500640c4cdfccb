"""Lowering of operators with weights, matrix products and normalization."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import fx

from picojoule.core.kinds import real
from picojoule.graph import nodes as g
from picojoule.graph.builder import Builder, array_of
from picojoule.graph.lower_math import affine
from picojoule.graph.lowering import Args, lowers, opaque, packet, same_lead, tensors_in
from picojoule.graph.nodes import Coding, Edge
from picojoule.graph.rows import Const, Lead, Val

# -- convolution -----------------------------------------------------------------------------------------


def _many(item: Any, n: int) -> tuple[int, ...]:
    items = [item] if isinstance(item, int) else list(item)
    return tuple(items * n if len(items) == 1 else items)


@lowers("aten.conv1d", "aten.conv2d", "aten.conv3d", "aten.convolution")
def conv(b: Builder, node: fx.Node, a: Args) -> Any:
    """Convolution with a constant weight; transposed and dynamic ones stay opaque."""
    v, w = a["input"], a["weight"]
    if not isinstance(v, Val) or not isinstance(w, Const) or a.get("transposed"):
        return opaque(b, node, a)
    n = w.tensor.dim() - 2
    rows, lead = b.rows(v)
    if lead.split or lead.extra or len(rows.edge.shape) != n + 1:
        b.fail(
            f"a {n}-D convolution sees a tensor whose batch axis is split or fused (row "
            f"{list(rows.edge.shape)}); "
            f"give it rows [T*B, C, {', '.join('DHW'[-n:])}]"
        )
    kernel = tuple(w.tensor.shape[2:])
    stride, dilation = _many(a.get("stride", 1), n), _many(a.get("dilation", 1), n)
    padding = _padding(a.get("padding", 0), kernel, dilation, n)
    space = tuple(
        (size + lo + hi - d * (k - 1) - 1) // s + 1
        for size, (lo, hi), d, k, s in zip(rows.edge.shape[1:], padding, dilation, kernel, stride)
    )
    edge = Edge(real, (w.tensor.shape[0], *space), rows.edge.steps)
    name = b.name_for("main")
    return _weighted(
        b, g.Conv, name, rows, edge, a,
        stride=stride, padding=padding, dilation=dilation, groups=int(a.get("groups", 1)),
    )  # fmt: skip


def _padding(
    padding: Any, kernel: tuple[int, ...], dilation: tuple[int, ...], n: int
) -> tuple[tuple[int, int], ...]:
    """(before, after) per axis; "same" puts the odd one after, as PyTorch does."""
    if padding == "same":
        totals = [d * (k - 1) for d, k in zip(dilation, kernel)]
        return tuple((t // 2, t - t // 2) for t in totals)
    if padding == "valid":
        return ((0, 0),) * n
    return tuple((p, p) for p in _many(padding, n))


def _weighted(b: Builder, cls: type[g.Node], name: str, rows: Val, edge: Edge, a: Args, **fields: Any) -> Val:
    """A Conv or Linear node with its weight (codes or floats) and bias."""
    weight, coding, scale = b.coded(a["weight"])
    bias = None
    if a.get("bias") is not None:
        bias = b.constant(a["bias"].name or f"{name}.bias", array_of(a["bias"].tensor))
    return b.emit(
        cls,
        "main",
        [rows.node],
        edge,
        name=name,
        weight=weight,
        bias=bias,
        coding=coding,
        scale=scale,
        **fields,
    )


# -- linear ----------------------------------------------------------------------------------------------


def linear_rows(b: Builder, v: Val, weight: Const, bias: Const | None) -> Val:
    """v @ weight.T + bias over the last tensor axis, which must be a row axis.

    A batch axis elsewhere ([L, N, D], or [L*N, D] where the sequence comes first) goes in front meanwhile.
    """
    at = next((i for i, axis in enumerate(v.axes) if "N" in axis), 0)
    place = v.axes[at].index("N") if "N" in v.axes[at] else 0
    if (at or place) and at < len(v.axes) - 1:
        ints = v.axes[at][:place] + v.axes[at][place + 1 :]
        rest = [axis for i, axis in enumerate(v.axes) if i != at]
        out = linear_rows(b, v.with_(axes=(("N", *ints), *rest)), weight, bias)
        axes = list(out.axes)
        fused = axes.pop(0)[1:]
        axes.insert(at, (*fused[:place], "N", *fused[place:]))
        return out.with_(axes=tuple(axes))
    rows, lead = b.rows(v)
    if len(rows.edge.shape) <= lead.extra:
        b.fail("a linear layer works over the batch axis; its input needs a feature axis after the batch")
    edge = Edge(real, (*rows.edge.shape[:-1], weight.tensor.shape[0]), rows.edge.steps)
    name = b.name_for("main")
    out = _weighted(b, g.Linear, name, rows, edge, {"weight": weight, "bias": bias})
    return b.shown(out, lead)


@lowers("aten.linear")
def linear(b: Builder, node: fx.Node, a: Args) -> Any:
    """nn.Linear and friends."""
    if not isinstance(a["input"], Val) or not isinstance(a["weight"], Const):
        return opaque(b, node, a)
    return linear_rows(b, a["input"], a["weight"], a.get("bias"))


@lowers("aten.addmm")
def addmm(b: Builder, node: fx.Node, a: Args) -> Any:
    """bias + x @ w with constant bias and w."""
    x, w, bias = a["mat1"], a["mat2"], a["self"]
    plain = float(a.get("beta", 1)) == float(a.get("alpha", 1)) == 1.0
    if not (isinstance(x, Val) and isinstance(w, Const) and isinstance(bias, Const) and plain):
        return opaque(b, node, a)
    return linear_rows(b, x, Const(w.tensor.t()), bias)


@lowers("aten.matmul", "aten.mm", "aten.bmm")
def matmul(b: Builder, node: fx.Node, a: Args) -> Any:
    """Matrix products: of two values, or of a value and a constant."""
    x, y = a["self"], a.get("other", a.get("mat2"))
    if isinstance(x, Val) and isinstance(y, Const) and y.tensor.dim() == 2:
        return linear_rows(b, x, Const(y.tensor.t().contiguous()), None)
    if isinstance(y, Val) and isinstance(x, Const) and x.tensor.dim() == 2 and len(y.axes) > 2:
        turned = linear_rows(b, _swapped(y), x, None)
        return _swapped(turned)
    if isinstance(x, Val) and isinstance(y, Val) and len(x.axes) == len(y.axes):
        return product(b, node, x, y, a)
    return opaque(b, node, a)


def _swapped(v: Val) -> Val:
    return v.with_(axes=(*v.axes[:-2], v.axes[-1], v.axes[-2]))


def product(b: Builder, node: fx.Node, x: Val, y: Val, a: Args) -> Any:
    """x @ y of two values with equal leads."""
    (x, y), lead = same_lead(b, [x, y])
    if min(len(x.edge.shape), len(y.edge.shape)) < 2 + lead.extra:
        return opaque(b, node, a)
    out = row_product(b, x, y)
    return b.shown(out, lead)


def row_product(b: Builder, x: Val, y: Val) -> Val:
    """MatMul of canonical rows."""
    lead = np.broadcast_shapes(x.edge.shape[:-2], y.edge.shape[:-2])
    shape = (*(int(s) for s in lead), x.edge.shape[-2], y.edge.shape[-1])
    return b.emit(g.MatMul, "matmul", [x.node, y.node], Edge(real, shape, x.edge.steps))


@lowers("aten.scaled_dot_product_attention")
def attention(b: Builder, node: fx.Node, a: Args) -> Any:
    """softmax(q k^T / sqrt(d)) v without mask; other forms stay opaque."""
    q, k, v = a["query"], a["key"], a["value"]
    if a.get("attn_mask") is not None or a.get("is_causal") or a.get("enable_gqa"):
        return opaque(b, node, a)
    (q, k, v), lead = same_lead(b, [q, k, v])
    width = q.edge.shape[-1]
    factor = a.get("scale") or width**-0.5
    kt_shape = (*k.edge.shape[:-2], k.edge.shape[-1], k.edge.shape[-2])
    order = (*range(len(kt_shape) - 2), len(kt_shape) - 1, len(kt_shape) - 2)
    scores = row_product(b, q, b.move(k, ("permute", order), shape=kt_shape, part="permute"))
    f64 = torch.float64
    scores = affine(b, scores, torch.tensor(factor, dtype=f64), torch.zeros((), dtype=f64), "scale")
    args = (
        ("self", ("in", 0, False, 0, "float")),
        ("dim", ("value", -1)),
        ("half_to_float", ("value", False)),
    )
    soft = b.emit(
        g.Opaque, "softmax", [scores.node], scores.edge, target="aten._softmax.default", args=args,
        kwargs=(("lead", ("value", (False, 0))),),
    )  # fmt: skip
    return b.shown(row_product(b, soft, v), lead)


# -- einsum ----------------------------------------------------------------------------------------------


@lowers("aten.einsum")
def einsum(b: Builder, node: fx.Node, a: Args) -> Any:
    """Two operands as permutations around one matrix product; anything else stays opaque."""
    operands, equation = a["tensors"], a["equation"].replace(" ", "")
    if len(operands) != 2 or "->" not in equation or "." in equation:
        return opaque(b, node, a)
    left, out = equation.split("->")
    first, second = left.split(",")
    x, y = operands
    if any(len(set(s)) != len(s) for s in (first, second, out)):
        return opaque(b, node, a)
    if isinstance(x, Const) and isinstance(y, Val):
        x, y, first, second = y, x, second, first
    if isinstance(x, Val) and isinstance(y, Const):
        return _einsum_weight(b, node, a, x, y, (first, second, out))
    (x, y), lead = same_lead(b, tensors_in([x, y]))
    w = lead.width
    if lead.extra or first[:w] != second[:w] or out[:w] != first[:w]:
        return opaque(b, node, a)
    return b.shown(_einsum_rows(b, x, y, first[w:], second[w:], out[w:]), lead)


def _einsum_rows(b: Builder, x: Val, y: Val, first: str, second: str, out: str) -> Val:
    """Row letters only: batch letters (in all three), contracted, and free ones."""
    size = dict(zip(first, x.edge.shape)) | dict(zip(second, y.edge.shape))
    x, first = _summed(b, x, first, second + out)
    y, second = _summed(b, y, second, first + out)
    shared = [c for c in first if c in second and c in out]
    inner = [c for c in first if c in second and c not in out]
    rows_ = [c for c in first if c not in second]
    cols = [c for c in second if c not in first]

    def arranged(v: Val, letters: str, groups: tuple[list[str], list[str]]) -> Val:
        order = tuple(letters.index(c) for c in [*shared, *groups[0], *groups[1]])
        shape = tuple(size[c] for c in shared) + tuple(int(np.prod([size[c] for c in gr])) for gr in groups)
        return b.move(v, ("permute", order), ("view", shape), shape=shape, part="permute")

    z = row_product(b, arranged(x, first, (rows_, inner)), arranged(y, second, (inner, cols)))
    letters = [*shared, *rows_, *cols]
    full = tuple(size[c] for c in letters)
    order = tuple(letters.index(c) for c in out)
    shape = tuple(size[c] for c in out)
    return b.move(z, ("view", full), ("permute", order), shape=shape, part="permute")


def _summed(b: Builder, v: Val, letters: str, needed: str) -> tuple[Val, str]:
    """Letters that occur nowhere else are summed first."""
    axes = tuple(i for i, c in enumerate(letters) if c not in needed)
    if not axes:
        return v, letters
    shape = tuple(s for i, s in enumerate(v.edge.shape) if i not in axes)
    out = b.emit(g.Mean, "sum", [v.node], Edge(real, shape, v.edge.steps), axes=axes, total=True)
    return out, "".join(c for i, c in enumerate(letters) if i not in axes)


def _einsum_weight(
    b: Builder, node: fx.Node, a: Args, x: Val, w: Const, letters: tuple[str, str, str]
) -> Any:
    """A constant second operand: a linear map of the contracted letters."""
    first, second, out = letters
    inner = [c for c in second if c in first and c not in out]
    free = [c for c in second if c not in first]
    rows, lead = b.rows(x)
    if (
        lead.extra
        or any(c in out and c in first for c in second)
        or not set(inner) <= set(first[lead.width :])
    ):
        return opaque(b, node, a)
    if any(c not in out and c not in second for c in first):
        return opaque(b, node, a)
    row = first[lead.width :]
    size = dict(zip(row, rows.edge.shape)) | dict(zip(second, w.tensor.shape))
    kept = [c for c in row if c not in inner]
    order = tuple(row.index(c) for c in [*kept, *inner])
    shape = (*(size[c] for c in kept), int(np.prod([size[c] for c in inner])))
    rows = b.move(rows, ("permute", order), ("view", shape), shape=shape, part="permute")
    weight = w.tensor.permute([second.index(c) for c in [*free, *inner]]).reshape(-1, shape[-1])
    y = linear_rows(b, rows, Const(weight.contiguous()), None)
    full = [*kept, *free]
    target = out[lead.width :]
    moves = (("view", tuple(size[c] for c in full)), ("permute", tuple(full.index(c) for c in target)))
    return b.shown(b.move(y, *moves, shape=tuple(size[c] for c in target), part="permute"), lead)


# -- normalization ---------------------------------------------------------------------------------------


@lowers(
    "aten.batch_norm",
    "aten._native_batch_norm_legit_no_training",
    "aten.native_batch_norm",
    "aten.cudnn_batch_norm",
)
def batch_norm(b: Builder, node: fx.Node, a: Args) -> Any:
    """BatchNorm in eval mode is an Affine of the channel axis; batch statistics are refused."""
    v, mean, var = a["input"], a["running_mean"], a["running_var"]
    if mean is None or var is None or a.get("training"):
        b.fail(
            "this normalization uses statistics of the batch even in eval mode, which mixes "
            "samples; give the "
            "BatchNorm running statistics (track_running_stats=True)"
        )
    f64 = torch.float64
    gain = 1 / torch.sqrt(var.tensor.to(f64) + a["eps"])
    if a.get("weight") is not None:
        gain = gain * a["weight"].tensor.to(f64)
    bias = -mean.tensor.to(f64) * gain
    if a.get("bias") is not None:
        bias = bias + a["bias"].tensor.to(f64)
    shape = [1] * len(v.axes)
    if len(v.axes) < 2 or any(isinstance(x, str) for x in v.axes[1]):
        b.fail("BatchNorm sees [T, B, ...]: its channel axis is the batch; give it rows [T*B, C, ...]")
    shape[1] = gain.numel()
    out = affine(b, v, gain.reshape(shape), bias.reshape(shape), "main")
    return [out, None, None] if packet(node) != "aten.batch_norm" else out


__all__ = ["Coding", "Lead", "linear_rows"]
