"""Random numbers that belong to (seed, sample, step, position) and to nothing else.

A generator that runs along a batch gives a sample other numbers when the batch is cut differently. Here each
number is a hash of its own coordinates in 64-bit integer arithmetic: the same on every device, for every
batch size, for every number of steps, and for a stream in chunks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from picojoule.core.errors import ShapeError

_MASK = (1 << 64) - 1


def _signed(value: int) -> int:
    """The int64 with the bits of `value` modulo 2^64."""
    value &= _MASK
    return value - (1 << 64) if value >> 63 else value


_GAMMA = _signed(0x9E3779B97F4A7C15)
_MIX1 = _signed(0xBF58476D1CE4E5B9)
_MIX2 = _signed(0x94D049BB133111EB)


def _shift(z: Tensor, n: int) -> Tensor:
    """Logical right shift; torch shifts signed integers arithmetically."""
    return (z >> n) & ((1 << (64 - n)) - 1)


def mix(z: Tensor) -> Tensor:
    """The finaliser of splitmix64 on int64, modulo 2^64.

    Source: Steele, Lea, Flood, Fast Splittable Pseudorandom Number Generators, OOPSLA 2014.
    """
    z = (z ^ _shift(z, 30)) * _MIX1
    z = (z ^ _shift(z, 27)) * _MIX2
    return z ^ _shift(z, 31)


def uniform(x: Tensor, T: int, seed: int, index: Tensor | None = None, start: int = 0) -> Tensor:
    """Uniform numbers for the steps start .. start+T-1 of every value of x.

        u = (mix(mix(mix(mix(seed) + sample) + step) + position) >> 40) / 2^24,  each term times an odd
        constant

    Args:
        x: values [B, ...]; only the shape and the device matter.
        T: number of steps.
        seed: any integer.
        index: number of each sample [B], for instance its row in the data set; None counts the batch from 0.
        start: first step.
    Returns:
        float32 [T, B, ...] in [0, 1), multiples of 2^-24.
    Raises:
        ShapeError: index does not hold one number a sample.
    """
    if index is None:
        index = torch.arange(x.shape[0], device=x.device)
    if index.shape != x.shape[:1]:
        raise ShapeError(f"index must be [B] = [{x.shape[0]}], got {tuple(index.shape)}")
    base = mix(torch.full((), _signed(seed), dtype=torch.int64, device=x.device) + _GAMMA)
    sample = mix(base + index.to(x.device, torch.int64) * _GAMMA)
    step = torch.arange(start, start + T, device=x.device, dtype=torch.int64)
    row = mix(sample + (step[:, None] + 1) * _GAMMA)  # [T, B]
    size = x[0].numel() if x.shape[0] else 0
    place = torch.arange(1, size + 1, device=x.device, dtype=torch.int64) * _GAMMA
    bits = _shift(mix(row[:, :, None] + place), 40)
    return (bits.to(torch.float32) * 2.0**-24).reshape(T, *x.shape)
