"""Constants and kernels of the linear-charge core (equations in leaky.py).

The autograd function and the operator `pj::leaky` both call these kernels; nothing else computes the core,
apart from the readable reference.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from picojoule.core.spec import RESETS
from picojoule.neurons.fire import FireRule

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


def forward_kernel(x: Tensor, v0: Tensor, p: LeakyParams, T: int) -> tuple[Tensor, Tensor, Tensor]:
    """Spike numbers n and membranes h [T, B, ...], and the membrane [B, ...] after the last step."""
    current = x.reshape(T, x.shape[0] // T, *x.shape[1:])
    if isinstance(p.gain, Tensor) or p.gain != 1:
        current = current * p.gain
    if isinstance(p.bias, Tensor) or p.bias != 0:
        current = current + p.bias
    if p.memoryless:
        n = p.rule.fire(current)
        return n, reset_membrane(current[-1], n[-1], p), current
    h = torch.empty(current.shape, dtype=torch.result_type(current, v0), device=x.device)
    n = torch.empty_like(h)
    v = v0
    for i, ht, nt in zip(current.unbind(0), h.unbind(0), n.unbind(0)):
        torch.mul(v, p.decay, out=ht)
        ht += i
        nt.copy_(p.rule.fire(ht))
        v = reset_membrane(ht, nt, p)
    return n, v, h


def reset_membrane(h: Tensor, n: Tensor, p: LeakyParams) -> Tensor:
    if p.reset == "soft":
        return h - n * p.reset_value if p.reset_value != 1 else h - n
    if p.reset == "hard":
        f = p.rule.fired(h, n)
        v = (1 - f) * h
        return v + f * p.reset_value if p.reset_value else v
    return h.clone()


def reset_slope(h: Tensor, n: Tensor, slope: Tensor, p: LeakyParams) -> Tensor | None:
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
    keep = reset_slope(h, n, slope, p)
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
        before = torch.cat([v0.expand_as(h[0])[None], reset_membrane(h[:-1], n[:-1], p)])
        out[0] = (dh * before).sum_to_size(p.decay.shape)
    if isinstance(p.gain, Tensor) and p.gain.requires_grad:
        out[1] = (dh * x.reshape(h.shape)).sum_to_size(p.gain.shape)
    if isinstance(p.bias, Tensor) and p.bias.requires_grad:
        out[2] = dh.sum_to_size(p.bias.shape)
    return out
