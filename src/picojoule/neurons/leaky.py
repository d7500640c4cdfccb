"""The linear-charge core shared by IF, LIF, PLIF, I-LIF and ternary neurons.

    h[t] = decay * v[t-1] + (gain * x[t] + bias)
    n[t] = fire(h[t])                     binary, ternary or integer (see FireRule)
    v[t] = (1 - [n != 0]) h + [n != 0] reset_value    hard
         = h - n * reset_value                        soft
         = h                                          none
    s[t] = n[t] * out_scale

`leaky_reference` is the readable version; `leaky` computes the same with an analytic backward; the operator
`pj::leaky` (leaky_op.py) carries the same kernels through torch.compile.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from picojoule.core.spec import NeuronSpec, spec
from picojoule.neurons import leaky_native
from picojoule.neurons.base import Fired, Membrane, Neuron, start
from picojoule.neurons.fire import fire, fired
from picojoule.neurons.leaky_kernel import (
    LeakyParams,
    Number,
    backward_kernel,
    constant_grads,
    forward_kernel,
)
from picojoule.neurons.leaky_op import leaky_compiled
from picojoule.neurons.spike_bits import publish, room_for

__all__ = ["LeakyNeuron", "LeakyParams", "leaky", "leaky_reference", "leaky_step"]


def leaky_step(
    current: Tensor, v: Tensor, p: LeakyParams, quant: nn.Module | None = None
) -> tuple[Tensor, ...]:
    """One step: current gain*x + bias and membrane v [B, ...] -> (spikes, membrane after reset, h)."""
    h = p.decay * v + current
    n = fire(h, p.rule)
    if p.reset == "soft":
        v = h - (n.detach() if p.detach_reset else n) * p.reset_value
    elif p.reset == "hard":
        f = fired(h, n, p.rule)
        f = f.detach() if p.detach_reset else f
        v = (1 - f) * h + f * p.reset_value
    else:
        v = h
    if quant is not None:
        v = quant(v)
    return n * p.out_scale, v, h


def leaky_reference(
    x: Tensor,
    T: int,
    state: Membrane | None,
    p: LeakyParams,
    quant: nn.Module | None = None,
    want_h: bool = False,
) -> Fired:
    """The equation, step by step, differentiated by autograd; see the module docstring.

    Args:
        x: rows [T*B, ...].
        state: membrane [B, ...] left by the previous call; None starts at v_init.
        quant: membrane quantizer applied after reset.
    """
    steps = (p.gain * x.reshape(T, x.shape[0] // T, *x.shape[1:]) + p.bias).unbind(0)
    v = start(x, T, state, p.v_init)
    spikes, before = [], []
    for current in steps:
        s, v, h = leaky_step(current, v, p, quant)
        spikes.append(s)
        before.append(h)
    return Fired(torch.cat(spikes), Membrane(v), torch.cat(before) if want_h else None)


class _Leaky(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        v0: Tensor | None,
        decay: Number,
        gain: Number,
        bias: Number,
        T: int,
        p: LeakyParams,
        want: tuple[bool, bool],
    ) -> Any:
        n, v, h = forward_kernel(x, v0, p, T, want[0])
        ctx.rows = n.dim() == x.dim()
        if not p.plain:
            ctx.save_for_backward(h, n, x, *(() if v0 is None else (v0,)))
        else:
            ctx.save_for_backward(h, n)
        ctx.p = p
        ctx.set_materialize_grads(False)
        s = n if p.out_scale == 1 else n * p.out_scale
        if not ctx.rows:
            s = s.flatten(0, 1)
        return s, v, h.reshape(x.shape).clone() if want[1] and h is not None else None

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        p = ctx.p
        h, n, *rest = ctx.saved_tensors
        dh, dv = backward_kernel(h, n, p, *grads)
        constants: list[Tensor | None] = [None, None, None]
        if rest:
            constants = constant_grads(rest[0], rest[1] if len(rest) > 1 else None, h, n, dh, p)
        dx = dh if p.plain and p.gain == 1 else dh * p.gain
        if not ctx.needs_input_grad[1]:
            dv = None
        elif dv is None:
            dv = torch.zeros_like(h[0])
        return dx if ctx.rows else dx.flatten(0, 1), dv, *constants, None, None, None


def leaky(
    x: Tensor,
    T: int,
    state: Membrane | None,
    p: LeakyParams,
    quant: nn.Module | None = None,
    want_h: bool = False,
    want_v: bool = True,
) -> Fired:
    """Same result as `leaky_reference`, with one analytic backward instead of autograd over steps.

    A membrane quantizer brings its own derivative, so that case runs the reference. Without `want_v` the
    state is None.
    """
    if quant is not None:
        return leaky_reference(x, T, state, p, quant, want_h)
    v0 = None if state is None else start(x, T, state, p.v_init)
    done = None if want_h else _whole(x, T, v0, p, want_v)
    if done is not None:
        return Fired(done[0], None if done[1] is None else Membrane(done[1]), None)
    if not torch.is_grad_enabled():
        n, v, h = forward_kernel(x, v0, p, T, want_v, want_h)
        spikes = (n if p.out_scale == 1 else n * p.out_scale).reshape(x.shape)
        h = h.reshape(x.shape) if want_h and h is not None else None
    else:
        wants = (want_v, want_h)
        spikes, v, h = _Leaky.apply(x, v0, p.decay, p.gain, p.bias, T, p, wants)  # type: ignore[misc]
    return Fired(spikes, None if v is None else Membrane(v), h)


def _whole(x: Tensor, T: int, v0: Tensor | None, p: LeakyParams, want_v: bool) -> Any:
    """Spikes and last membrane in one pass over memory, or None where neither way applies."""
    if not x.is_cuda:
        return leaky_native.apply(x, T, v0, p, want_v)
    graph: Any = importlib.import_module(
        "picojoule.neurons.leaky_graph"
    )  # needs the compiler: seconds to load
    return graph.apply(x, T, v0, p)


class LeakyNeuron(Neuron):
    """A neuron of the linear-charge core: subclasses say only `params()`."""

    op_name = "leaky"
    publishes_bits = False  # see spike_bits.publish_bits_

    def params(self) -> LeakyParams:
        """Constants of the core."""
        raise TypeError(f"{type(self).__name__} defines no params()")

    def run(self, x: Tensor, T: int, state: Any = None, want_h: bool = False) -> Fired:
        """See Neuron.run."""
        if torch.compiler.is_compiling() and self.membrane_quant is None:
            return leaky_compiled(x, T, state, self.params(), self.leaf, want_h)
        return leaky(x, T, state, self.params(), self.membrane_quant, want_h)

    def spikes(self, x: Tensor, T: int) -> Tensor:
        """See Neuron.spikes: the last reset is left out."""
        if self.membrane_quant is not None or torch.compiler.is_compiling():
            return self.run(x, T).spikes
        p = self.params()
        bits = room_for(self, p, x, T)
        done = None if bits is None else leaky_native.apply(x, T, None, p, False, bits)
        if bits is None or done is None:
            return leaky(x, T, None, p, want_v=False).spikes
        publish(done[0], bits, p.out_scale)
        return done[0]

    def lower(self) -> NeuronSpec:
        """Constants for packing."""
        p = self.params()
        quant: Any = self.membrane_quant
        thresholds, strict = p.rule.levels()
        ternary = p.rule.kind.name == "ternary"
        return spec(
            p.rule.kind,
            decay=_plain(p.decay),
            gain=_plain(p.gain),
            bias=_plain(p.bias),
            thresholds=thresholds,
            strict=strict,
            neg_threshold=-p.rule.v_th if ternary else None,
            neg_strict=p.rule.strict if ternary else False,
            reset=p.reset,
            reset_value=p.reset_value,
            v_init=p.v_init,
            out_scale=p.out_scale,
            table=quant.table() if quant is not None else None,
        )


def _plain(value: Number) -> Any:
    return value.detach().double().cpu().flatten().numpy() if isinstance(value, Tensor) else value
