"""Dropout and stochastic depth whose mask is one a sample, shared by all its steps.

Time rides in the batch, so `nn.Dropout` would draw a new mask at each step and turn a dropped unit into
noise over time. Here the mask has shape [B, ...] and is used for all T steps; in a stream it is drawn at
the first chunk and kept until the sequence ends.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from picojoule import timeline
from picojoule.core.errors import ConfigError


class _SharedMask(nn.Module):
    def __init__(self, p: float, T: int) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ConfigError(f"{type(self).__name__}: p must lie in [0, 1), got {p}")
        self.p, self.T = p, T

    def set_steps(self, T: int) -> None:
        """Change T."""
        self.T = T

    def _shape(self, sample: Tensor) -> tuple[int, ...]:
        return tuple(sample.shape)

    def forward(self, x: Tensor) -> Tensor:
        """Rows [T*B, ...] -> rows, scaled by 1 / (1 - p) where kept; the identity in eval mode."""
        if not self.training or self.p == 0:
            return x
        active = timeline.current_stream()
        steps = timeline.split(x, active.T if active is not None else self.T)
        key = active.slot(self) if active is not None else None
        mask = active.get(key) if active is not None and key is not None else None
        if mask is None:
            mask = torch.empty(self._shape(steps[0]), dtype=x.dtype, device=x.device)
            mask.bernoulli_(1 - self.p).div_(1 - self.p)
        if active is not None and key is not None:
            active.put(key, mask)
        return (steps * mask).reshape(x.shape)

    def extra_repr(self) -> str:
        return f"p={self.p}, T={self.T}"


class Dropout(_SharedMask):
    """Zeroes single elements with probability p, the same ones at every step of a sample.

    Args:
        p: probability, 0 <= p < 1.
        T: steps of the rows.
    """


class DropPath(_SharedMask):
    """Zeroes a whole branch of a sample with probability p, for all its steps (stochastic depth).

    Source: Deep Networks with Stochastic Depth, arXiv:1603.09382.
    """

    def _shape(self, sample: Tensor) -> tuple[int, ...]:
        return (sample.shape[0],) + (1,) * (sample.dim() - 1)
