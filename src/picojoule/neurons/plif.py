"""Parametric LIF: one learnable time constant a layer.

    1/tau = sigmoid(w),   otherwise as LIF
Source: Incorporating Learnable Membrane Time Constant to Enhance Learning of SNNs, arXiv:2007.05785.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from picojoule.neurons import surrogate as sg
from picojoule.neurons.fire import FireRule
from picojoule.neurons.leaky import LeakyNeuron, LeakyParams


class PLIF(LeakyNeuron):
    """LIF whose 1/tau = sigmoid(w) is learned, w a scalar that starts at -ln(init_tau - 1).

    Args:
        T: steps.
        init_tau: time constant at the start, in steps, > 1.
        v_th, v_reset, decay_input, strict, detach_reset, surrogate, membrane_quant: as in LIF.
    """

    def __init__(
        self,
        T: int = 4,
        init_tau: float = 2.0,
        v_th: float = 1.0,
        v_reset: float | None = 0.0,
        *,
        decay_input: bool = True,
        strict: bool = False,
        detach_reset: bool = False,
        surrogate: sg.Surrogate | str = "sigmoid",
        membrane_quant: nn.Module | None = None,
    ) -> None:
        super().__init__(T, membrane_quant)
        if init_tau <= 1:
            raise ValueError(f"init_tau must be above 1 step, got {init_tau}; use IF for no leak")
        self.w = nn.Parameter(torch.tensor(-math.log(init_tau - 1.0)))
        self.v_th, self.v_reset = v_th, v_reset
        self.decay_input, self.detach_reset = decay_input, detach_reset
        self.rule = FireRule(v_th=v_th, strict=strict, surrogate=sg.get(surrogate))

    @property
    def tau(self) -> float:
        """Time constant in steps."""
        return 1 / float(self.w.detach().double().sigmoid())

    def params(self) -> LeakyParams:
        """Constants of the shared core."""
        rate = self.w.sigmoid()
        rest = self.v_reset or 0.0
        return LeakyParams(
            decay=1 - rate,
            gain=rate if self.decay_input else 1.0,
            bias=rest * rate if rest else 0.0,
            rule=self.rule,
            reset="soft" if self.v_reset is None else "hard",
            reset_value=self.v_th if self.v_reset is None else rest,
            detach_reset=self.detach_reset,
            v_init=rest,
        )

    def extra_repr(self) -> str:
        return f"T={self.T}, tau={self.tau:.4g}, v_th={self.v_th}"
