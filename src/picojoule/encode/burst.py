"""Burst code: a larger value gives more spikes, closer together."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from picojoule import timeline
from picojoule.core.errors import KindError, ShapeError
from picojoule.encode.base import Encoder, check_unit, window


def burst_steps(n_max: int, t_min: int, t_max: int) -> int:
    """Steps that the longest burst needs, over all values in [0, 1]."""
    if n_max < 1 or not 1 <= t_min <= t_max:
        raise KindError(f"a burst needs n_max >= 1 and 1 <= t_min <= t_max, got {n_max}, {t_min}, {t_max}")
    # n spikes belong to x in ((n-1)/n_max, n/n_max]; the interval is widest at the lower end of it.
    widest = (
        (n - 1) * math.floor((t_max - t_min) * (1 - (n - 1) / n_max) + t_min) for n in range(1, n_max + 1)
    )
    return max(widest) + 1


def burst(x: Tensor, n_max: int = 5, t_min: int = 2, t_max: int = 5, T: int | None = None) -> Tensor:
    """A burst that starts at step 0.

        n = ceil(n_max x) spikes at 0, ISI, 2 ISI, ..,  ISI = floor((t_max - t_min) (1 - x) + t_min)

    Args:
        x: [B, ...] in [0, 1].
        n_max: spikes of x = 1.
        t_min, t_max: inter-spike interval of x = 1 and of small x, in steps.
        T: steps; None takes `burst_steps`, which loses no spike.
    Returns:
        [T, B, ...] in {0, 1}.
    Raises:
        ShapeError: T is too short for the longest burst.
    Source: Park, Kim, Choe, Yoon: Fast and efficient information transmission with burst spikes,
    arXiv:1809.03142, in the closed form of the encoding survey of Guo et al., 2021 (reconstructed).
    """
    check_unit(x, "burst")
    need = burst_steps(n_max, t_min, t_max)
    T = need if T is None else T
    if need > T:
        raise ShapeError(f"n_max={n_max}, t_min={t_min}, t_max={t_max} need {need} steps, got T={T}")
    wide = x.detach().to(torch.float64)
    n = torch.ceil(n_max * wide)
    interval = torch.floor((t_max - t_min) * (1.0 - wide) + t_min)
    t = torch.arange(T, device=x.device, dtype=torch.float64).reshape(-1, *[1] * x.dim())
    spikes = (torch.remainder(t, interval) == 0) & (t < n * interval)
    return spikes.to(x.dtype)


def decode_burst(spikes: Tensor, n_max: int) -> Tensor:
    """Values [B, ...] of bursts [T, B, ...]: (n - 0.5) / n_max, 0 when silent; error at most 0.5 / n_max."""
    n = spikes.sum(0)
    return torch.where(n > 0, (n - 0.5) / n_max, 0.0).to(spikes.dtype)


class Burst(Encoder):
    """Bursts; see `burst`. T may be longer than a burst, never shorter."""

    def __init__(self, n_max: int = 5, t_min: int = 2, t_max: int = 5, T: int | None = None) -> None:
        need = burst_steps(n_max, t_min, t_max)
        super().__init__(need if T is None else T)
        self.n_max, self.t_min, self.t_max = n_max, t_min, t_max
        self._check(self.T)

    def _check(self, T: int) -> None:
        need = burst_steps(self.n_max, self.t_min, self.t_max)
        if need > T:
            raise ShapeError(f"this burst needs {need} steps, got T={T}; lower n_max or the intervals")

    def set_steps(self, T: int) -> None:
        """Change T."""
        self._check(T)
        super().set_steps(T)

    def steps(self, x: Tensor, T: int, start: int) -> Tensor:
        """See `burst`."""
        return window(burst(x, self.n_max, self.t_min, self.t_max, self.T), T, start)

    def decode(self, rows: Tensor) -> Tensor:
        """[T*B, ...] -> [B, ...]; see `decode_burst`."""
        return decode_burst(timeline.split(rows, self.T), self.n_max)
