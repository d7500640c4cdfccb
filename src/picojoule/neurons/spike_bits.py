"""Binary spikes as bits, published with the spikes by the kernel that fires: the layers behind need not look
for them, and what a fused BatchNorm adds to its rows is kept as 1/32 of its size.

A neuron does so while `publish_bits_` has it switched on. The bits travel on the tensor of spikes and are
forgotten when that tensor is changed in place; a leaf never has any, so what is assigned to its data counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from picojoule.neurons import leaky_native
from picojoule.neurons.leaky_kernel import LeakyParams

_NAME = "_picojoule_bits"


@dataclass(frozen=True, slots=True)
class SpikeBits:
    """Spikes as bits in the order of their memory: value = size * bit.

    Fields:
        data: uint8, with the bytes that kernels may read behind the last one.
        size: of a spike.
        nonzero: spikes.
        version: state of the spikes that they belong to.
    """

    data: Tensor
    size: float
    nonzero: int
    version: int


def bits_of(spikes: Tensor | None) -> SpikeBits | None:
    """The bits published with this very tensor, if they are still valid."""
    found: SpikeBits | None = getattr(spikes, _NAME, None)
    return found if found is not None and found.version == spikes._version else None  # type: ignore[union-attr]


def room_for(neuron: nn.Module, p: LeakyParams, x: Tensor, T: int) -> Tensor | None:
    """Bytes for the bits of spikes like rows x [T*B, ...]; None where the neuron publishes none."""
    if not getattr(neuron, "publishes_bits", False) or p.rule.kind.name != "binary" or p.out_scale <= 0:
        return None
    if (
        x.dtype != torch.float32
        or x.device.type != "cpu"
        or not x.numel()
        or x.numel() // T % 8
        or not torch.is_grad_enabled()
    ):
        return None
    return torch.empty(x.numel() // 8 + leaky_native._native.EVENT_SLACK, dtype=torch.uint8)


def publish(spikes: Tensor, data: Tensor, size: float) -> None:
    """Let the spikes carry their bits, which the kernel has written to `data`."""
    if spikes.grad_fn is None:
        return
    native: Any = leaky_native._native
    nonzero = native.count_bits(data.data_ptr(), spikes.numel() // 8)
    setattr(spikes, _NAME, SpikeBits(data, size, nonzero, spikes._version))


def publish_bits_(module: nn.Module, on: bool) -> None:
    """Let a neuron of the linear-charge core publish its spikes as bits, or stop it; leaves others alone."""
    if on and hasattr(type(module), "publishes_bits"):
        module.__dict__["publishes_bits"] = True
    else:
        module.__dict__.pop("publishes_bits", None)
