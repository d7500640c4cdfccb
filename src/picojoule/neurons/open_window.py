"""Where a neuron's surrogate has a slope: published with its spikes, so that the layer behind it can leave
out input gradients that the neuron would multiply by zero.

A surrogate with a compact window (rectangle, triangle, the interval [0, D] of integer neurons) passes
gradient only where the membrane h before firing lies inside. Everywhere else dL/ds is never read, whatever
it is. The window travels as bits on the tensor of spikes and is forgotten when that tensor is changed in
place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from picojoule.neurons import leaky_native
from picojoule.neurons.leaky import LeakyNeuron
from picojoule.neurons.leaky_kernel import LeakyParams

_NAME = "_picojoule_window"
SAMPLES = 8  # one of so many is looked at first
_MARGIN = 1e-5  # rounding of h - v_th and of the slope itself may open a window by less than this


@dataclass(frozen=True, slots=True)
class Window:
    """Positions with a slope, as bits.

    Fields:
        bits: uint8, like the planes of `layers.event_bits.Bits`.
        axis: the axis of the spikes whose values lie side by side in the bits: 1 of [N, C, H, W], else -1.
        rate: share of open positions.
        version: state of the spikes that it belongs to.
    """

    bits: Tensor
    axis: int
    rate: float
    version: int


def window_of(spikes: Tensor, axis: int) -> Window | None:
    """The window published with this very tensor, if it is still valid and its bits run along `axis`."""
    found: Window | None = getattr(spikes, _NAME, None)
    if found is None or found.version != spikes._version or found.axis != axis:
        return None
    return found


def bounds(p: LeakyParams) -> tuple[float, float] | None:
    """(centre, half) of the interval of h outside which the slope is zero; None where it is not bounded, or
    is two intervals (ternary neurons)."""
    if p.rule.kind.name == "integer":
        half = p.rule.kind.levels / 2
        return half, half * (1 + _MARGIN)
    half = p.rule.surrogate.window
    if p.rule.kind.name != "binary" or not math.isfinite(half):
        return None
    return p.rule.v_th, half * (1 + _MARGIN) + _MARGIN * abs(p.rule.v_th)


class OpenSpikes:
    """Stands in for `neuron.spikes` and publishes the window of what it returns.

    Windows open at more than the share `most` are of no use to the layers behind; where a few samples of the
    batch say so, the others are not looked at. That depends on the values alone, so a run can be repeated.
    """

    def __init__(self, neuron: LeakyNeuron, most: float = 1.0) -> None:
        self.neuron, self.most = neuron, most

    def __call__(self, x: Tensor, T: int) -> Tensor:
        neuron = self.neuron
        spikes = type(neuron).spikes(neuron, x, T)
        if (
            torch.compiler.is_compiling()
            or not spikes.requires_grad
            or spikes.dtype != torch.float32
            or neuron.membrane_quant is not None
        ):
            return spikes
        p = neuron.params()
        limits = bounds(p)
        if limits is not None and (self.most >= 1 or _share(x.detach(), p, T, limits) <= self.most):
            _publish(spikes, x.detach(), p, T, limits)
        return spikes


def _share(x: Tensor, p: LeakyParams, T: int, limits: tuple[float, float]) -> float:
    """Share of open windows in an eighth of the samples; 0 for small batches, which are looked at whole."""
    some = x.shape[0] // T // SAMPLES
    if not some:
        return 0.0
    part = x.unflatten(0, (T, -1))[:, :some].flatten(0, 1)
    h = leaky_native.membranes(part, p, T)
    if h is None:
        return 0.0
    centre, half = limits
    return float(((h - centre).abs_() <= half).float().mean())


def _publish(spikes: Tensor, x: Tensor, p: LeakyParams, T: int, limits: tuple[float, float]) -> None:
    h = leaky_native.membranes(x, p, T)
    if h is None:
        return
    native: Any = leaky_native._native
    if h.dim() == 4:
        n, c, rows, columns = h.shape
        last = h.is_contiguous(memory_format=torch.channels_last)
        if not last and not h.is_contiguous():
            return
        layout, axis = (n, rows * columns, c, not last and rows * columns > 1), 1
    elif h.is_contiguous():
        layout, axis = (1, h.numel() // h.shape[-1], h.shape[-1], False), -1
    else:
        return
    plane = layout[0] * layout[1] * ((layout[2] + 7) // 8)
    bits = torch.empty(plane + native.EVENT_SLACK, dtype=torch.uint8)
    threads = torch.get_num_threads()
    count = native.pack_window(h.data_ptr(), layout, *limits, True, bits.data_ptr(), threads)
    setattr(spikes, _NAME, Window(bits, axis, count / h.numel(), spikes._version))


def publish_windows_(module: nn.Module, on: bool, most: float = 1.0) -> None:
    """Let a neuron with a compact window publish it where at most the share `most` is open, or stop it; other
    modules are left alone."""
    if not isinstance(module, LeakyNeuron):
        return
    if on and leaky_native.AVAILABLE and bounds(module.params()) is not None:
        module.__dict__["spikes"] = OpenSpikes(module, most)
    elif isinstance(module.__dict__.get("spikes"), OpenSpikes):
        del module.__dict__["spikes"]
