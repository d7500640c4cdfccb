"""One-bit weights: the sign of a latent weight times one scale an output channel."""

from __future__ import annotations

import torch
from torch import Tensor

from picojoule.compress.base import QUANTIZERS, Codes, Quantizer
from picojoule.compress.ste import sign, straight_through
from picojoule.core.errors import ConfigError


@QUANTIZERS.register("binary")
class Binary(Quantizer):
    """Sign with the channel's mean magnitude.

        s_o = mean|w_o| (no gradient),   w_q = s_o sign(w),  sign(0) = +1
        dw_q/dw = 1 where |w| <= clip, else 0;  clip = None: 1 everywhere

    A row of zeros (a pruned channel) has s_o = 0 and decodes to zero.

    Args:
        clip: latent weights beyond +-clip receive no gradient; None lets all pass.
    Source: XNOR-Net, arXiv:1603.05279, section 3.1 (scale); clipped straight-through estimator of
        Binarized Neural Networks, arXiv:1602.02830, eq. 4.
    """

    coding = "sign"
    paper = "1603.05279"

    def __init__(self, clip: float | None = 1.0) -> None:
        super().__init__()
        if clip is not None and not clip > 0:
            raise ConfigError(f"binary: clip must be positive or null, got {clip}")
        self.bits = 1
        self.clip = clip

    def _scale(self, w: Tensor) -> Tensor:
        return self.row_mean(w.detach().abs())

    def forward(self, w: Tensor) -> Tensor:
        mask = None if self.clip is None else w.abs() <= self.clip
        return straight_through(w, sign(w) * self._scale(w), mask)

    def codes(self, w: Tensor) -> Codes:
        """Signs in {-1, +1} and the mean magnitudes."""
        return Codes(sign(w).to(torch.int8), self._scale(w).flatten(), self.coding, 1, tuple(w.shape))
