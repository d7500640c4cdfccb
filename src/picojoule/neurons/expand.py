"""Integer spikes as binary virtual steps: training with integers equals inference with binary spikes.

    unary      b_d = [n > d], d = 0..D-1                      n = sum_d b_d          (thermometer)
    bits       n = sum_j 2^j c_j, most significant first       K = ceil(log2(D + 1)) steps
    signed     two's complement: the first plane weighs -2^(K-1); sign-magnitude: planes in {-1, 0, 1}

A leak-free micro-neuron that starts at the membrane u and subtracts 1 a spike emits the thermometer of
round(clamp(u, 0, D)) in D micro-steps and ends at u - n, exactly what the next real step decays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from picojoule.core.errors import KindError, ShapeError

CODES = ("unary", "bits")


def thermometer(n: Tensor, D: int) -> Tensor:
    """Unary code of counts 0..D: [...] -> [D, ...], non-increasing, summing to n."""
    return torch.stack([(n > d).to(n.dtype) for d in range(D)])


def bit_planes(n: Tensor, bits: int) -> Tensor:
    """Binary code of counts 0..2^bits - 1: [...] -> [bits, ...], most significant first."""
    whole = n.to(torch.int64)
    return torch.stack([((whole >> j) & 1).to(n.dtype) for j in reversed(range(bits))])


def bit_weights(bits: int, signed: bool = False) -> tuple[int, ...]:
    """Weight of each plane, most significant first; `signed` is two's complement.

    >>> bit_weights(3), bit_weights(3, signed=True)
    ((4, 2, 1), (-4, 2, 1))
    """
    weights = [1 << j for j in reversed(range(bits))]
    return tuple([-weights[0], *weights[1:]] if signed else weights)


def twos_complement(n: Tensor, bits: int) -> Tensor:
    """Signed integers -2^(bits-1)..2^(bits-1)-1 as planes [bits, ...] in {0, 1}; see
    `bit_weights(signed=True)`."""
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    if n.numel() and (n.min() < low or n.max() > high):
        raise KindError(f"{bits}-bit two's complement holds {low}..{high}, got {n.min():g}..{n.max():g}")
    whole = n.to(torch.int64) & ((1 << bits) - 1)
    return torch.stack([((whole >> j) & 1).to(n.dtype) for j in reversed(range(bits))])


def sign_magnitude(n: Tensor, bits: int) -> Tensor:
    """Signed integers |n| < 2^bits as planes [bits, ...] in {-1, 0, 1} with weights `bit_weights(bits)`."""
    if n.numel() and n.abs().max() >= 1 << bits:
        raise KindError(f"{bits} planes hold magnitudes below {1 << bits}, got {n.abs().max():g}")
    return bit_planes(n.abs(), bits) * n.sign()


def decode(planes: Tensor, weights: tuple[int, ...] | None = None) -> Tensor:
    """Counts from virtual steps [K, ...]: their weighted sum (plain sum for None)."""
    if weights is None:
        return planes.sum(0)
    return (planes * planes.new_tensor(weights).view(-1, *[1] * (planes.dim() - 1))).sum(0)


def count_coder(q: Tensor, T: int, levels: int = 2) -> Tensor:
    """A count as T spikes of at most levels - 1 each: s = min(m, levels - 1), m -= s; [...] -> [T, ...].

    Signed counts emit spikes of their sign. The spikes sum to q whenever |q| <= T (levels - 1); levels = 2
    gives the unary code.
    """
    if levels < 2:
        raise ValueError(f"a coder needs at least 2 levels, got {levels}")
    left, out = q.clone(), []
    for _ in range(T):
        s = left.clamp(1 - levels, levels - 1)
        out.append(s)
        left = left - s
    return torch.stack(out)


def micro_neuron(u: Tensor, D: int, rounding: str = "half_even") -> tuple[Tensor, Tensor]:
    """D micro-steps of a leak-free neuron from membrane u: trains [D, ...] and the final membrane u - n.

    Threshold 1/2, reset by subtracting 1. Half up fires at r >= 1/2. Half to even fires at r > 1/2 while the
    number of spikes so far is even, at r >= 1/2 while it is odd; the micro-step's own number would be wrong,
    because a membrane of exactly 1/2 would fire at the second step.
    """
    r, trains = u, []
    count = torch.zeros_like(u)
    for _ in range(D):
        up = r >= 0.5
        if rounding == "half_even":
            up = torch.where(count % 2 == 0, r > 0.5, up)
        b = up.to(u.dtype)
        r, count = r - b, count + b
        trains.append(b)
    return torch.stack(trains), r


@dataclass(frozen=True)
class Expansion:
    """How an integer edge becomes virtual binary steps.

    Fields: `code` "unary" or "bits"; `levels` D; `weights` one a virtual step, so that
    n = sum_k weights[k] planes[k]; `scale` of a unit count in the neuron's output.
    """

    code: str
    levels: int
    weights: tuple[int, ...]
    scale: float = 1.0

    @property
    def steps(self) -> int:
        """Number of virtual steps in a real one."""
        return len(self.weights)

    def planes(self, spikes: Tensor) -> Tensor:
        """Virtual steps [steps, ...] of the neuron's output [...]; binary."""
        n = (spikes / self.scale).round() if self.scale != 1 else spikes
        return thermometer(n, self.levels) if self.code == "unary" else bit_planes(n, self.steps)

    def decode(self, planes: Tensor) -> Tensor:
        """The neuron's output from its virtual steps."""
        return decode(planes, self.weights) * self.scale

    def spikes_per_count(self, spikes: Tensor) -> Tensor:
        """Binary spikes each output costs: n for unary, popcount(n) for bits."""
        return self.planes(spikes).sum(0)


def expansion(D: int, code: str = "unary", scale: float = 1.0) -> Expansion:
    """The virtual steps of integer(D).

    >>> expansion(4, "bits").weights
    (4, 2, 1)
    """
    if code not in CODES:
        raise ValueError(f"code must be one of {', '.join(CODES)}, got {code!r}")
    weights = (1,) * D if code == "unary" else bit_weights(int(D).bit_length())
    return Expansion(code, D, weights, scale)


def run_virtual(neuron: Any, x: Tensor, T: int, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """An integer neuron (ILIF, NILIF, SFA, IELIF) run with binary spikes only: D micro-steps in each real
    step.

    Args:
        neuron: the trained integer neuron.
        x: rows [T*B, ...].
        state: membrane [B, ...] after the last micro-step of the previous call.
    Returns:
        binary trains [D, T*B, ...] and the membrane [B, ...]; trains.sum(0) / N are the neuron's spikes.
    """
    p = neuron.params()
    if p.rule.kind.name != "integer":
        raise KindError(
            f"{type(neuron).__name__} emits {p.rule.kind} spikes; only integer neurons have virtual steps"
        )
    if x.shape[0] % T:
        raise ShapeError(f"the leading axis of {tuple(x.shape)} is not a multiple of T={T}")
    steps = (p.gain * x.reshape(T, x.shape[0] // T, *x.shape[1:]) + p.bias).unbind(0)
    r = torch.zeros_like(steps[0]) if state is None else state
    trains = []
    for current in steps:
        b, r = micro_neuron(p.decay * r + current, p.rule.kind.levels, p.rule.rounding)
        trains.append(b)
    return torch.cat(trains, dim=1), r
