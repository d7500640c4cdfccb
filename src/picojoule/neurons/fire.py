"""Firing: when and how much a neuron fires, and what the backward pass believes about it.

binary     n = [h >= th]                       (> when strict)
ternary    n = [h >= th] - [h <= -th]          (strict on both sides, or on none)
integer    n = round(clamp(h, 0, D))           half to even (torch.round) or half up
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from picojoule.core.kinds import Kind, binary
from picojoule.neurons import surrogate as sg

ROUNDINGS = ("half_even", "half_up")


@dataclass(frozen=True)
class FireRule:
    """The map from the membrane before firing `h` to the spike number `n`, with its derivative.

    Binary and ternary spikes use the surrogate at h - th (and at -h - th). Integer spikes have derivative 1
    on the closed interval [0, D] or, with `open_window`, on (0, D); D = kind.levels.
    """

    kind: Kind = binary
    v_th: float = 1.0
    strict: bool = False
    rounding: str = "half_even"
    open_window: bool = False
    surrogate: sg.Surrogate = field(default_factory=sg.Sigmoid)

    def __post_init__(self) -> None:
        if self.rounding not in ROUNDINGS:
            raise ValueError(f"rounding must be one of {', '.join(ROUNDINGS)}, got {self.rounding!r}")

    def fire(self, h: Tensor, out: Tensor | None = None) -> Tensor:
        """n for membranes h, the same shape and dtype; written to `out` when it is given."""
        if out is None:
            out = torch.empty_like(h)
        if self.kind.name == "integer":
            torch.clamp(h, 0, self.kind.levels, out=out)
            if self.rounding == "half_even":
                return out.round_()
            whole = out.floor()
            # floor(c + 1/2) would round c + 1/2 first and fire just below a half.
            return torch.add(whole, (out - whole >= 0.5).to(h.dtype), out=out)
        above, below = (torch.gt, torch.lt) if self.strict else (torch.ge, torch.le)
        above(h, self.v_th, out=out)
        return out.sub_(below(h, -self.v_th).to(h.dtype)) if self.kind.name == "ternary" else out

    def grad(self, h: Tensor) -> Tensor:
        """dn/dh as the backward pass believes it."""
        if self.kind.name == "integer":
            D = self.kind.levels
            inside = (h > 0) & (h < D) if self.open_window else (h >= 0) & (h <= D)
            return inside.to(h.dtype)
        if self.kind.name == "ternary":
            return self.surrogate.grad(h - self.v_th) + self.surrogate.grad(-h - self.v_th)
        return self.surrogate.grad(h - self.v_th)

    def fired(self, h: Tensor, n: Tensor) -> Tensor:
        """[n != 0], the factor of a hard reset: up + down for ternary spikes."""
        if self.kind.name == "binary":
            return n
        return n.abs() if self.kind.name == "ternary" else (n != 0).to(h.dtype)

    def fired_grad(self, h: Tensor) -> Tensor | None:
        """d[n != 0]/dh: g(h - th) - g(-h - th) for ternary spikes; None (zero) for integers, whose hard reset
        carries no gradient."""
        if self.kind.name == "integer":
            return None
        if self.kind.name == "ternary":
            return self.surrogate.grad(h - self.v_th) - self.surrogate.grad(-h - self.v_th)
        return self.surrogate.grad(h - self.v_th)

    def levels(self) -> tuple[tuple[float, ...], tuple[bool, ...]]:
        """Thresholds per level and which of them are strict, for packing.

        Integer level k = 1..D lies at k - 1/2. Half to even rounds k - 1/2 down when k is odd (strict) and up
        when k is even.

        >>> from picojoule.core.kinds import integer
        >>> FireRule(kind=integer(2)).levels()
        ((0.5, 1.5), (True, False))
        """
        if self.kind.name != "integer":
            return (self.v_th,), (self.strict,)
        ks = range(1, self.kind.levels + 1)
        even = self.rounding == "half_even"
        return tuple(k - 0.5 for k in ks), tuple(even and k % 2 == 1 for k in ks)


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


class _Fired(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, n: Tensor, rule: FireRule) -> Tensor:
        ctx.save_for_backward(h)
        ctx.rule = rule
        return rule.fired(h, n).clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (h,) = ctx.saved_tensors
        slope = ctx.rule.fired_grad(h)
        return None if slope is None else grads[0] * slope, None, None


def fire(h: Tensor, rule: FireRule) -> Tensor:
    """Spike numbers n(h) whose derivative is the rule's."""
    return _Fire.apply(h, rule)  # type: ignore[no-any-return]


def fired(h: Tensor, n: Tensor, rule: FireRule) -> Tensor:
    """[n != 0] whose derivative is the rule's."""
    return n if rule.kind.name == "binary" else _Fired.apply(h, n.detach(), rule)  # type: ignore[no-any-return]


def step_value(z: Tensor, surrogate: sg.Surrogate, strict: bool) -> Tensor:
    """[z >= 0] (> when strict) in the dtype of z."""
    return (z > 0 if strict else z >= 0).to(z.dtype)


class _Heaviside(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, surrogate: sg.Surrogate, strict: bool) -> Tensor:
        ctx.save_for_backward(z)
        ctx.surrogate = surrogate
        return step_value(z, surrogate, strict)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (z,) = ctx.saved_tensors
        return grads[0] * ctx.surrogate.grad(z), None, None


def heaviside(z: Tensor, surrogate: sg.Surrogate, strict: bool = False) -> Tensor:
    """[z >= 0] (> when strict) whose derivative is g'(z): firing for equations with a moving threshold."""
    return _Heaviside.apply(z, surrogate, strict)  # type: ignore[no-any-return]
