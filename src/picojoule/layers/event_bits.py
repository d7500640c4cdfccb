"""Spikes as bits: what a tensor of spikes is kept as between the passes, 1/32 of its size for binary spikes.

A tensor holds spikes when its values are 0 and one positive value, or multiples 0..255 of its smallest
size, with or without signs: binary, integer and ternary spikes, scaled or not, and averages of a few of them.
That is read from the values themselves, or comes from the kernel that wrote them; it is never assumed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from picojoule.core import native as core_native
from picojoule.neurons.spike_bits import bits_of

try:
    native: Any = core_native.native()
except ImportError:  # a source tree without a build: layers stay ordinary
    native = None

AVAILABLE = hasattr(native, "event_forward")
CL = torch.channels_last


@dataclass(frozen=True, slots=True)
class Bits:
    """Spikes [N, C, H, W] as bit-planes of their channels-last order: value = scale * sum of 2^i plane[i],
    negative where the last plane is set if `sign`.

    Fields:
        data: uint8; each pixel's channels start at a whole byte of each plane.
        planes: bit-planes, the sign not counted.
        shape: (N, C, H, W).
        nonzero: spikes.
    """

    data: Tensor
    planes: int
    sign: bool
    scale: float
    shape: tuple[int, int, int, int]
    nonzero: int

    @property
    def rate(self) -> float:
        """Share of values that are not zero."""
        n, c, h, w = self.shape
        return self.nonzero / max(n * c * h * w, 1)

    def address(self) -> tuple[int, int, bool, float]:
        """As the kernels take it."""
        return self.data.data_ptr(), self.planes, self.sign, self.scale

    def unpack(self) -> Tensor:
        """The tensor again, bit for bit, channels last."""
        n, c, h, w = self.shape
        out = torch.empty(self.shape, memory_format=CL)
        native.unpack_spikes(self.address(), (n, h * w, c, False), out.data_ptr(), torch.get_num_threads())
        return out


def is_channels_last(x: Tensor) -> bool:
    """True for four axes stored with the channels innermost, and not also in the ordinary order."""
    return x.dim() == 4 and x.is_contiguous(memory_format=CL) and not x.is_contiguous()


def rows_of(x: Tensor) -> tuple[Tensor, tuple[int, int, int, bool]]:
    """x [N, C, H, W] in one of the two orders that kernels read, and (N, H * W, C, planar)."""
    n, c, h, w = x.shape
    if x.is_contiguous(memory_format=CL):
        return x, (n, h * w, c, False)
    x = x.contiguous()
    return x, (n, h * w, c, h * w > 1)


def published(x: Tensor) -> Bits | None:
    """The bits that a neuron published with its spikes x [N, C, H, W], where they lie as `pack` puts them."""
    found = bits_of(x)
    n, c, h, w = x.shape
    if found is None or c % 8 or not x.is_contiguous(memory_format=CL):
        return None
    return Bits(found.data, 1, False, found.size, (n, c, h, w), found.nonzero)


def pack_binary(x: Tensor) -> Bits | None:
    """Binary spikes in x [N, C, H, W], float32 on the CPU, as bits; None where x holds anything else."""
    n, c, h, w = x.shape
    x, rows = rows_of(x)
    data = torch.empty(n * h * w * ((c + 7) // 8) + native.EVENT_SLACK, dtype=torch.uint8)
    levels, sign, scale, nonzero = native.pack_binary(
        x.data_ptr(), rows, data.data_ptr(), torch.get_num_threads()
    )
    return Bits(data, 1, sign, scale, (n, c, h, w), nonzero) if levels else None


def pack(x: Tensor) -> Bits | None:
    """The spikes in x [N, C, H, W], float32 on the CPU, as bits; None where x holds anything else."""
    binary = pack_binary(x)
    if binary is not None:
        return binary
    n, c, h, w = x.shape
    x, rows = rows_of(x)
    found = native.find_levels(x.data_ptr(), x.numel())
    levels, sign, scale, nonzero = found
    if levels == 0:
        return None
    planes = levels.bit_length() + sign
    data = torch.empty(planes * n * h * w * ((c + 7) // 8) + native.EVENT_SLACK, dtype=torch.uint8)
    native.pack_levels(x.data_ptr(), rows, found, data.data_ptr(), torch.get_num_threads())
    return Bits(data, levels.bit_length(), sign, scale, (n, c, h, w), nonzero)
