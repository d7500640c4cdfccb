"""Learned step size quantization: signed k-bit weights, one learned step an output channel."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from picojoule.compress.base import MIN_STEP, QUANTIZERS, Codes, Quantizer, per_row
from picojoule.core.errors import ConfigError

INITS = ("mse", "paper")


class _LSQ(torch.autograd.Function):
    """step * round(clamp(w / step, low, high)) with the gradients of the LSQ paper."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, step: Tensor, low: int, high: int, factor: float) -> Tensor:
        size = per_row(step.clamp_min(MIN_STEP), w.ndim)
        z = w / size
        ints = z.clamp(low, high).round()
        ctx.save_for_backward(z, ints)
        ctx.limits = (low, high, factor)
        return ints * size

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None]:  # type: ignore[override]
        z, ints = ctx.saved_tensors
        low, high, factor = ctx.limits
        inside = (z >= low) & (z <= high)
        slope = ints - torch.where(inside, z, torch.zeros_like(z))
        rows = (grad * slope).flatten(1).sum(dim=1)
        return grad * inside, rows * factor, None, None, None


@QUANTIZERS.register("lsq")
class LSQ(Quantizer):
    """Learned step sizes.

        q = round(clamp(w / s_o, -2^(b-1), 2^(b-1) - 1)),   w_q = s_o q
        dw_q/dw = 1 where w / s_o lies inside the limits, else 0
        dw_q/ds = q - w / s_o inside, q outside;  multiplied by g = 1 / sqrt(numel(w) * (2^(b-1) - 1))

    Steps are used as max(s, 1e-8), with the gradient passing to s, so they stay positive and can recover.

    Args:
        bits: b in 2..8 (binary weights have a quantizer of their own).
        init: "mse": per channel, the step of 64 tried that leaves the least squared error, good for starting
            from a trained network; "paper": 2 mean|w| / sqrt(2^(b-1) - 1) over the whole tensor.
    Source: Learned Step Size Quantization, arXiv:1902.08153, eq. 1-3, in the per-channel form of
        QSD-Transformer, arXiv:2501.13492; "mse" is ours.
    """

    coding = "int"
    paper = "1902.08153"
    step: nn.Parameter

    def __init__(self, bits: int = 4, init: str = "mse") -> None:
        super().__init__()
        if bits not in range(2, 9):
            raise ConfigError(f"lsq: bits must lie in 2..8, got {bits}; write method 'binary' for 1 bit")
        if init not in INITS:
            raise ConfigError(f"lsq: init must be one of {', '.join(INITS)}, got {init!r}")
        self.bits = int(bits)
        self.init = init
        self.low = -(1 << (self.bits - 1))
        self.high = (1 << (self.bits - 1)) - 1
        self.step = nn.Parameter(torch.ones(1))

    def prepare(self, w: Tensor) -> None:
        """Sets one step an output channel from the weights."""
        if self.init == "paper":
            mean = w.abs().mean()
            step = (2 * mean / math.sqrt(self.high)).repeat(w.shape[0])
        else:
            step = least_square_steps(w, self.low, self.high)
        self.step = nn.Parameter(step.clamp_min(MIN_STEP))

    def cut(self, rows: np.ndarray, cols: np.ndarray | None, path: str) -> None:
        super().cut(rows, cols, path)
        if len(rows) != len(self.step):
            index = torch.from_numpy(rows).to(self.step.device)
            self.step = nn.Parameter(self.step.detach()[index], self.step.requires_grad)

    def forward(self, w: Tensor) -> Tensor:
        factor = 1.0 / math.sqrt(max(w.numel(), 1) * self.high)
        return _LSQ.apply(w, self.step, self.low, self.high, factor)  # type: ignore[return-value]

    def codes(self, w: Tensor) -> Codes:
        """Integers in -2^(b-1) .. 2^(b-1) - 1 and the steps."""
        scales = self.step.detach().clamp_min(MIN_STEP)
        ints = (w / per_row(scales, w.ndim)).clamp(self.low, self.high).round()
        return Codes(ints.to(torch.int8), scales, self.coding, self.bits, tuple(w.shape))


def least_square_steps(w: Tensor, low: int, high: int, tries: int = 64) -> Tensor:
    """Step per output channel that minimises sum (w - s round(clamp(w / s)))^2 over `tries` candidates.

    Candidates run evenly from 1/tries to 1 times max|w| / high (and a little beyond, for 2 bit).

    Returns:
        steps [C_out].
    """
    rows = w.flatten(1)
    top = rows.abs().amax(dim=1).clamp_min(MIN_STEP) / high
    best = torch.full_like(top, math.inf)
    chosen = top.clone()
    for k in range(1, tries + 1):
        step = (top * (1.05 * k / tries)).unsqueeze(1)
        error = (step * (rows / step).clamp(low, high).round() - rows).square().sum(dim=1)
        better = error < best
        best = torch.where(better, error, best)
        chosen = torch.where(better, step.squeeze(1), chosen)
    return chosen
