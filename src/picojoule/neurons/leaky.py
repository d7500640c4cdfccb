"""The linear-charge core shared by IF, LIF, PLIF, I-LIF and ternary neurons.

    h[t] = decay * v[t-1] + gain * x[t] + bias
    n[t] = fire(h[t])                     binary, ternary or integer (see FireRule)
    v[t] = (1 - [n != 0]) h + [n != 0] reset_value    hard
         = h - n * reset_value                        soft
         = h                                          none
    s[t] = n[t] * out_scale

`leaky_reference` is the readable version; `leaky` computes the same with an analytic backward.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from picojoule.core.kinds import Kind, binary
from picojoule.neurons import surrogate as sg
from picojoule.neurons.base import Fired, Membrane


@dataclass(frozen=True)
class FireRule:
    """When and how much a neuron fires, and what the backward pass believes.

    binary: n = [h >= th] (> when strict); ternary: n = [h >= th] - [h <= -th];
    integer: n = round(clamp(h, 0, D)), D = kind.levels, `rounding` "half_even" (torch.round) or "half_up";
    its gradient is 1 on the closed interval [0, D] or, with `open_window`, on (0, D).
    """

    kind: Kind = binary
    v_th: float = 1.0
    strict: bool = False
    rounding: str = "half_even"
    open_window: bool = False
    surrogate: sg.Surrogate = field(default_factory=sg.Sigmoid)

    def fire(self, h: Tensor) -> Tensor:
        """n for membranes h, the same shape and dtype."""
        if self.kind.name == "integer":
            c = h.clamp(0, self.kind.levels)
            return c.round() if self.rounding == "half_even" else (c + 0.5).floor()
        up = h > self.v_th if self.strict else h >= self.v_th
        if self.kind.name == "ternary":
            down = h < -self.v_th if self.strict else h <= -self.v_th
            return up.to(h.dtype) - down.to(h.dtype)
        return up.to(h.dtype)

    def grad(self, h: Tensor) -> Tensor:
        """dn/dh as the backward pass believes it."""
        if self.kind.name == "integer":
            inside = (h > 0) & (h < self.kind.levels) if self.open_window else (h >= 0) & (h <= self.kind.levels)
            return inside.to(h.dtype)
        if self.kind.name == "ternary":
            return self.surrogate.grad(h - self.v_th) + self.surrogate.grad(-h - self.v_th)
        return self.surrogate.grad(h - self.v_th)


class _Fire(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, rule: FireRule) -> Tensor:
        ctx.save_for_backward(h)
        ctx.rule = rule
        return rule.fire(h)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (h,) = ctx.saved_tensors
        return grads[0] * ctx.rule.grad(h), None


def fire(h: Tensor, rule: FireRule) -> Tensor:
    """Spikes n(h) whose derivative is the rule's surrogate."""
    return _Fire.apply(h, rule)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class LeakyParams:
    """Constants of the core. decay, gain, bias are floats or tensors that broadcast to one step [B, ...];
    tensors may require gradients."""

    decay: float | Tensor = 0.5
    gain: float | Tensor = 1.0
    bias: float | Tensor = 0.0
    rule: FireRule = field(default_factory=FireRule)
    reset: str = "hard"
    reset_value: float = 0.0
    detach_reset: bool = False
    v_init: float = 0.0
    out_scale: float = 1.0


def _start(x: Tensor, state: Membrane | None, p: LeakyParams) -> Tensor:
    return torch.full_like(x, p.v_init) if state is None else state.v.expand_as(x)


