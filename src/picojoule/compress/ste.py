"""Straight-through steps shared by the quantizers: exact values forward, chosen gradients backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _Replace(torch.autograd.Function):
    """value forward; the gradient passes to `w` where `mask` is set (everywhere without one)."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        ctx.save_for_backward(mask)
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        (mask,) = ctx.saved_tensors
        return (grad if mask is None else grad * mask), None, None


def straight_through(w: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """`value`, with d/dw = mask (1 without one).

    The spelling `w + (value - w).detach()` rounds and would leave the grid; this returns `value` itself.

    Args:
        w, value: same shape. mask: bool or float of that shape.
    """
    return _Replace.apply(w, value.detach(), mask)


def sign(x: Tensor) -> Tensor:
    """Sign with sign(0) = +1, so that two levels stay two."""
    return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)
