"""Straight-through rounding: exact integers forward, the identity backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _Through(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, latent: Tensor, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0], None


def through(latent: Tensor, value: Tensor) -> Tensor:
    """`value` forward, the gradient of `latent` backward; no rounding error is added."""
    return _Through.apply(latent, value.detach().to(latent.dtype))  # type: ignore[no-any-return]


def rounded(x: Tensor) -> Tensor:
    """round(x), half up: ties are decided the same way everywhere."""
    return through(x, torch.floor(x.detach() + 0.5))


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, unit: Tensor, grad: Any) -> Tensor:
        ctx.save_for_backward(z, unit)
        ctx.grad = grad
        return (z >= 0).to(z.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        z, unit = ctx.saved_tensors
        return grads[0] * ctx.grad(z * unit) * unit, None, None


def step(z: Tensor, unit: Tensor, grad: Any) -> Tensor:
    """[z >= 0] forward; backward grad(z * unit) * unit, with `unit` the real value of one integer step."""
    return _Step.apply(z, unit, grad)  # type: ignore[no-any-return]


def nearest_tie(q: Tensor) -> Tensor:
    """q, with values within 1e-9 (relative) of a whole number moved onto it.

    A quotient of real constants that is whole in exact arithmetic must not turn a ceil by its last bit.
    """
    whole = torch.round(q)
    return torch.where((q - whole).abs() <= 1e-9 * q.abs().clamp_min(1.0), whole, q)
