"""Convolution driven by spikes, with the sums and gradients of the ordinary one (float32, CPU).

    y = b + W * s        for every spike and tap a row of weights is added
    dW = s * g           for every spike and tap a row of output gradients is added
    ds = W^T * g         only where the neuron that made the spikes has a slope, where that is known

Readable reference: event_reference.py. Spikes are recognised by value at every call and kept as bits until
the backward pass. Where they are too dense for the event-driven sum to win, and for the gradient of neurons
whose slope is nowhere zero, a dense kernel computes it: for 3x3 taps with stride 1 (input gradients: also 2)
the library's own minimal filtering (native/src/train_tiles.cpp, a quarter of the products, or nine
sixteenths), for input gradients of 1x1 taps with a stride a product that writes zeros beside
(native/src/train_sampled.cpp), else torch's. Results differ by rounding only.
Which kernel runs depends on shapes and densities, never on a clock, so that a run can be repeated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils._python_dispatch import _get_current_dispatch_mode  # tracers must see tensor operations

from picojoule.layers.event_bits import AVAILABLE, CL, Bits, is_channels_last, native, pack, published
from picojoule.layers.event_reference import Geometry
from picojoule.neurons.open_window import Window


@dataclass(frozen=True, slots=True)
class EventLimits:
    """Largest share of nonzero values at which the event-driven kernel is used: for the forward pass, the
    weight gradient and the input gradient (there: the share of open windows). None: as measured for the
    kernel's size.
    """

    forward: float | None = None
    weight: float | None = None
    input: float | None = None


# A little below the densities at which both ways take the same time: one thread, channels last, torch 2.13
# (oneDNN with AVX-512), AMD EPYC of Zen 4, layers of 64..512 channels (benchmarks/train/event_limits.py).
# 3x3 kernels break even at 0.43, 0.68..1.0 and 0.30..0.33, 1x1 at 0.36..0.5, 0.40..0.58 and 0.10..0.12,
# 3x3 with stride 2 at 0.44, 0.64 and 0.14; against minimal filtering at 0.16..0.24 and 0.14..0.18.
SEVERAL_TAPS = EventLimits(0.40, 0.64, 0.28)
ONE_TAP = EventLimits(0.35, 0.40, 0.10)
TILED = EventLimits(0.15, 0.64, 0.13)  # where minimal filtering is the other way, forward and for inputs
LEAST_CHANNELS = 8  # of a group's outputs: rows of weights shorter than this leave vectors empty


def limits_for(
    kernel: tuple[int, int],
    stride: tuple[int, int],
    given: EventLimits,
    tiled: tuple[bool, bool] = (False, False),
) -> tuple[float, ...]:
    """The three limits of a kernel and its stride: forward, weight, input.

    `tiled`: whether minimal filtering is the other way, forward and for inputs.
    """
    taps = kernel[0] * kernel[1]
    base = SEVERAL_TAPS if taps > 1 else ONE_TAP
    inputs = SEVERAL_TAPS if taps > 4 * stride[0] * stride[1] else ONE_TAP  # taps that reach one input
    ways = TILED if tiled[0] else base, base, TILED if tiled[1] else inputs
    measured = ways[0].forward, ways[1].weight, ways[2].input
    asked = given.forward, given.weight, given.input
    return tuple(float(b if a is None else a) for a, b in zip(asked, measured))  # type: ignore[arg-type]


_PLAIN = (Tensor, torch.nn.Parameter)


def _addressable(x: Tensor) -> bool:
    return (
        type(x) in _PLAIN
        and x.dtype == torch.float32
        and x.device.type == "cpu"
        and x.layout == torch.strided
    )


def usable(x: Tensor, w: Tensor, bias: Tensor | None) -> bool:
    """True where the kernels can be called on these tensors."""
    return (
        AVAILABLE
        and _addressable(x)
        and _addressable(w)
        and (bias is None or _addressable(bias))
        and not torch.is_autocast_enabled("cpu")
        and _get_current_dispatch_mode() is None
        and not torch._C._are_functorch_transforms_active()
    )


def _shape(x: tuple[int, ...], w: Tensor, geo: Geometry) -> list[int]:
    n, c, h, width = x
    o, _, ky, kx = w.shape
    out = geo.out((h, width), (ky, kx))
    return [n, h, width, c, *out, o, ky, kx, *geo.stride, *geo.padding, *geo.dilation, geo.groups]


def _weight(w: Tensor) -> tuple[int, int, int, int, int]:
    return (w.data_ptr(), *w.stride())  # type: ignore[return-value]


# -- the three sums --------------------------------------------------------------------------------------


def forward(bits: Bits, w: Tensor, bias: Tensor | None, geo: Geometry) -> Tensor:
    """y [N, O, OH, OW], channels last, from spikes."""
    shape = _shape(bits.shape, w, geo)
    y = torch.empty((shape[0], shape[6], shape[4], shape[5]), memory_format=CL)
    b = None if bias is None else bias.contiguous()
    address = 0 if b is None else b.data_ptr()
    threads = torch.get_num_threads()
    native.event_forward(shape, bits.address(), _weight(w), address, y.data_ptr(), threads)
    return y


def weight_gradient(bits: Bits, w: Tensor, g: Tensor, geo: Geometry) -> Tensor:
    """dW in the strides of w, from spikes and the output's gradient g [N, O, OH, OW], channels last."""
    dw = torch.empty_like(w)
    shape = _shape(bits.shape, w, geo)
    native.event_weight_gradient(shape, bits.address(), g.data_ptr(), _weight(dw), torch.get_num_threads())
    return dw


