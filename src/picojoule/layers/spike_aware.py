"""`spike_aware_(model)`: ordinary convolutions and linear layers that train on spikes, in place."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from picojoule.core.errors import ConfigError
from picojoule.layers.event_conv import LEAST_CHANNELS, EventLimits, event_conv, limits_for
from picojoule.layers.event_op import event_op
from picojoule.layers.event_pool import EventPool
from picojoule.layers.event_pool import fits as pool_fits
from picojoule.layers.event_reference import Geometry
from picojoule.neurons.open_window import publish_windows_, window_of
from picojoule.neurons.spike_bits import publish_bits_

M = TypeVar("M", bound=nn.Module)
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)


def spike_aware_(model: M, on: bool = True, *, limits: EventLimits | None = None) -> M:
    """Let a model's nn.Linear, nn.Conv1d, nn.Conv2d and nn.MaxPool2d train on spikes, in place.

    Their forward pass and weight gradient then cost in proportion to the spikes, input gradients are left out
    where the neuron before has no slope, and spikes are kept as bits until the backward pass. Values and
    gradients are those of the ordinary layers up to the order of sums, in float32 on the CPU; everything else
    (other types and devices, autocast, inputs that are no spikes or too dense) takes the ordinary way. Module
    types, parameters, state dict, hooks, parametrizations, copies, pickles, export and capture stay as they
    were; a second derivative through such a layer is refused.

    Args:
        model: any module; its layers are found by type.
        on: False undoes it.
        limits: densities up to which events are used; None takes measured ones.
    Returns:
        the same model.
    Raises:
        ConfigError: a limit outside [0, 1].

    >>> layer = spike_aware_(nn.Linear(64, 32))
    >>> type(layer).__name__, is_spike_aware(layer)
    ('Linear', True)
    >>> is_spike_aware(spike_aware_(layer, False))
    False
    """
    limits = limits or EventLimits()
    for name in ("forward", "weight", "input"):
        value = getattr(limits, name)
        if value is not None and not 0 <= value <= 1:
            raise ConfigError(
                f"EventLimits.{name} must lie in [0, 1], got {value}; None takes the measured one"
            )
    for module in model.modules():
        if isinstance(module, (*LAYERS, nn.MaxPool2d)):
            pool = isinstance(module, nn.MaxPool2d)
            if on and (pool_fits(module) if pool else _fits(module)):
                module.__dict__["forward"] = EventPool(module) if pool else EventForward(module, limits)
            elif not on and is_spike_aware(module):
                del module.__dict__["forward"]
        else:
            publish_bits_(module, on)
            publish_windows_(module, on, limits_for((3, 3), (1, 1), limits)[2])  # the largest of all
    return model


def is_spike_aware(module: nn.Module) -> bool:
    """True for a layer that `spike_aware_` has switched on."""
    return isinstance(module.__dict__.get("forward"), EventForward | EventPool)


def _fits(module: Any) -> bool:
    """Layers that the kernels can serve; the others, and those with a forward of their own, stay."""
    own = module.__dict__.get("forward")
    if own is not None and not isinstance(own, EventForward):
        return False
    if type(module).forward not in {kind.forward for kind in LAYERS}:
        return False  # a subclass that computes something else
    if isinstance(module, nn.Linear):
        return module.out_features >= LEAST_CHANNELS
    return module.out_channels // module.groups >= LEAST_CHANNELS and _padding(module) is not None


def _padding(module: Any) -> tuple[int, ...] | None:
    """Padding on each side by axis, or None where the sides differ."""
    if not isinstance(module.padding, str):
        return tuple(module.padding)
    if module.padding == "valid":
        return (0,) * len(module.kernel_size)
    spans = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size)]
    return None if any(s % 2 for s in spans) else tuple(s // 2 for s in spans)


class EventForward:
    """Stands in for `forward` of a layer that it does not otherwise change."""

    def __init__(self, module: nn.Module, limits: EventLimits) -> None:
        self.module, self.limits = module, limits

    def __call__(self, x: Tensor) -> Tensor:
        module: Any = self.module
        if torch.compiler.is_exporting():
            return type(module).forward(module, x)
        if isinstance(module, nn.Linear):
            return _linear(module, x, self.limits)
        flat = isinstance(module, nn.Conv1d)
        if x.dim() != (3 if flat else 4):  # a single sample
            return type(module).forward(module, x)
        padding = _padding(module)
        if padding is None:
            return type(module).forward(module, x)
        window = None if flat else window_of(x, 1)
        if module.padding_mode != "zeros":
            x = F.pad(x, module._reversed_padding_repeated_twice, mode=module.padding_mode)
            padding, window = (0,) * len(padding), None
        weight = module.weight
        if not flat:
            geo = Geometry(module.stride, padding, module.dilation, module.groups)  # type: ignore[arg-type]
            return _run(x, weight, module.bias, geo, self.limits, window)
        geo = Geometry((1, *module.stride), (0, *padding), (1, *module.dilation), module.groups)  # type: ignore[arg-type]
        return _run(x.unsqueeze(2), weight.unsqueeze(2), module.bias, geo, self.limits).squeeze(2)


def _linear(module: nn.Linear, x: Tensor, limits: EventLimits) -> Tensor:
    if x.dim() < 1 or x.shape[-1] != module.in_features or x.numel() == 0:
        return F.linear(x, module.weight, module.bias)
    rows = x.reshape(-1, x.shape[-1], 1, 1)
    y = _run(rows, module.weight[:, :, None, None], module.bias, Geometry(), limits, window_of(x, -1))
    return y.reshape(*x.shape[:-1], module.out_features)


def _run(
    x: Tensor, weight: Tensor, bias: Tensor | None, geo: Geometry, limits: EventLimits, window: Any = None
) -> Tensor:
    if torch.compiler.is_compiling():
        given = [-1.0 if v is None else v for v in (limits.forward, limits.weight)]
        return event_op(x, weight, bias, geo.stride, geo.padding, geo.dilation, geo.groups, given)
    return event_conv(x, weight, bias, geo, limits, window)
