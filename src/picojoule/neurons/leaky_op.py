"""`pj::leaky`: the linear-charge core as a registered operator, used under torch.compile only.

A registered operator costs two to three times more a call than an autograd function, but survives tracing as
one node. It finds the neuron's firing rule through the key of the module; constants that train travel as
tensors, in the order decay, gain, bias.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from picojoule.neurons import leaky_native
from picojoule.neurons.base import Fired, Membrane, leaf_module, start
from picojoule.neurons.leaky_kernel import LeakyParams, backward_kernel, constant_grads, forward_kernel


def _params(key: str, learned: list[Tensor]) -> LeakyParams:
    neuron: Any = leaf_module(key)
    with torch.no_grad():
        p: LeakyParams = neuron.params()
    names = [n for n in ("decay", "gain", "bias") if isinstance(getattr(p, n), Tensor)]
    return replace(p, **dict(zip(names, learned)))


@torch.library.custom_op("pj::leaky", mutates_args=())
def leaky_op(x: Tensor, v0: Tensor, learned: list[Tensor], T: int, key: str) -> tuple[Tensor, Tensor, Tensor]:
    """Spikes [T*B, ...], membrane after the last step [B, ...] and membranes before firing [T*B, ...]."""
    p = _params(key, learned)
    done = leaky_native.all_forward(x, v0, p, T)
    if done is not None:
        return ordered(done[0], x), done[1].contiguous().to(x.dtype), ordered(done[2], x)
    n, v, h = forward_kernel(x, v0, p, T)
    v, h = cast(Tensor, v), cast(Tensor, h)  # both are wanted
    s = n if p.out_scale == 1 else n * p.out_scale
    # An output may not be a view of an input.
    return ordered(s.reshape(x.shape), x), v.contiguous(), ordered(h.reshape(x.shape).clone(), x)


def ordered(value: Tensor, x: Tensor) -> Tensor:
    """`value` in the strides and type promised below: those of `empty_like(x)`."""
    rows = torch.empty_like(x)
    same = value.stride() == rows.stride() and value.dtype == rows.dtype
    return value if same else rows.copy_(value)


@leaky_op.register_fake
def _(x: Tensor, v0: Tensor, learned: list[Tensor], T: int, key: str) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x), x.new_empty((x.shape[0] // T, *x.shape[1:])), torch.empty_like(x)


@torch.library.custom_op("pj::leaky_backward", mutates_args=())
def leaky_backward_op(
    x: Tensor,
    v0: Tensor,
    h: Tensor,
    learned: list[Tensor],
    gs: Tensor,
    gv: Tensor,
    gh: Tensor,
    T: int,
    key: str,
) -> list[Tensor]:
    """Gradients of x, v0 and the learned constants."""
    flags = [c.detach().requires_grad_() for c in learned]
    p = _params(key, flags)
    done = leaky_native.all_backward(x, v0, p, T, (gs, gv, gh))
    if done is not None:
        dx, dv, constants = done
        return [ordered(dx, x), dv.contiguous().to(v0.dtype), *constants]
    steps = h.reshape(T, h.shape[0] // T, *h.shape[1:])
    n = p.rule.fire(steps)
    dh, dv = backward_kernel(steps, n, p, gs, gv, gh)
    with torch.no_grad():
        constants = [g for g in constant_grads(x, v0, steps, n, dh, p) if g is not None]
        dx = dh * p.gain
    dv = v0.new_zeros(v0.shape) if dv is None else dv.contiguous()
    return [ordered(dx.reshape(x.shape), x), dv, *constants]


@leaky_backward_op.register_fake
def _(
    x: Tensor,
    v0: Tensor,
    h: Tensor,
    learned: list[Tensor],
    gs: Tensor,
    gv: Tensor,
    gh: Tensor,
    T: int,
    key: str,
) -> list[Tensor]:
    return [torch.empty_like(x), v0.new_empty(v0.shape), *(c.new_empty(c.shape) for c in learned)]


def _setup(ctx: Any, inputs: Any, output: Any) -> None:
    x, v0, learned, ctx.T, ctx.key = inputs
    ctx.count = len(learned)
    ctx.save_for_backward(x, v0, output[2], *learned)


def _backward(ctx: Any, gs: Tensor, gv: Tensor, gh: Tensor) -> Any:
    x, v0, h, *learned = ctx.saved_tensors
    dx, dv, *constants = leaky_backward_op(x, v0, h, learned, gs, gv, gh, ctx.T, ctx.key)
    return dx, dv, constants, None, None


leaky_op.register_autograd(_backward, setup_context=_setup)


def leaky_compiled(
    x: Tensor, T: int, state: Membrane | None, p: LeakyParams, key: str, want_h: bool = False
) -> Fired:
    """Same result as `leaky`, through the operator."""
    spikes, v, h = leaky_op(x, start(x, T, state, p.v_init), p.learned, T, key)
    return Fired(spikes, Membrane(v), h if want_h else None)
