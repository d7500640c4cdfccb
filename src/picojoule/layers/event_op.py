"""`pj::event_conv`: the spike-driven convolution as a registered operator, used under torch.compile only.

It keeps its input between the passes, because what a compiled graph saves must have one shape: bits are a
saving of eager mode. Windows of neurons are unknown here, so the gradient of the input is dense.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from picojoule.layers import event_conv as ec
from picojoule.layers.event_bits import CL, is_channels_last, pack
from picojoule.layers.event_reference import Geometry

Ints = list[int]


def _geometry(stride: Ints, padding: Ints, dilation: Ints, groups: int) -> Geometry:
    (a, b), (c, d), (e, f) = stride, padding, dilation
    return Geometry((a, b), (c, d), (e, f), groups)


def _limits(given: list[float]) -> ec.EventLimits:
    forward, weight = (None if v < 0 else v for v in given)
    return ec.EventLimits(forward, weight)


@torch.library.custom_op("pj::event_conv", mutates_args=())
def event_op(
    x: Tensor,
    w: Tensor,
    bias: Tensor | None,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    groups: int,
    limits: list[float],
) -> Tensor:
    """F.conv2d(x, w, bias, ...) by spikes; `limits`: densities of forward and weight, -1 for measured."""
    geo = _geometry(stride, padding, dilation, groups)
    y = ec.event_conv(x.detach(), w.detach(), bias, geo, _limits(limits))
    return y.contiguous(memory_format=_order(x, w))


def _order(x: Tensor, w: Tensor) -> torch.memory_format:
    """How the operator promises to store its answer."""
    return CL if is_channels_last(x) or is_channels_last(w) else torch.contiguous_format


@event_op.register_fake
def _(
    x: Tensor,
    w: Tensor,
    bias: Tensor | None,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    groups: int,
    limits: list[float],
) -> Tensor:
    size = F.conv2d(x, w, None, stride, padding, dilation, groups).shape
    return x.new_empty(size).contiguous(memory_format=_order(x, w))


@torch.library.custom_op("pj::event_conv_backward", mutates_args=())
def event_backward_op(
    g: Tensor,
    x: Tensor,
    w: Tensor,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    groups: int,
    limits: list[float],
    wants_x: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients of x (empty unless wanted) and w."""
    geo = _geometry(stride, padding, dilation, groups)
    dx = dw = None
    if ec.usable(x, w, None) and ec.usable(g, w, None) and x.numel():
        g = g.contiguous(memory_format=CL)
        bits = pack(x)
        most = ec.limits_for((w.shape[2], w.shape[3]), geo.stride, _limits(limits))[1]
        fits = ec.fits(x, w, geo)
        if bits is not None and fits and bits.rate <= most:
            dw = ec.weight_gradient(bits, w, g, geo)
        if bits is not None and fits and wants_x:
            dx = ec.dense_input_gradient(bits.shape, w, g, geo)
    dense_x, dense_w = ec.dense_gradients(x, w, g, geo, (wants_x and dx is None, dw is None))
    dx, dw = dense_x if dx is None else dx, dense_w if dw is None else dw
    return x.new_empty(0) if dx is None else _as(dx, x), _as(dw, w)  # type: ignore[arg-type]


def _as(value: Tensor, like: Tensor) -> Tensor:
    rows = torch.empty_like(like)
    return value if value.stride() == rows.stride() else rows.copy_(value)


@event_backward_op.register_fake
def _(
    g: Tensor,
    x: Tensor,
    w: Tensor,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    groups: int,
    limits: list[float],
    wants_x: bool,
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x) if wants_x else x.new_empty(0), torch.empty_like(w)


def _setup(ctx: Any, inputs: Any, output: Any) -> None:
    x, w, _, *ctx.rest = inputs
    ctx.save_for_backward(x, w)


def _backward(ctx: Any, g: Tensor) -> Any:
    x, w = ctx.saved_tensors
    wants_x, _, wants_b = ctx.needs_input_grad[:3]
    dx, dw = event_backward_op(g, x, w, *ctx.rest, wants_x)
    return dx if wants_x else None, dw, g.sum((0, 2, 3)) if wants_b else None, *(None,) * 5


event_op.register_autograd(_backward, setup_context=_setup)
