"""Phase codes: the step, or the place in an oscillation, carries a weight."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from picojoule import timeline
from picojoule.core.errors import KindError
from picojoule.encode.base import Encoder, check_steps, check_unit, window


def phase(x: Tensor, K: int) -> Tensor:
    """Binary expansion: step k carries the weight 2^-(k+1).

        s[k] = bit K-1-k of min(floor(2^K x), 2^K - 1);  sum_k s[k] 2^-(k+1) = floor(2^K x) / 2^K  for x < 1

    x = 1 is clamped to 1 - 2^-K (all ones) instead of overflowing to silence.

    Args:
        x: [B, ...] in [0, 1].
        K: bits, 1..52.
    Returns:
        [K, B, ...] in {0, 1}, most significant bit first.
    """
    check_unit(x, "phase")
    if not 1 <= K <= 52:
        raise KindError(f"K must lie in 1..52 bits, got {K}")
    code = torch.floor(x.detach().to(torch.float64) * 2.0**K).to(torch.int64).clamp(max=(1 << K) - 1)
    shift = torch.arange(K - 1, -1, -1, device=x.device).reshape(-1, *[1] * x.dim())
    return ((code >> shift) & 1).to(x.dtype)


def phase_weights(K: int, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """Weights 2^-(k+1) [K] by which a synapse multiplies the spikes of step k."""
    return torch.ldexp(torch.ones(K, dtype=dtype), -torch.arange(1, K + 1))


def decode_phase(spikes: Tensor) -> Tensor:
    """Values [B, ...] of bits [K, B, ...]: sum_k s[k] 2^-(k+1)."""
    weights = phase_weights(spikes.shape[0], dtype=torch.float64).to(spikes.device)
    return torch.tensordot(weights, spikes.to(torch.float64), dims=1).to(spikes.dtype)


def phase_lock(t: Tensor, period: float, *, phi0: float = 0.0, dphi: float = 0.0) -> Tensor:
    """Spike times moved to the next peak of an oscillation that belongs to each neuron.

        t' = min over integers m of { t_m >= t },  t_m = period (m - phi_i / 2 pi),  phi_i = phi0 + i dphi

    t_m are the peaks of cos(2 pi t / period + phi_i); i counts the last axis. Infinite (silent) times stay.

    Args:
        t: times [..., n] in the unit of `period`.
        period: of the oscillation, > 0.
        phi0, dphi: phase of the first neuron and step from neuron to neuron, in radians.
    """
    if not period > 0:
        raise KindError(f"period must be positive, got {period}")
    turns = (phi0 + torch.arange(t.shape[-1], device=t.device, dtype=torch.float64) * dphi) / (2 * math.pi)
    wide = t.to(torch.float64)
    m = torch.ceil(wide / period + turns)
    return torch.where(torch.isfinite(wide), period * (m - turns), wide).to(t.dtype)


class Phase(Encoder):
    """Binary expansion over T = K steps; see `phase`."""

    def steps(self, x: Tensor, T: int, start: int) -> Tensor:
        """See `phase`; the module's T is the number of bits, also in a stream."""
        return window(phase(x, check_steps(self.T)), T, start)

    @property
    def weights(self) -> Tensor:
        """Weight of each step [T]."""
        return phase_weights(self.T)

    def decode(self, rows: Tensor) -> Tensor:
        """[T*B, ...] -> [B, ...], exactly floor(2^T x) / 2^T."""
        return decode_phase(timeline.split(rows, self.T))
