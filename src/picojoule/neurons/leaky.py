"""The linear-charge core shared by IF, LIF, PLIF, I-LIF and ternary neurons.

    h[t] = decay * v[t-1] + (gain * x[t] + bias)
    n[t] = fire(h[t])                     binary, ternary or integer (see FireRule)
    v[t] = (1 - [n != 0]) h + [n != 0] reset_value    hard
         = h - n * reset_value                        soft
         = h                                          none
    s[t] = n[t] * out_scale

`leaky_reference` is the readable version; `leaky` computes the same with an analytic backward; the operator
`pj::leaky` carries the same kernels through torch.compile.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from picojoule.core.spec import RESETS, NeuronSpec, spec
from picojoule.neurons.base import Fired, Membrane, Neuron, start
from picojoule.neurons.fire import FireRule, fire, fired

Number = float | Tensor


@dataclass(frozen=True)
class LeakyParams:
    """Constants of the core. decay, gain, bias are floats or tensors that broadcast to one step [B, ...];
    tensors may require gradients."""

    decay: Number = 0.5
    gain: Number = 1.0
    bias: Number = 0.0
    rule: FireRule = field(default_factory=FireRule)
    reset: str = "hard"
    reset_value: float = 0.0
    detach_reset: bool = False
    v_init: float = 0.0
    out_scale: float = 1.0

    def __post_init__(self) -> None:
        if self.reset not in RESETS:
            raise ValueError(f"reset must be one of {', '.join(RESETS)}, got {self.reset!r}")

    @property
    def learned(self) -> list[Tensor]:
        """Those of decay, gain, bias that are tensors."""
        return [c for c in (self.decay, self.gain, self.bias) if isinstance(c, Tensor)]

    @property
    def memoryless(self) -> bool:
        """True when no step sees an earlier one."""
        return not isinstance(self.decay, Tensor) and self.decay == 0


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


# -- kernels: shared by the autograd function and the operator -----------------------------------------


def forward_kernel(x: Tensor, v0: Tensor, p: LeakyParams, T: int) -> tuple[Tensor, Tensor, Tensor]:
    """Spike numbers n and membranes h [T, B, ...], and the membrane [B, ...] after the last step."""
    current = x.reshape(T, x.shape[0] // T, *x.shape[1:])
    if isinstance(p.gain, Tensor) or p.gain != 1:
        current = current * p.gain
    if isinstance(p.bias, Tensor) or p.bias != 0:
        current = current + p.bias
    if p.memoryless:
        n = p.rule.fire(current)
        return n, _reset(current[-1], n[-1], p), current
    h = torch.empty(current.shape, dtype=torch.result_type(current, v0), device=x.device)
    n = torch.empty_like(h)
    v = v0
    for i, ht, nt in zip(current.unbind(0), h.unbind(0), n.unbind(0)):
        torch.mul(v, p.decay, out=ht)
        ht += i
        nt.copy_(p.rule.fire(ht))
        v = _reset(ht, nt, p)
    return n, v, h


def _reset(h: Tensor, n: Tensor, p: LeakyParams) -> Tensor:
    if p.reset == "soft":
        return h - n * p.reset_value if p.reset_value != 1 else h - n
    if p.reset == "hard":
        f = p.rule.fired(h, n)
        v = (1 - f) * h
        return v + f * p.reset_value if p.reset_value else v
    return h.clone()


def _reset_slope(h: Tensor, n: Tensor, slope: Tensor, p: LeakyParams) -> Tensor | None:
    """dv/dh of the reset; None means 1."""
    if p.reset == "soft":
        return None if p.detach_reset else 1 - p.reset_value * slope
    if p.reset == "hard":
        kept = 1 - p.rule.fired(h, n)
        turn = None
        if not p.detach_reset:
            turn = slope if p.rule.kind.name == "binary" else p.rule.fired_grad(h)
        return kept if turn is None else kept + (p.reset_value - h) * turn
    return None


def backward_kernel(
    h: Tensor, n: Tensor, p: LeakyParams, gs: Tensor | None, gv: Tensor | None, gh: Tensor | None
) -> tuple[Tensor, Tensor]:
    """dL/dh [T, B, ...] of every step and dL/dv0 [B, ...] from the gradients of spikes, last v and h."""
    slope = p.rule.grad(h)
    keep = _reset_slope(h, n, slope, p)
    if gs is None:
        dh = torch.zeros_like(h)
    else:
        dh = gs.reshape(h.shape) * slope
        if p.out_scale != 1:
            dh *= p.out_scale
    if gh is not None:
        dh = dh + gh.reshape(h.shape)
    if p.memoryless:
        if gv is not None:
            dh[-1] += gv if keep is None else gv * keep[-1]
        return dh, torch.zeros_like(h[-1])
    keeps = (None,) * h.shape[0] if keep is None else keep.unbind(0)
    dv = gv
    for dht, k in zip(reversed(dh.unbind(0)), reversed(keeps)):
        if dv is not None:
            if k is None:
                dht += dv
            else:
                dht.addcmul_(dv, k)
        dv = dht * p.decay
    return dh, torch.zeros_like(h[0]) if dv is None else dv


def constant_grads(
    x: Tensor, v0: Tensor, h: Tensor, n: Tensor, dh: Tensor, p: LeakyParams
) -> list[Tensor | None]:
    """Gradients of decay, gain and bias where they are tensors that require one, in that order."""
    out: list[Tensor | None] = [None, None, None]
    if isinstance(p.decay, Tensor) and p.decay.requires_grad:
        before = torch.cat([v0.expand_as(h[0])[None], _reset(h[:-1], n[:-1], p)])
        out[0] = (dh * before).sum_to_size(p.decay.shape)
    if isinstance(p.gain, Tensor) and p.gain.requires_grad:
        out[1] = (dh * x.reshape(h.shape)).sum_to_size(p.gain.shape)
    if isinstance(p.bias, Tensor) and p.bias.requires_grad:
        out[2] = dh.sum_to_size(p.bias.shape)
    return out


class _Leaky(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        v0: Tensor,
        decay: Number,
        gain: Number,
        bias: Number,
        T: int,
        p: Any,
        want_h: bool,
    ) -> Any:
        n, v, h = forward_kernel(x, v0, p, T)
        ctx.save_for_backward(*((x, v0, h, n, *p.learned) if p.learned else (h, n)))
        ctx.p = p
        ctx.set_materialize_grads(False)
        s = n if p.out_scale == 1 else n * p.out_scale
        return s.reshape(x.shape), v, h.reshape(x.shape).clone() if want_h else None

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        p = ctx.p
        if not p.learned:
            h, n = ctx.saved_tensors
            constants: list[Tensor | None] = [None, None, None]
            dh, dv = backward_kernel(h, n, p, *grads)
        else:
            x, v0, h, n, *_ = ctx.saved_tensors
            dh, dv = backward_kernel(h, n, p, *grads)
            constants = constant_grads(x, v0, h, n, dh, p)
        dx = dh if not isinstance(p.gain, Tensor) and p.gain == 1 else dh * p.gain
        return dx.reshape(-1, *h.shape[2:]), dv, *constants, None, None, None


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
    v0 = start(x, T, state, p.v_init)
    spikes, v, h = _Leaky.apply(x, v0, p.decay, p.gain, p.bias, T, p, want_h)  # type: ignore[misc]
    return Fired(spikes, Membrane(v), h)


class LeakyNeuron(Neuron):
    """A neuron of the linear-charge core: subclasses say only `params()`."""

    op_name = "leaky"

    def params(self) -> LeakyParams:
        """Constants of the core."""
        raise TypeError(f"{type(self).__name__} defines no params()")

    def run(self, x: Tensor, T: int, state: Any = None, want_h: bool = False) -> Fired:
        """See Neuron.run."""
        return leaky(x, T, state, self.params(), self.membrane_quant, want_h)

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
