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


@dataclass(slots=True)
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
    plain: bool = field(init=False, default=True)  # decay, gain and bias are floats

    def __post_init__(self) -> None:
        self.plain = not (
            isinstance(self.decay, Tensor) or isinstance(self.gain, Tensor) or isinstance(self.bias, Tensor)
        )
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


def forward_kernel(
    x: Tensor, v0: Tensor | None, p: LeakyParams, T: int, want_v: bool = True, want_h: bool = True
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Spike numbers n [T, B, ...], the membrane after the last step [B, ...] and the membranes h [T, B, ...].

    v0 = None starts at v_init; without `want_v` the last reset is left out, without `want_h` one step of h is
    kept at a time. Without memory and want_v, n and h keep the rows [T*B, ...] of x.
    """
    pointwise = p.plain and not want_v and p.decay == 0
    current = x if pointwise else x.reshape(T, x.shape[0] // T, *x.shape[1:])
    if isinstance(p.gain, Tensor) or p.gain != 1:
        current = current * p.gain
    if isinstance(p.bias, Tensor) or p.bias != 0:
        current = current + p.bias
    if pointwise:
        return p.rule.fire(current), None, current
    if p.memoryless or (T == 1 and v0 is None and not p.v_init):
        n = p.rule.fire(current)
        return n, reset_membrane(current[-1], n[-1], p) if want_v else None, current
    if v0 is None and p.v_init:
        v0 = current.new_full(current.shape[1:], p.v_init)
    dtype = current.dtype if v0 is None else torch.result_type(current, v0)
    n = torch.empty_like(current, dtype=dtype)
    h = torch.empty_like(n) if want_h else None
    rows = (torch.empty_like(n[0]),) * T if h is None else h.unbind(0)
    v, last = v0, T - 1
    for t, (i, ht, nt) in enumerate(zip(current.unbind(0), rows, n.unbind(0))):
        if v is None:
            ht.copy_(i)
        else:
            torch.mul(v, p.decay, out=ht)
            ht += i
        p.rule.fire(ht, nt)
        v = reset_membrane(ht, nt, p) if want_v or t != last else None
    return n, v, h


def reset_membrane(h: Tensor, n: Tensor, p: LeakyParams) -> Tensor:
    """Membrane after firing n at h."""
    value = p.reset_value
    if p.reset == "soft":
        # n * value is exact for n in {-1, 0, 1}, so that one rounding is the reference's rounding too.
        return torch.sub(h, n, alpha=value) if value == 1 or p.rule.kind.name != "integer" else h - n * value
    if p.reset == "hard":
        f = p.rule.fired(h, n)
        return (1 - f) * h + f * value if value else torch.addcmul(h, h, f, value=-1)
    return h.clone()


def reset_slope(h: Tensor, n: Tensor, slope: Tensor, p: LeakyParams) -> Tensor | None:
    """dv/dh of the reset; None means 1."""
    if p.reset == "soft":
        return None if p.detach_reset else 1 - p.reset_value * slope
    if p.reset == "hard":
        kept = 1 - p.rule.fired(h, n)
        if p.detach_reset:
            return kept
        turn = slope if p.rule.kind.name == "binary" else p.rule.fired_grad(h)
        if turn is None:
            return kept
        return kept.addcmul_(p.reset_value - h, turn) if p.reset_value else kept.addcmul_(h, turn, value=-1)
    return None


def backward_kernel(
    h: Tensor, n: Tensor, p: LeakyParams, gs: Tensor | None, gv: Tensor | None, gh: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """dL/dh [T, B, ...] of every step and dL/dv0 [B, ...] from the gradients of spikes, last v and h.

    None for dL/dv0 means zero: without memory no step sees v0.
    """
    slope = p.rule.grad(h)
    keep = reset_slope(h, n, slope, p)
    if gs is None:
        dh = torch.zeros_like(h)
    else:
        dh = (gs if gs.dim() == h.dim() else gs.reshape(h.shape)) * slope
        if p.out_scale != 1:
            dh *= p.out_scale
    if gh is not None:
        dh = dh + gh.reshape(h.shape)
    if p.memoryless:
        if gv is not None:
            dh[-1] += gv if keep is None else gv * keep[-1]
        return dh, None
    keeps = (None,) * h.shape[0] if keep is None else keep.unbind(0)
    dv = gv
    for dht, k in zip(reversed(dh.unbind(0)), reversed(keeps)):
        if dv is not None:
            if k is None:
                dht += dv
            else:
                dht.addcmul_(dv, k)
        dv = dht * p.decay
    return dh, dv


def constant_grads(
    x: Tensor, v0: Tensor | None, h: Tensor, n: Tensor, dh: Tensor, p: LeakyParams
) -> list[Tensor | None]:
    """Gradients of decay, gain and bias where they are tensors that require one, in that order."""
    out: list[Tensor | None] = [None, None, None]
    if isinstance(p.decay, Tensor) and p.decay.requires_grad:
        first = torch.full_like(h[0], p.v_init) if v0 is None else v0
        before = torch.cat([first[None], reset_membrane(h[:-1], n[:-1], p)])
        out[0] = (dh * before).sum_to_size(p.decay.shape)
    if isinstance(p.gain, Tensor) and p.gain.requires_grad:
        out[1] = (dh * x.reshape(h.shape)).sum_to_size(p.gain.shape)
    if isinstance(p.bias, Tensor) and p.bias.requires_grad:
        out[2] = dh.sum_to_size(p.bias.shape)
    return out
