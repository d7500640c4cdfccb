"""Max-pooling of binary spikes on their bits: values and gradients of the ordinary pool (float32, CPU).

    y = max over the window of s          the OR of its bits
    ds = gradient of y                    at the window's first spike; where none fires, at its first position

Between the passes torch keeps the spikes and, for every output, an index of eight bytes; here the bits stay,
which a convolution keeps anyway where a neuron published them (neurons/spike_bits.py).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from picojoule.layers.event_bits import CL, is_channels_last, native, pack_binary, published
from picojoule.layers.event_conv import usable
from picojoule.layers.event_reference import Geometry
from picojoule.neurons.spike_bits import publish


def fits(module: nn.Module) -> bool:
    """Pools that the kernels can serve; the others stay."""
    if type(module) is not nn.MaxPool2d or "forward" in module.__dict__:
        return False
    return not module.ceil_mode and not module.return_indices and _pair(module.dilation) == (1, 1)


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


class EventPool:
    """Stands in for `forward` of an nn.MaxPool2d that it does not otherwise change."""

    def __init__(self, module: nn.MaxPool2d) -> None:
        self.module = module

    def __call__(self, x: Tensor) -> Tensor:
        module = self.module
        if x.dim() != 4 or torch.compiler.is_compiling():
            return type(module).forward(module, x)  # type: ignore[return-value]
        kernel, stride = _pair(module.kernel_size), _pair(module.stride)
        return event_pool(x, kernel, Geometry(stride, _pair(module.padding)))


def event_pool(x: Tensor, kernel: tuple[int, int], geo: Geometry) -> Tensor:
    """F.max_pool2d, on bits where x holds binary spikes, lies channels last, and wants a gradient.

    Args:
        x: [N, C, H, W].
        kernel: rows and columns of a window.
        geo: stride and padding.
    Returns:
        [N, C, H', W'], equal to F.max_pool2d's; differentiable once where x holds spikes.
    """
    shape = _shape(x, kernel, geo)
    bits = None
    if torch.is_grad_enabled() and x.requires_grad and usable(x, x, None) and is_channels_last(x):
        bits = (published(x) or pack_binary(x.detach())) if shape and native.pool_serves(shape) else None
    if bits is None:
        return F.max_pool2d(x, kernel, geo.stride, geo.padding)
    n, _, _, c, height, width = shape[:6]
    out = torch.empty(n * height * width * c // 8 + native.EVENT_SLACK, dtype=torch.uint8)
    y: Tensor = _EventPool.apply(x, bits.data, bits.scale, shape, out)  # type: ignore[assignment]
    publish(y, out, bits.scale)
    return y


def _shape(x: Tensor, kernel: tuple[int, int], geo: Geometry) -> list[int]:
    """As the kernels take it; empty where there is nothing to pool."""
    n, c, h, w = x.shape
    out = geo.out((h, w), kernel)
    if x.numel() == 0 or min(out) < 1 or any(2 * p > k for p, k in zip(geo.padding, kernel)):
        return []
    return [n, h, w, c, *out, c, *kernel, *geo.stride, *geo.padding, 1, 1, 1]


class _EventPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bits: Tensor, size: float, shape: list[int], out: Tensor) -> Tensor:
        ctx.save_for_backward(bits)
        ctx.shape = shape
        n, _, _, c, height, width = shape[:6]
        y = torch.empty((n, c, height, width), memory_format=CL)
        threads = torch.get_num_threads()
        native.pool_forward(shape, bits.data_ptr(), size, out.data_ptr(), y.data_ptr(), threads)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (bits,) = ctx.saved_tensors
        n, h, w, c = ctx.shape[:4]
        g = grads[0].contiguous(memory_format=CL)
        dx = torch.empty((n, c, h, w), memory_format=CL)
        native.pool_gradient(ctx.shape, bits.data_ptr(), g.data_ptr(), dx.data_ptr(), torch.get_num_threads())
        return dx, None, None, None, None


__all__ = ["EventPool", "event_pool", "fits"]
