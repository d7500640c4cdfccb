"""BatchNorm and a leaky neuron in one pass: y = BN(x) + r is never written, and is computed again backward.

    forward   mean and variance of x by channel; then  s = neuron(x * scale + shift + r)  step by step
    backward  dy from the membranes computed again, with its sums  S1 = sum dy,  S2 = sum dy * x_hat
              dx = scale * (dy - S1 / n - x_hat * S2 / n)         (statistics of x)
              dx = scale * dy                                     (statistics that are constants)
              dr = dy,  d weight = S2,  d bias = S1

with x_hat = (x - mean) / sqrt(var + eps), scale = weight / sqrt(var + eps), shift = bias - mean * scale and
n the values of a channel. Between the passes x and r are kept, as a convolution and a sum keep them anyway.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils._python_dispatch import _get_current_dispatch_mode

from picojoule import timeline
from picojoule.neurons import leaky_native
from picojoule.neurons.base import Neuron
from picojoule.neurons.leaky import LeakyNeuron

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


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


class Call(NamedTuple):
    """One call: constants of the neuron for the kernels, steps, and where a channel lies in memory."""

    native: Any
    T: int
    inner: int
    channels: int

    def norm(self, c: Channels, added: Tensor | None) -> tuple[int, int, int, int, int]:
        """The normalisation as the kernels take it."""
        r = 0 if added is None else added.data_ptr()
        return c.scale.data_ptr(), c.shift.data_ptr(), r, self.inner, self.channels

    def values(self, x: Tensor) -> tuple[int, bool, int, int]:
        """Rows as the kernels take them."""
        return x.data_ptr(), x.dtype == torch.bfloat16, self.inner, self.channels


def _moments(x: Tensor, call: Call) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of x by channel, float64 [C]."""
    mean, variance = torch.empty(2, call.channels, dtype=torch.float64)
    leaky_native._native.moments(
        call.values(x), x.numel(), torch.get_num_threads(), mean.data_ptr(), variance.data_ptr()
    )
    return mean, variance


def _fire(x: Tensor, added: Tensor | None, call: Call, channels: Channels) -> Tensor:
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
    )
    return spikes


class _NormLeaky(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        added: Tensor | None,
        weight: Tensor | None,
        bias: Tensor | None,
        channels: Channels,
        call: Call,
        from_batch: bool,
    ) -> Tensor:
        ctx.save_for_backward(x, added, *channels)
        ctx.call, ctx.from_batch = call, from_batch
        return _fire(x, added, call, channels)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        x, added, *rest = ctx.saved_tensors
        channels, call, wants = Channels(*rest), ctx.call, ctx.needs_input_grad
        gs: Any = leaky_native._like(grads[0], x)
        dx, dadded, sums = _back(x, added, gs, channels, call, ctx.from_batch, wants[0], wants[1])
        weight, bias = (sums[1 - i].float() if wants[2 + i] else None for i in range(2))
        return dx, dadded, weight, bias, None, None, None


def _back(
    x: Tensor,
    added: Tensor | None,
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


@torch.no_grad()
def _track(norm: Any, mean: Tensor, variance: Tensor, n: int) -> None:
    """Running statistics, as nn.BatchNorm keeps them."""
    if norm.running_mean is None or not norm.track_running_stats:
        return
    norm.num_batches_tracked.add_(1)
    momentum = norm.momentum if norm.momentum is not None else 1 / float(norm.num_batches_tracked)
    norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), momentum)
    norm.running_var.lerp_((variance * (n / (n - 1))).to(norm.running_var.dtype), momentum)


def hooked(*modules: nn.Module) -> bool:
    """True where a hook expects to see a module's own input or output."""
    return any(
        m._forward_hooks or m._forward_pre_hooks or m._backward_hooks or m._backward_pre_hooks
        for m in modules
    )


def _plan(
    norm: nn.Module, neuron: nn.Module, x: Tensor, added: Tensor | None
) -> tuple[Call, Tensor, Any] | None:
    """The call, x and added in the memory order that the kernels read; None where they do not apply."""
    if type(norm) not in NORMS or not isinstance(neuron, LeakyNeuron) or neuron.membrane_quant is not None:
        return None
    if type(neuron).forward is not Neuron.forward or type(neuron).spikes is not LeakyNeuron.spikes:
        return None
    if not leaky_native.AVAILABLE or torch.compiler.is_compiling() or torch.is_anomaly_enabled():
        return None
    if timeline.current_stream() is not None or _get_current_dispatch_mode() is not None:
        return None
    if hooked(norm, neuron) or not leaky_native._addressable(x, *leaky_native.ROWS):
        return None
    T, C = int(neuron.T), int(norm.num_features)  # type: ignore[arg-type]
    params = neuron.params()
    if x.dim() < 2 or x.shape[1] != C or x.shape[0] % T or x.numel() < 2 * C or not params.plain:
        return None
    if added is not None and (added.shape != x.shape or added.dtype not in leaky_native.ROWS):
        return None
    if not all(_single(t) for t in (*norm.parameters(), norm.running_mean, norm.running_var)):
        return None
    x = x if leaky_native._dense(x) else x.contiguous()
    native = leaky_native._rule(params, x)
    if native is None or (native[1] == leaky_native.GIVEN and params.rule.kind.name != "integer"):
        return None
    inner = x.stride(1) if C > 1 else max(x.numel(), 1)
    return Call(native[0], T, inner, C), x, leaky_native._like(added, x)


def _single(t: Any) -> bool:
    return t is None or leaky_native._addressable(t)


def norm_neuron(
    norm: nn.Module, neuron: nn.Module, x: Tensor, added: Tensor | None = None, fused: bool = True
) -> Tensor:
    """neuron(norm(x) + added), in as few passes over memory as possible.

    Two passes forward (statistics, then everything else) and two backward in training, one and one in eval
    mode; the normalised rows are never written. Results equal the two modules' to rounding: a membrane within
    rounding of its threshold may fire in one and not in the other.

    The modules are called one after the other where the kernels do not apply: other devices or types than
    float32 and bfloat16 on a CPU, a BatchNorm of another class (such as one shared between processes),
    learned time constants, membrane quantizers, surrogates without a native formula, streams, compilation
    and export, hooks on either module, anomaly detection, an empty batch.

    Args:
        norm: BatchNorm over axis 1.
        neuron: a neuron of the linear-charge core.
        x: rows [T*B, C, ...] in any memory order.
        added: rows like x, added after the normalisation, or None.
        fused: False calls the modules.
    """
    plan = _plan(norm, neuron, x, added) if fused else None
    if plan is None:
        y = norm(x)
        return neuron(y if added is None else y + added)
    call, x, added = plan
    batch_norm: Any = norm
    mean: Any
    variance: Any
    from_batch = batch_norm.training or batch_norm.running_mean is None
    with torch.no_grad():
        if from_batch:
            mean, variance = _moments(x.detach(), call)
            if batch_norm.training:
                _track(batch_norm, mean, variance, x.numel() // call.channels)
        else:
            mean, variance = batch_norm.running_mean, batch_norm.running_var
        channels = Channels.of(mean, variance, batch_norm.eps, batch_norm.weight, batch_norm.bias)
    if not torch.is_grad_enabled():
        return _fire(x, added, call, channels)
    return _NormLeaky.apply(x, added, batch_norm.weight, batch_norm.bias, channels, call, from_batch)  # type: ignore[no-any-return]


__all__ = ["NORMS", "hooked", "norm_neuron"]