def input_gradient(shape: tuple[int, ...], opened: Tensor, w: Tensor, g: Tensor, geo: Geometry) -> Tensor:
    """dx of `shape` where the bits `opened` are set, zero elsewhere; g and dx are channels last."""
    dx = torch.empty(shape, memory_format=CL)
    native.event_input_gradient(
        _shape(shape, w, geo),
        opened.data_ptr(),
        g.data_ptr(),
        _weight(w),
        dx.data_ptr(),
        torch.get_num_threads(),
    )
    return dx


def tiled_forward(x: Tensor, w: Tensor, bias: Tensor | None, geo: Geometry) -> Tensor:
    """y [N, O, OH, OW], channels last, from any x, by minimal filtering."""
    x = x.contiguous(memory_format=CL)
    shape = _shape(x.shape, w, geo)
    y = torch.empty((shape[0], shape[6], shape[4], shape[5]), memory_format=CL)
    b = None if bias is None else bias.contiguous()
    address = 0 if b is None else b.data_ptr()
    native.tiled_forward(shape, x.data_ptr(), _weight(w), address, y.data_ptr(), torch.get_num_threads())
    return y


def tiled_input_gradient(shape: tuple[int, ...], w: Tensor, g: Tensor, geo: Geometry) -> Tensor:
    """dx of `shape`, channels last like g, by minimal filtering."""
    dx = torch.empty(shape, memory_format=CL)
    native.tiled_input_gradient(
        _shape(shape, w, geo), g.data_ptr(), _weight(w), dx.data_ptr(), torch.get_num_threads()
    )
    return dx


def sampled_input_gradient(shape: tuple[int, ...], w: Tensor, g: Tensor, geo: Geometry) -> Tensor:
    """dx of `shape`, channels last like g, of a 1x1 kernel whose stride leaves most inputs unread."""
    dx = torch.empty(shape, memory_format=CL)
    native.sampled_input_gradient(
        _shape(shape, w, geo), g.data_ptr(), _weight(w), dx.data_ptr(), torch.get_num_threads()
    )
    return dx


def dense_input_gradient(shape: tuple[int, ...], w: Tensor, g: Tensor, geo: Geometry) -> Tensor | None:
    """dx of `shape` by the library's own dense kernels; None where torch is the way."""
    if tiles(shape, w, geo)[1]:
        return tiled_input_gradient(shape, w, g, geo)
    if w.shape[2:] == (1, 1) and native.sampled_serve(_shape(shape, w, geo)):
        return sampled_input_gradient(shape, w, g, geo)
    return None


