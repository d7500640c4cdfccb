"""Membrane quantizers: a staircase applied to the membrane after reset, and its calibration.

Attached as `neuron.membrane_quant`; each has `forward(v)` with a straight-through gradient and `table()`, the
same staircase as constants for packing. Both sides compare and store the same numbers, so a lowered neuron
fires exactly as the trained one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from picojoule.compress.ste import straight_through
from picojoule.core.errors import ConfigError
from picojoule.core.registry import Registry
from picojoule.core.spec import MembraneTable
from picojoule.neurons.base import Neuron

MEMBRANES: Registry[Any] = Registry("membrane quantizer")
_SAMPLES = 4096


class MembraneQuantizer(nn.Module):
    """Base: `bits` a membrane, `set_limit(limit)` for its range, `forward(v)`, `table()`.

    While `observing`, forward returns its input and keeps a sample of |v| for `calibrate_membranes_`.
    """

    def __init__(self, bits: int, low: int = 2) -> None:
        super().__init__()
        if bits not in range(low, 17):
            raise ConfigError(f"membrane: bits must lie in {low}..16, got {bits}")
        self.bits = int(bits)
        self.observing = False
        self._seen: list[Tensor] = []

    def set_limit(self, limit: float) -> None:
        """Largest magnitude that is represented."""
        raise NotImplementedError(f"{type(self).__name__} must define set_limit")

    def quantize(self, v: Tensor) -> Tensor:
        """The staircase of v [B, ...], with its straight-through gradient."""
        raise NotImplementedError(f"{type(self).__name__} must define quantize")

    def table(self) -> MembraneTable:
        """The staircase as constants in float64."""
        raise NotImplementedError(f"{type(self).__name__} must define table")

    def forward(self, v: Tensor) -> Tensor:
        if self.observing:
            self._observe(v)
            return v
        return self.quantize(v)

    def _observe(self, v: Tensor) -> None:
        flat = v.detach().abs().flatten()
        stride = max(1, flat.numel() // _SAMPLES)
        self._seen.append(torch.cat((flat[::stride], flat.max().reshape(1))) if flat.numel() else flat)

    def finish(self, quantile: float) -> None:
        """Ends observing and sets the range to a quantile of the magnitudes seen."""
        seen = torch.cat(self._seen) if self._seen else torch.zeros(0)
        self._seen, self.observing = [], False
        if seen.numel():
            value = float(np.quantile(seen.double().cpu().numpy(), quantile))
            if value > 0:
                self.set_limit(value)

    def extra_repr(self) -> str:
        return f"bits={self.bits}"


@MEMBRANES.register("uniform")
class UniformMembrane(MembraneQuantizer):
    """Uniform b-bit membrane with a power-of-two step.

        step = 2^ceil(log2(limit / 2^(b-1)))
        q = clamp(floor(v / step + 1/2), -2^(b-1), 2^(b-1) - 1),   v_q = step q
        dv_q/dv = 1 where -2^(b-1) <= v / step <= 2^(b-1) - 1, else 0

    The power of two keeps the division exact in floating point and lets the step fold into a dyadic grid.

    Args:
        bits: b in 2..16.
        limit: magnitude to represent, in the units of the membrane.
    Source: uniform quantization with straight-through gradient; the step rule is ours.
    """

    step: Tensor

    def __init__(self, bits: int = 8, limit: float = 2.0) -> None:
        super().__init__(bits)
        self.low = -(1 << (self.bits - 1))
        self.high = -self.low - 1
        self.register_buffer("step", torch.ones(()))
        self.set_limit(limit)

    def set_limit(self, limit: float) -> None:
        if not (limit > 0 and math.isfinite(limit)):
            raise ConfigError(f"membrane: limit must be positive and finite, got {limit}")
        self.step.fill_(2.0 ** math.ceil(math.log2(limit / -self.low)))

    def quantize(self, v: Tensor) -> Tensor:
        step = self.step.to(v.dtype)
        z = v / step
        whole = z.floor()
        # floor(z + 1/2) would round z + 1/2 first and miss z just below a half.
        ints = (whole + (z - whole >= 0.5).to(v.dtype)).clamp(self.low, self.high)
        return straight_through(v, ints * step, (z >= self.low) & (z <= self.high))

    def table(self) -> MembraneTable:
        step = float(self.step)
        levels = np.arange(self.low, self.high + 1, dtype=np.float64)
        return MembraneTable(breaks=(levels[1:] - 0.5) * step, values=levels * step)


@MEMBRANES.register("tanh")
class TanhMembrane(MembraneQuantizer):
    """Membrane squashed by tanh and rounded to 2^b - 1 symmetric levels, with a frozen range.

        q = round(clamp(tanh(v) / a, -1, 1) (2^(b-1) - 1)),   v_q = q a / (2^(b-1) - 1)
        dv_q/dv = 1 - tanh^2(v) where |tanh(v)| <= a, else 0

    The published code takes a = max|tanh v| of the batch, so that its outputs depend on the batch; here `a`
    is tanh(limit), set once. Comparisons are made on v against stored breaks, the same in training and
    packed. Because of the tanh a channel's scale does not fold into its threshold.

    Args:
        bits: b in 2..16.
        limit: magnitude of v that reaches the last level.
    Source: Q-SNN, arXiv:2406.13672, membrane path.
    """

    breaks: Tensor
    values: Tensor

    def __init__(self, bits: int = 8, limit: float = 4.0) -> None:
        super().__init__(bits)
        count = (1 << self.bits) - 1
        self.register_buffer("breaks", torch.zeros(count - 1))
        self.register_buffer("values", torch.zeros(count))
        self.set_limit(limit)

    def set_limit(self, limit: float) -> None:
        if not (limit > 0 and math.isfinite(limit)):
            raise ConfigError(f"membrane: limit must be positive and finite, got {limit}")
        top = (1 << (self.bits - 1)) - 1
        levels = torch.arange(-top, top + 1, dtype=torch.float64)
        a = math.tanh(limit)
        self.breaks.copy_(torch.atanh((levels[1:] - 0.5) * (a / top)))
        self.values.copy_(levels * (a / top))

    def quantize(self, v: Tensor) -> Tensor:
        index = torch.bucketize(v.detach(), self.breaks.to(v.dtype), right=True)
        squashed = torch.tanh(v)
        inside = squashed.detach().abs() <= self.values[-1].to(v.dtype)
        return straight_through(squashed, self.values.to(v.dtype)[index], inside)

    def table(self) -> MembraneTable:
        return MembraneTable(
            breaks=self.breaks.double().cpu().numpy().copy(), values=self.values.double().cpu().numpy().copy()
        )


def attach_membrane_(neuron: nn.Module, quantizer: MembraneQuantizer) -> nn.Module:
    """Attaches a membrane quantizer to a neuron in place, replacing none.

    Raises:
        ConfigError: not a neuron, or one that is quantized already.
    """
    if not isinstance(neuron, Neuron):
        raise ConfigError(f"membrane quantizers attach to neurons, not to {type(neuron).__name__}")
    if neuron.membrane_quant is not None:
        raise ConfigError(f"the membrane of this {type(neuron).__name__} is quantized already")
    neuron.membrane_quant = quantizer
    return neuron


def default_limit(neuron: Neuron) -> float:
    """Twice the largest threshold of a neuron that can be lowered, else 2."""
    if not neuron.packable:
        return 2.0
    return 2.0 * float(np.abs(neuron.lower().thresholds).max())


def membranes(model: nn.Module) -> list[tuple[str, MembraneQuantizer]]:
    """(neuron path, quantizer) of every neuron with a quantized membrane."""
    found = []
    for path, module in model.named_modules():
        quantizer = getattr(module, "membrane_quant", None)
        if isinstance(quantizer, MembraneQuantizer):
            found.append((path, quantizer))
    return found


@torch.no_grad()
def calibrate_membranes_(model: nn.Module, batches: Iterable[Tensor], quantile: float = 0.999) -> nn.Module:
    """Sets every membrane range from data: a quantile of |v| after reset, with quantization switched off.

    Args:
        batches: inputs of the model, training data.
        quantile: in (0, 1]; 1 takes the largest magnitude.
    """
    if not 0 < quantile <= 1:
        raise ConfigError(f"calibrate_membranes_: quantile must lie in (0, 1], got {quantile}")
    found = [quantizer for _, quantizer in membranes(model)]
    if not found:
        raise ConfigError("calibrate_membranes_: no neuron of this model has a membrane quantizer")
    training = {module: module.training for module in model.modules()}
    model.eval()
    for quantizer in found:
        quantizer.observing = True
    try:
        for batch in batches:
            model(batch)
    finally:
        for module, mode in training.items():
            module.training = mode
        for quantizer in found:
            quantizer.finish(quantile)
    return model
