"""`pj::norm_leaky`: BatchNorm and a leaky neuron in one pass as operators, under torch.compile only.

The statistics are an operator of their own, so that the running ones are updated by traced tensor
operations: a compiled graph stays whole. Equations and kernels are those of norm_native.py; what the backward
pass needs is computed again from the statistics.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from picojoule.neurons import leaky_native
from picojoule.neurons.base import leaf_module
from picojoule.neurons.leaky_op import ordered
from picojoule.neurons.norm_kernel import Call, Channels, back, call_of, fire, moments, track


def _call(x: Tensor, T: int, key: str) -> tuple[Tensor, Call]:
    """x as the kernels read it and the call.

    Raises:
        RuntimeError: the neuron was changed after compilation to one that the kernels do not serve.
    """
    neuron: Any = leaf_module(key)
    with torch.no_grad():
        params = neuron.params()
    x = x if leaky_native._dense(x) else x.contiguous()
    call = call_of(params, x, T)
    if call is None:
        raise RuntimeError(
            f"{type(neuron).__name__} was compiled together with the BatchNorm before it and has changed "
            "since; compile the model again"
        )
    return x, call


@torch.library.custom_op("pj::norm_moments", mutates_args=())
def moments_op(x: Tensor) -> Tensor:
    """Mean and biased variance of rows x [N, C, ...] by channel, float64 [2, C]."""
    x = x if leaky_native._dense(x) else x.contiguous()
    C = x.shape[1]
    call = Call(None, 1, x.stride(1) if C > 1 else max(x.numel(), 1), C)
    return torch.stack(moments(x, call))


@moments_op.register_fake
def _(x: Tensor) -> Tensor:
    return x.new_empty((2, x.shape[1]), dtype=torch.float64)


@torch.library.custom_op("pj::norm_leaky", mutates_args=())
def norm_op(
    x: Tensor,
    added: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    statistics: Tensor,
    eps: float,
    T: int,
    key: str,
    from_batch: bool,
) -> Tensor:
    """Spikes of the neuron `key` from rows x [T*B, C, ...], normalised by statistics [2, C], plus `added`."""
    rows, call = _call(x, T, key)
    channels = Channels.of(statistics[0], statistics[1], eps, weight, bias)
    return ordered(fire(rows, leaky_native._like(added, rows), call, channels), x)


@norm_op.register_fake
def _(
    x: Tensor,
    added: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    statistics: Tensor,
    eps: float,
    T: int,
    key: str,
    from_batch: bool,
) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("pj::norm_leaky_backward", mutates_args=())
def norm_backward_op(
    g: Tensor,
    x: Tensor,
    added: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    statistics: Tensor,
    eps: float,
    T: int,
    key: str,
    from_batch: bool,
    want_x: bool,
    want_added: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x and `added` (empty unless wanted), and [2, C]: those of bias and weight."""
    rows, call = _call(x, T, key)
    channels = Channels.of(statistics[0], statistics[1], eps, weight, bias)
    like: Any = leaky_native._like
    dx, dadded, sums = back(
        rows, like(added, rows), like(g, rows), channels, call, from_batch, want_x, want_added
    )
    none = x.new_empty(0)
    return (
        none if dx is None else ordered(dx, x),
        none.clone() if dadded is None or added is None else ordered(dadded, added),
        sums.float(),
    )


@norm_backward_op.register_fake
def _(
    g: Tensor,
    x: Tensor,
    added: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    statistics: Tensor,
    eps: float,
    T: int,
    key: str,
    from_batch: bool,
    want_x: bool,
    want_added: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        torch.empty_like(x) if want_x else x.new_empty(0),
        torch.empty_like(added) if want_added and added is not None else x.new_empty(0),
        x.new_empty((2, x.shape[1]), dtype=torch.float32),
    )


def _setup(ctx: Any, inputs: Any, output: Any) -> None:
    x, added, weight, bias, statistics, *ctx.rest = inputs
    ctx.save_for_backward(x, added, weight, bias, statistics)


def _backward(ctx: Any, g: Tensor) -> Any:
    wants = ctx.needs_input_grad
    dx, dadded, sums = norm_backward_op(g, *ctx.saved_tensors, *ctx.rest, wants[0], wants[1])
    return (
        dx if wants[0] else None,
        dadded if wants[1] else None,
        sums[1] if wants[2] else None,
        sums[0] if wants[3] else None,
        *(None,) * 5,
    )


norm_op.register_autograd(_backward, setup_context=_setup)


def norm_compiled(norm: Any, neuron: Any, x: Tensor, added: Tensor | None) -> Tensor:
    """neuron(norm(x) + added) through the operators, with the running statistics that the module keeps."""
    from_batch = norm.training or norm.running_mean is None
    with torch.no_grad():
        if from_batch:
            statistics = moments_op(x.detach())
            if norm.training:
                n = x.numel() // x.shape[1]
                track(norm, statistics[0], statistics[1] * (n / (n - 1)))
        else:
            kept: list[Any] = [norm.running_mean, norm.running_var]
            statistics = torch.stack(kept).double()
    return norm_op(
        x, added, norm.weight, norm.bias, statistics, norm.eps, int(neuron.T), neuron.leaf, from_batch
    )  # type: ignore[no-any-return]
