"""BatchNorm and a leaky neuron in one pass: y = BN(x) + r is never written, and is computed again backward.

    forward   mean and variance of x by channel; then  s = neuron(x * scale + shift + r)  step by step
    backward  dy from the membranes computed again, with its sums  S1 = sum dy,  S2 = sum dy * x_hat
              dx = scale * (dy - S1 / n - x_hat * S2 / n)         (statistics of x)
              dx = scale * dy                                     (statistics that are constants)
              dr = dy,  d weight = S2,  d bias = S1

with x_hat = (x - mean) / sqrt(var + eps), scale = weight / sqrt(var + eps), shift = bias - mean * scale and
n the values of a channel. Between the passes x and r are kept, as a convolution and a sum keep them anyway;
r as bits where it is spikes that carry them (spike_bits.py).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils._python_dispatch import _get_current_dispatch_mode

from picojoule import timeline
from picojoule.neurons import leaky_native
from picojoule.neurons.base import Neuron
from picojoule.neurons.leaky import LeakyNeuron
from picojoule.neurons.norm_kernel import Call, Channels, PackedRows, back, call_of, fire, moments, track
from picojoule.neurons.norm_op import norm_compiled
from picojoule.neurons.spike_bits import bits_of, publish, room_for

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


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
        packed: PackedRows | None,
        bits: Tensor | None,
    ) -> Tensor:
        ctx.save_for_backward(x, added if packed is None else packed.data, *channels)
        ctx.call, ctx.from_batch, ctx.size = call, from_batch, None if packed is None else packed.size
        return fire(x, packed or added, call, channels, bits)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        x, added, *rest = ctx.saved_tensors
        channels, call, wants = Channels(*rest), ctx.call, ctx.needs_input_grad
        gs: Any = leaky_native._like(grads[0], x)
        added = added if ctx.size is None else PackedRows(added, ctx.size)
        dx, dadded, sums = back(x, added, gs, channels, call, ctx.from_batch, wants[0], wants[1])
        weight, bias = (sums[1 - i].float() if wants[2 + i] else None for i in range(2))
        return dx, dadded, weight, bias, None, None, None, None, None


def hooked(*modules: nn.Module) -> bool:
    """True where a hook expects to see a module's own input or output."""
    return any(
        m._forward_hooks or m._forward_pre_hooks or m._backward_hooks or m._backward_pre_hooks
        for m in modules
    )


def _known(norm: nn.Module, neuron: nn.Module) -> bool:
    """Modules whose own code says what the kernels do: no other class, no method put in place of one."""
    if type(norm) not in NORMS or not isinstance(neuron, LeakyNeuron) or neuron.membrane_quant is not None:
        return False
    return type(neuron).forward is Neuron.forward and type(neuron).spikes is LeakyNeuron.spikes


def _plan(norm: Any, neuron: Any, x: Tensor, added: Tensor | None) -> tuple[Call, Tensor, Any] | None:
    """The call, x and added in the memory order that the kernels read; None where they do not apply."""
    if not _known(norm, neuron):
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
    call = call_of(params, x, T)
    return None if call is None else (call, x, leaky_native._like(added, x))


def _packed(added: Tensor | None, rows: Tensor | None, call: Call) -> PackedRows | None:
    """The bits of `added`, where it is spikes that carry them and lies in memory as the kernels read rows."""
    found = bits_of(added) if added is rows else None
    if found is None or rows is None or rows.numel() // call.T % 8:
        return None
    return PackedRows(found.data, found.size)


def _single(t: Any) -> bool:
    return t is None or leaky_native._addressable(t)


def _compiles(norm: Any, neuron: Any, x: Tensor, added: Tensor | None) -> bool:
    """True while torch.compile traces a pair that the operators serve; export sees the modules."""
    if not torch.compiler.is_compiling() or torch.compiler.is_exporting() or not leaky_native.AVAILABLE:
        return False
    if not _known(norm, neuron):
        return False
    rows = [x] if added is None else [x, added]
    if any(r.device.type != "cpu" or r.dtype not in leaky_native.ROWS for r in rows) or hooked(norm, neuron):
        return False
    params, C = neuron.params(), norm.num_features
    integer = params.rule.kind.name == "integer"
    if not params.plain or not (integer or leaky_native.has_formula(params.rule.surrogate)):
        return False
    if x.dim() < 2 or x.shape[1] != C or x.shape[0] % neuron.T or x.numel() < 2 * C:
        return False
    held = (*norm.parameters(), *norm.buffers())
    return all(t.dtype in (torch.float32, torch.int64) for t in held) and (
        added is None or added.shape == x.shape
    )


def norm_neuron(
    norm: nn.Module, neuron: nn.Module, x: Tensor, added: Tensor | None = None, fused: bool = True
) -> Tensor:
    """neuron(norm(x) + added), in as few passes over memory as possible.

    Two passes forward (statistics, then everything else) and two backward in training, one and one in eval
    mode; the normalised rows are never written. Results equal the two modules' to rounding: a membrane within
    rounding of its threshold may fire in one and not in the other.

    The modules are called one after the other where the kernels do not apply: other devices or types than
    float32 and bfloat16 on a CPU, a BatchNorm of another class (such as one shared between processes),
    learned time constants, membrane quantizers, surrogates without a native formula, streams, export, hooks
    on either module, anomaly detection, an empty batch. Under torch.compile registered operators run the
    same kernels.

    Args:
        norm: BatchNorm over axis 1.
        neuron: a neuron of the linear-charge core.
        x: rows [T*B, C, ...] in any memory order.
        added: rows like x, added after the normalisation, or None.
        fused: False calls the modules.
    """
    if fused and _compiles(norm, neuron, x, added):
        return norm_compiled(norm, neuron, x, added)
    plan = _plan(norm, neuron, x, added) if fused else None
    if plan is None:
        y = norm(x)
        return neuron(y if added is None else y + added)
    call, x, rows = plan
    batch_norm: Any = norm
    mean: Any
    variance: Any
    from_batch = batch_norm.training or batch_norm.running_mean is None
    with torch.no_grad():
        if from_batch:
            mean, variance = moments(x.detach(), call)
            if batch_norm.training:
                n = x.numel() // call.channels
                track(batch_norm, mean, variance * (n / (n - 1)))
        else:
            mean, variance = batch_norm.running_mean, batch_norm.running_var
        channels = Channels.of(mean, variance, batch_norm.eps, batch_norm.weight, batch_norm.bias)
    if not torch.is_grad_enabled():
        return fire(x, rows, call, channels)
    params = neuron.params()  # type: ignore[operator]
    bits = room_for(neuron, params, x, call.T)
    spikes: Tensor = _NormLeaky.apply(
        x,
        rows,
        batch_norm.weight,
        batch_norm.bias,
        channels,
        call,
        from_batch,
        _packed(added, rows, call),
        bits,
    )  # type: ignore[assignment]
    if bits is not None:
        publish(spikes, bits, params.out_scale)
    return spikes


__all__ = ["NORMS", "hooked", "norm_neuron"]
