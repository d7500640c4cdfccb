"""The kernels of BatchNorm and a leaky neuron in one pass (equations in norm_native.py).

The autograd function and the operator `pj::norm_leaky` both call these.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from picojoule.neurons import leaky_native
from picojoule.neurons.leaky_kernel import LeakyParams


class Channels(NamedTuple):
    """A normalisation, float32 [C] each: y = x * scale + shift, x_hat = x * unit + centre."""

    mean: Tensor
    unit: Tensor
    centre: Tensor
    scale: Tensor
    shift: Tensor

    @classmethod
    def of(
        cls, mean: Tensor, variance: Tensor, eps: float, weight: Tensor | None, bias: Tensor | None
    ) -> Channels:
        """From mean and biased variance [C], in double."""
        mean, unit = mean.double(), (variance.double() + eps).rsqrt()
        scale = unit if weight is None else weight.detach().double() * unit
        shift = -mean * scale if bias is None else bias.detach().double() - mean * scale
        return cls(*(c.float() for c in (mean, unit, -mean * unit, scale, shift)))


class PackedRows(NamedTuple):
    """Rows of `size` and 0 as bits in the order of their memory."""

    data: Tensor
    size: float


Added = Tensor | PackedRows | None


class Call(NamedTuple):
    """One call: constants of the neuron for the kernels, steps, and where a channel lies in memory."""

    native: Any
    T: int
    inner: int
    channels: int

    def norm(self, c: Channels, added: Added) -> tuple[Any, ...]:
        """The normalisation as the kernels take it."""
        rows, bits, size = 0, 0, 1.0
        if isinstance(added, PackedRows):
            bits, size = added.data.data_ptr(), added.size
        elif added is not None:
            rows = added.data_ptr()
        return c.scale.data_ptr(), c.shift.data_ptr(), rows, bits, size, self.inner, self.channels

    def values(self, x: Tensor) -> tuple[int, bool, int, int]:
        """Rows as the kernels take them."""
        return x.data_ptr(), x.dtype == torch.bfloat16, self.inner, self.channels


def call_of(p: LeakyParams, x: Tensor, T: int) -> Call | None:
    """The call for dense rows x [T*B, C, ...], or None where the kernels do not serve the neuron."""
    native = leaky_native._rule(p, x)
    if native is None or (native[1] == leaky_native.GIVEN and p.rule.kind.name != "integer"):
        return None
    C = x.shape[1]
    return Call(native[0], T, x.stride(1) if C > 1 else max(x.numel(), 1), C)


def moments(x: Tensor, call: Call) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of x by channel, float64 [C]."""
    mean, variance = torch.empty(2, call.channels, dtype=torch.float64)
    leaky_native._native.moments(
        call.values(x), x.numel(), torch.get_num_threads(), mean.data_ptr(), variance.data_ptr()
    )
    return mean, variance


@torch.no_grad()
def track(norm: Any, mean: Tensor, unbiased: Tensor) -> None:
    """Running statistics of a BatchNorm, as nn.BatchNorm keeps them; tensor operations only, to be traced.

    Args:
        mean, unbiased: of the batch by channel, [C].
    """
    if norm.running_mean is None or not norm.track_running_stats:
        return
    norm.num_batches_tracked.add_(1)
    share = (1 / norm.num_batches_tracked).float() if norm.momentum is None else norm.momentum
    for kept, seen in ((norm.running_mean, mean), (norm.running_var, unbiased)):
        kept.copy_(torch.lerp(kept, seen.to(kept.dtype), share))


def fire(x: Tensor, added: Added, call: Call, channels: Channels, bits: Tensor | None = None) -> Tensor:
    """Spikes from rows x; also as bits, where there is room for them."""
    spikes = torch.empty_like(x)
    leaky_native._native.leaky_forward(
        call.native,
        call.T,
        x.numel() // call.T,
        torch.get_num_threads(),
        x.data_ptr(),
        0,
        spikes.data_ptr(),
        0,
        0,
        leaky_native.RECOMPUTE,
        x.dtype == torch.bfloat16,
        call.norm(channels, added),
        leaky_native._address(bits),
    )
    return spikes


def back(
    x: Tensor,
    added: Added,
    gs: Tensor,
    c: Channels,
    call: Call,
    from_batch: bool,
    want_x: bool,
    want_added: bool,
) -> tuple[Tensor | None, Tensor | None, Tensor]:
    """dx, dr and the sums [2, C]; see the module's first lines."""
    sums = torch.empty(2, call.channels, dtype=torch.float64)
    dx = torch.empty_like(x) if want_x else None
    dadded = torch.empty_like(x) if want_added else None
    # With statistics of x, dy goes to dr where that is wanted, else to dx, which is then changed in place.
    first = (dadded if dadded is not None else dx) if from_batch else dx
    leaky_native._native.norm_backward(
        call.native,
        call.T,
        x.numel() // call.T,
        torch.get_num_threads(),
        x.data_ptr(),
        x.dtype == torch.bfloat16,
        call.norm(c, added),
        c.unit.data_ptr(),
        c.centre.data_ptr(),
        gs.data_ptr(),
        leaky_native._address(first),
        0 if from_batch else leaky_native._address(dadded),
        not from_batch,
        sums.data_ptr(),
    )
    if from_batch and dx is not None and first is not None:
        n = x.numel() // call.channels
        scale = c.scale.double()
        slope, bias = (-scale * c.unit * sums[1] / n).float(), (-scale * sums[0] / n).float()
        leaky_native._native.input_gradient(
            call.values(x),
            x.numel(),
            torch.get_num_threads(),
            first.data_ptr(),
            dx.data_ptr(),
            (c.scale.data_ptr(), c.mean.data_ptr(), slope.data_ptr(), bias.data_ptr()),
        )
    return dx, dadded, sums