def leaky_step(x: Tensor, v: Tensor, p: LeakyParams, quant: nn.Module | None = None) -> tuple[Tensor, ...]:
    """One step: current x and membrane v [B, ...] -> (spikes, membrane after reset, membrane before firing)."""
    h = p.decay * v + p.gain * x + p.bias
    n = fire(h, p.rule)
    r = n.detach() if p.detach_reset else n
    if p.reset == "soft":
        v = h - r * p.reset_value
    elif p.reset == "hard":
        fired = r.abs()  # ternary neurons reset on either sign
        v = (1 - fired) * h + fired * p.reset_value
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
    steps = x.reshape(T, x.shape[0] // T, *x.shape[1:])
    v = _start(steps[0], state, p)
    spikes, before = [], []
    for current in steps.unbind(0):
        s, v, h = leaky_step(current, v, p, quant)
        spikes.append(s)
        before.append(h)
    return Fired(torch.cat(spikes), Membrane(v), torch.cat(before) if want_h else None)


class _Leaky(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, v0: Tensor, decay: Any, gain: Any, bias: Any, T: int, p: LeakyParams) -> Any:
        steps = x.reshape(T, x.shape[0] // T, *x.shape[1:])
        h = torch.empty(steps.shape, dtype=torch.result_type(x, v0), device=x.device)
        n = torch.empty_like(h)
        v = v0
        for t in range(T):
            charge = decay * v + gain * steps[t] + bias
            fired = p.rule.fire(charge)
            h[t], n[t] = charge, fired
            v = _reset(charge, fired, p)
        ctx.save_for_backward(x, v0, h, n, *(c for c in (decay, gain, bias) if isinstance(c, Tensor)))
        ctx.constants = tuple(None if isinstance(c, Tensor) else c for c in (decay, gain, bias))
        ctx.T, ctx.p = T, p
        out = n if p.out_scale == 1.0 else n * p.out_scale
        return out.reshape(x.shape), v, h.reshape(x.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        p, T = ctx.p, ctx.T
        x, v0, h, n, *tensors = ctx.saved_tensors
        tensors.reverse()
        decay, gain, bias = (tensors.pop() if c is None else c for c in ctx.constants)
        gs, dv, gh = grads
        steps = x.reshape(h.shape)
        gs, gh = gs.reshape(h.shape), gh.reshape(h.shape)
        dx = torch.empty_like(h)
        sums: list[Any] = [0.0, 0.0, 0.0]
        need = [isinstance(c, Tensor) and c.requires_grad for c in (decay, gain, bias)]
        for t in reversed(range(T)):
            slope = p.rule.grad(h[t])
            dh = torch.addcmul(gh[t], gs[t] * p.out_scale, slope) + dv * _reset_slope(h[t], n[t], slope, p)
            dx[t] = dh * gain
            before = _reset(h[t - 1], n[t - 1], p) if t else v0
            for i, other in enumerate((before, steps[t], None)):
                if need[i]:
                    sums[i] = sums[i] + (dh if other is None else dh * other).sum_to_size(
                        (decay, gain, bias)[i].shape
                    )
            dv = dh * decay
        gd, gg, gb = (s if flag else None for s, flag in zip(sums, need))
        return dx.reshape(x.shape), dv, gd, gg, gb, None, None


def _reset(h: Tensor, n: Tensor, p: LeakyParams) -> Tensor:
    if p.reset == "soft":
        return h - n * p.reset_value
    if p.reset == "hard":
        return torch.where(n == 0, h, h.new_full((), p.reset_value))
    return h


def _reset_slope(h: Tensor, n: Tensor, slope: Tensor, p: LeakyParams) -> Tensor | float:
    """dv/dh of the reset."""
    if p.reset == "soft":
        return 1.0 if p.detach_reset else 1 - p.reset_value * slope
    if p.reset == "hard":
        kept = (n == 0).to(h.dtype)
        if p.detach_reset:
            return kept
        sign = n.sign() if p.rule.kind.name == "ternary" else 1.0
        return kept + (p.reset_value - h) * slope * sign
    return 1.0


def leaky(
    x: Tensor,
    T: int,
    state: Membrane | None,
    p: LeakyParams,
    quant: nn.Module | None = None,
    want_h: bool = False,
) -> Fired:
    """Same result as `leaky_reference`, with one analytic backward instead of autograd over steps.

    A membrane quantizer brings its own derivative, so that case runs the reference.
    """
    if quant is not None:
        return leaky_reference(x, T, state, p, quant, want_h)
    v0 = _start(x[: x.shape[0] // T], state, p)
    spikes, v, h = _Leaky.apply(x, v0, p.decay, p.gain, p.bias, T, p)  # type: ignore[misc]
    return Fired(spikes, Membrane(v), h if want_h else None)