def dense_gradients(
    x: Tensor, w: Tensor, g: Tensor, geo: Geometry, wants: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of x and w by torch; x is read only where that of w is wanted."""
    if not any(wants):
        return None, None
    dx, dw, _ = torch.ops.aten.convolution_backward(
        g, x, w, None, geo.stride, geo.padding, geo.dilation, False, [0, 0], geo.groups, [*wants, False]
    )
    return dx, dw


class _EventConv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        w: Tensor,
        bias: Tensor | None,
        bits: Bits,
        geo: Geometry,
        limits: tuple[float, ...],
        window: Window | None,
    ) -> Tensor:
        ctx.save_for_backward(bits.data, w, None if window is None else window.bits)
        ctx.bits, ctx.geo, ctx.limits = _without_data(bits), geo, limits
        ctx.open_rate = 1.0 if window is None else window.rate
        return _value(x, w, bias, bits, geo, limits)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        data, w, opened = ctx.saved_tensors
        bits: Bits = _with_data(ctx.bits, data)
        g = grads[0].contiguous(memory_format=CL)
        wants_x, wants_w, wants_b = ctx.needs_input_grad[:3]
        _, weight_limit, input_limit = ctx.limits
        dx = dw = None
        if wants_w and bits.rate <= weight_limit:
            dw, wants_w = weight_gradient(bits, w, g, ctx.geo), False
        if wants_x and opened is not None and ctx.open_rate <= input_limit:
            dx, wants_x = input_gradient(bits.shape, opened, w, g, ctx.geo), False
        if wants_x:
            dx = dense_input_gradient(bits.shape, w, g, ctx.geo)
            wants_x = dx is None
        x = bits.unpack() if wants_w else torch.empty(bits.shape, memory_format=CL) if wants_x else g
        dense_x, dense_w = dense_gradients(x, w, g, ctx.geo, (wants_x, wants_w))
        db = g.sum((0, 2, 3)) if wants_b else None
        return dense_x if dx is None else dx, dense_w if dw is None else dw, db, None, None, None, None


def _without_data(bits: Bits) -> tuple[Any, ...]:
    return bits.planes, bits.sign, bits.scale, bits.shape, bits.nonzero


def _with_data(rest: tuple[Any, ...], data: Tensor) -> Bits:
    return Bits(data, *rest)


def _value(
    x: Tensor, w: Tensor, bias: Tensor | None, bits: Bits, geo: Geometry, limits: tuple[float, ...]
) -> Tensor:
    if bits.rate <= limits[0]:
        y = forward(bits, w, bias, geo)
    elif tiles(bits.shape, w, geo)[0]:
        y = tiled_forward(x, w, bias, geo)
    else:
        return F.conv2d(x, w, bias, geo.stride, geo.padding, geo.dilation, geo.groups)
    # torch answers channels last where the input or the weight is
    return y if is_channels_last(x) or is_channels_last(w) else y.contiguous()


def tiles(shape: tuple[int, ...], w: Tensor, geo: Geometry) -> tuple[bool, bool]:
    """Whether minimal filtering beats torch on inputs of `shape`: forward, and for their gradient."""
    if w.shape[2:] != (3, 3):
        return False, False
    return native.tiles_win(_shape(shape, w, geo))  # type: ignore[no-any-return]


def fits(x: Tensor, w: Tensor, geo: Geometry) -> bool:
    """True for shapes that the kernels serve; the others, wrong ones among them, are torch's."""
    if x.dim() != 4 or x.numel() == 0 or w.numel() == 0 or x.shape[1] != w.shape[1] * geo.groups:
        return False
    shape = _shape(x.shape, w, geo)
    return (
        min(shape[4:6]) >= 1 and w.shape[0] // geo.groups >= LEAST_CHANNELS and native.event_supported(shape)
    )


def event_conv(
    x: Tensor,
    w: Tensor,
    bias: Tensor | None,
    geo: Geometry,
    limits: EventLimits,
    window: Window | None = None,
) -> Tensor:
    """The convolution of F.conv2d, driven by spikes where x holds spikes and there are few of them.

    Args:
        x: [N, C, H, W].
        w: [O, C / groups, Ky, Kx].
        bias: [O] or None.
        limits: densities up to which events are used.
        window: where the gradient of x is wanted, its bits along the channels; None: everywhere.
    Returns:
        [N, O, OH, OW], equal to F.conv2d's up to the order of sums; differentiable once.
    """
    ordinary = (x, w, bias, geo.stride, geo.padding, geo.dilation, geo.groups)
    if not usable(x, w, bias) or not fits(x, w, geo):
        return F.conv2d(*ordinary)
    bits = published(x) or pack(x.detach())
    if bits is None:
        return F.conv2d(*ordinary)
    all_limits = limits_for((w.shape[2], w.shape[3]), geo.stride, limits, tiles(bits.shape, w, geo))
    if not torch.is_grad_enabled():
        return _value(x, w, bias, bits, geo, all_limits)
    return _EventConv.apply(x, w, bias, bits, geo, all_limits, window)  # type: ignore[no-any-return]
