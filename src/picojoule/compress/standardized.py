"""Standardised one-bit weights with a power-of-two scale, as in Q-SNN."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from picojoule.compress.base import QUANTIZERS, Codes, Quantizer
from picojoule.compress.ste import sign
from picojoule.core.errors import ConfigError


class _SoftSign(torch.autograd.Function):
    """scale * sign(w) forward; backward scale * k t (1 - tanh(t w)^2)."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, scale: Tensor, k: float, t: float) -> Tensor:
        ctx.save_for_backward(w, scale)
        ctx.shape_of_slope = (k, t)
        return sign(w) * scale

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        w, scale = ctx.saved_tensors
        k, t = ctx.shape_of_slope
        return grad * scale * (k * t) * (1 - torch.tanh(t * w).square()), None, None, None


@QUANTIZERS.register("standardized")
class Standardized(Quantizer):
    """Binary weights of maximal entropy: standardise each output channel, take signs, scale by 2^e.

        z = (w - mean_o) / std_o  (n - 1),   e_o = round(log2 mean|z|),   w_q = 2^e_o sign(z)
        dw_q/dz = 2^e_o k t (1 - tanh^2(t z)),  t = 10^(2 fraction - 1),  k = max(1/t, 1)

    The gradient flows on through mean and deviation. The slope narrows as `progress_` reports training
    done. A row without spread (a pruned channel) decodes to zero.

    Source: Q-SNN, arXiv:2406.13672, weight path; the schedule is applied to every layer, also to
        downsampling ones, which the published code leaves at its start.
    """

    coding = "sign"
    paper = "2406.13672"
    fraction: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.bits = 1
        self.register_buffer("fraction", torch.zeros((), dtype=torch.float64))

    def check(self, shape: tuple[int, ...], path: str) -> None:
        """Refuses channels of a single weight, which have no deviation."""
        if math.prod(shape[1:]) < 2:
            raise ConfigError(
                f"{path}: standardized needs at least 2 weights an output channel, got shape {list(shape)}; "
                "write method 'binary' for this layer"
            )

    def slope(self) -> tuple[float, float]:
        """(k, t) of the backward slope at the present fraction."""
        t = 10.0 ** (2.0 * float(self.fraction) - 1.0)
        return max(1.0 / t, 1.0), t

    def progress(self, step: int, fraction: float, latent: Callable[[], Tensor]) -> None:
        self.fraction.fill_(fraction)

    def _standardise(self, w: Tensor) -> Tensor:
        count = w[0].numel()
        if self.fan_in_keep is not None:
            count = int(self.fan_in_keep.expand((1, *w.shape[1:])).sum())
        centred = w - self.row_mean(w)
        variance = self.row_mean(centred.square()) * (count / max(count - 1, 1))
        return centred / variance.clamp_min(1e-24).sqrt()

    def _scale(self, z: Tensor) -> Tensor:
        size = self.row_mean(z.detach().abs())
        power = torch.exp2(torch.log2(size.clamp_min(1e-30)).round())
        return torch.where(size > 0, power, torch.zeros_like(power))

    def forward(self, w: Tensor) -> Tensor:
        z = self._standardise(w)
        k, t = self.slope()
        return _SoftSign.apply(z, self._scale(z), k, t)  # type: ignore[return-value]

    def codes(self, w: Tensor) -> Codes:
        """Signs in {-1, +1} and powers of two."""
        z = self._standardise(w)
        return Codes(sign(z).to(torch.int8), self._scale(z).flatten(), self.coding, 1, tuple(w.shape))
