"""Ternary weights {-s, 0, +s} with a magnitude threshold and one scale an output channel."""

from __future__ import annotations

import torch
from torch import Tensor

from picojoule.compress.base import QUANTIZERS, Codes, Quantizer
from picojoule.compress.ste import straight_through
from picojoule.core.errors import ConfigError


@QUANTIZERS.register("ternary")
class Ternary(Quantizer):
    """Ternary weight network.

        d_o = factor * mean|w_o|,   q = sign(w) [|w| > d_o],   s_o = mean of |w| where q != 0
        w_q = s_o q,   dw_q/dw = 1 where |w| <= clip

    Thresholds and scales take no gradient.

    Args:
        factor: threshold in units of the channel's mean magnitude, in (0, 2).
        clip: latent weights beyond +-clip receive no gradient; None lets all pass.
    Source: Ternary Weight Networks, arXiv:1605.04711, eq. 6-7 (0.7; there a layer, here a channel).
    """

    coding = "ternary"
    paper = "1605.04711"

    def __init__(self, factor: float = 0.7, clip: float | None = 1.0) -> None:
        super().__init__()
        if not 0 < factor < 2:
            raise ConfigError(f"ternary: factor must lie in (0, 2), got {factor}")
        if clip is not None and not clip > 0:
            raise ConfigError(f"ternary: clip must be positive or null, got {clip}")
        self.bits = 2
        self.factor = factor
        self.clip = clip

    def _split(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Codes in {-1, 0, 1} and scales [C_out, 1, ...]."""
        size = w.detach().abs()
        large = size > self.factor * self.row_mean(size)
        share = self.row_mean(large.to(w.dtype))
        total = self.row_mean(size * large)
        scale = torch.where(share > 0, total / share.clamp_min(1e-30), torch.zeros_like(total))
        return torch.sign(w.detach()) * large, scale

    def forward(self, w: Tensor) -> Tensor:
        ints, scale = self._split(w)
        mask = None if self.clip is None else w.abs() <= self.clip
        return straight_through(w, ints * scale, mask)

    def codes(self, w: Tensor) -> Codes:
        """Signs in {-1, 0, +1} and the scales."""
        ints, scale = self._split(w)
        return Codes(ints.to(torch.int8), scale.flatten(), self.coding, 2, tuple(w.shape))
