"""Latency (time to first spike): a larger value fires earlier."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from picojoule import timeline
from picojoule.core.errors import KindError
from picojoule.encode.base import Encoder, check_steps, check_unit, window

CURVES = ("linear", "log")


def _log_alpha(T: int) -> float:
    """ln(e^(T-1) - 1), without the exponential that overflows."""
    return (T - 1) + math.log1p(-math.exp(-(T - 1)))


def spike_steps(x: Tensor, T: int, *, curve: str = "linear", silent_zero: bool = True) -> Tensor:
    """The step of the only spike of each value.

        linear:  t = round((T - 1) (1 - x))
        log:     t = round(T - 1 - ln(alpha x + 1)),  alpha = e^(T-1) - 1

    Ties round to the even step. alpha is never formed, so T has no upper bound.

    Args:
        x: [B, ...] in [0, 1].
        T: steps.
        curve: "linear" or "log".
        silent_zero: x = 0 does not fire; otherwise it fires at step T - 1.
    Returns:
        int64 [B, ...] in 0..T, where T means silent (the integers of the kind time(T)).
    """
    check_unit(x, "latency")
    check_steps(T)
    if curve not in CURVES:
        raise KindError(f"unknown curve {curve!r}; choose one of {', '.join(CURVES)}")
    wide = x.detach().to(torch.float64)
    if T == 1:
        late = torch.zeros_like(wide)
    elif curve == "linear":
        late = (T - 1) * (1.0 - wide)
    else:
        # ln(alpha x + 1) = logaddexp(ln alpha + ln x, 0); ln 0 = -inf gives 0 as it must.
        late = (T - 1) - torch.logaddexp(_log_alpha(T) + torch.log(wide), torch.zeros_like(wide))
    t = torch.round(late).clamp(0, T - 1).to(torch.int64)
    return torch.where(x == 0, T, t) if silent_zero else t


def latency(x: Tensor, T: int, *, curve: str = "linear", silent_zero: bool = True) -> Tensor:
    """One spike a value at the step of `spike_steps`; [B, ...] -> [T, B, ...] in {0, 1}."""
    return at_steps(spike_steps(x, T, curve=curve, silent_zero=silent_zero), T).to(x.dtype)


def at_steps(t: Tensor, T: int) -> Tensor:
    """Spike steps [B, ...] in 0..T as a train [T, B, ...] bool; T is silent."""
    clock = torch.arange(T, device=t.device).reshape(-1, *[1] * t.dim())
    return clock == t


def first_steps(spikes: Tensor) -> Tensor:
    """The step of the first spike of a train [T, B, ...]: int64 [B, ...], T when silent."""
    T = spikes.shape[0]
    clock = torch.arange(T, device=spikes.device).reshape(-1, *[1] * (spikes.dim() - 1))
    return torch.where(spikes != 0, clock, T).amin(0)


def decode_steps(t: Tensor, T: int, *, curve: str = "linear", dtype: torch.dtype = torch.float32) -> Tensor:
    """Values [B, ...] of spike steps; silent is 0. Error of the linear curve at most 0.5 / (T - 1).

    A single step, T = 1, only tells fired (1) from silent (0).
    """
    late = t.to(torch.float64)
    if T == 1:
        x = torch.ones_like(late)
    elif curve == "linear":
        x = 1.0 - late / (T - 1)
    elif curve == "log":
        # (e^u - 1) / alpha, u = T - 1 - t, again without forming alpha
        u = (T - 1) - late
        x = -torch.expm1(-u) * torch.exp(u - _log_alpha(T))
    else:
        raise KindError(f"unknown curve {curve!r}; choose one of {', '.join(CURVES)}")
    return torch.where(t >= T, 0.0, x).to(dtype)


def spike_times(x: Tensor, t_max: float = 1.0, *, start: float = 0.0) -> Tensor:
    """Continuous spike time: start + t_max (1 - x), infinite for x = 0; same shape as x, in the unit of
    t_max.

    `start` = l * t_max gives the window [l t_max, (l + 1) t_max] of layer l.
    """
    check_unit(x, "spike_times")
    if not t_max > 0:
        raise KindError(f"t_max must be positive, got {t_max}")
    return torch.where(x > 0, start + t_max * (1.0 - x), torch.inf)


class Latency(Encoder):
    """One spike a value, earlier for larger ones; see `spike_steps`."""

    def __init__(self, T: int, curve: str = "linear", silent_zero: bool = True) -> None:
        super().__init__(T)
        if curve not in CURVES:
            raise KindError(f"unknown curve {curve!r}; choose one of {', '.join(CURVES)}")
        self.curve, self.silent_zero = curve, silent_zero

    def steps(self, x: Tensor, T: int, start: int) -> Tensor:
        """See `latency`; the module's T sets the scale of time, also in a stream."""
        return window(latency(x, self.T, curve=self.curve, silent_zero=self.silent_zero), T, start)

    def decode(self, rows: Tensor) -> Tensor:
        """[T*B, ...] -> [B, ...]; see `decode_steps`."""
        t = first_steps(timeline.split(rows, self.T))
        return decode_steps(t, self.T, curve=self.curve, dtype=rows.dtype)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, curve={self.curve!r}, silent_zero={self.silent_zero}"
