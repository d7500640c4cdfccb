"""Nonlinear integrate-and-fire neurons: quadratic and exponential.

    QIF:  h = v + (x + a0 (v - v_rest)(v - v_c)) / tau
    EIF:  h = v + (x + v_rest - v + delta_T exp((v - theta_rh) / delta_T)) / tau
    s = 1 if h >= v_th else 0; the membrane starts at v_reset (0 for a soft reset)

Source: Gerstner et al., Neuronal Dynamics, ch. 5; defaults as SpikingJelly's QIFNode and EIFNode.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from picojoule.neurons import surrogate as sg
from picojoule.neurons.base import Membrane
from picojoule.neurons.step import ResetNeuron


class QIF(ResetNeuron):
    """Quadratic integrate-and-fire neuron.

    Args:
        T: steps.
        tau: time constant in steps.
        v_c, a0, v_rest: critical voltage, curvature (> 0) and rest of the parabola.
        v_th, v_reset, strict, detach_reset, surrogate, membrane_quant: as in LIF.
    """

    op_name = "qif"

    def __init__(
        self,
        T: int = 4,
        tau: float = 2.0,
        v_c: float = 0.8,
        a0: float = 1.0,
        *,
        v_th: float = 1.0,
        v_rest: float = 0.0,
        v_reset: float | None = -0.1,
        strict: bool = False,
        detach_reset: bool = False,
        surrogate: sg.Surrogate | str = "sigmoid",
        membrane_quant: nn.Module | None = None,
    ) -> None:
        super().__init__(T, v_th, v_reset, strict, detach_reset, surrogate, membrane_quant)
        if a0 <= 0 or tau <= 0:
            raise ValueError(f"a0 and tau must be positive, got a0={a0}, tau={tau}")
        self.tau, self.v_c, self.a0, self.v_rest = tau, v_c, a0, v_rest

    def begin(self, x0: Tensor) -> Membrane:
        return Membrane(self.rest(x0))

    def step(self, x: Tensor, state: Membrane) -> tuple[Tensor, Membrane, Tensor]:
        v = state.v
        h = v + (x + self.a0 * (v - self.v_rest) * (v - self.v_c)) / self.tau
        s, v = self.fire_reset(h)
        return s, Membrane(v), h

    def extra_repr(self) -> str:
        return f"T={self.T}, tau={self.tau:g}, v_c={self.v_c:g}, a0={self.a0:g}, v_th={self.v_th:g}"


class EIF(ResetNeuron):
    """Exponential integrate-and-fire neuron.

    Args:
        T: steps.
        tau: time constant in steps.
        delta_T: sharpness of the upswing (> 0).
        theta_rh: rheobase threshold.
        v_th, v_rest, v_reset, strict, detach_reset, surrogate, membrane_quant: as in QIF.
    """

    op_name = "eif"

    def __init__(
        self,
        T: int = 4,
        tau: float = 2.0,
        delta_T: float = 1.0,
        theta_rh: float = 0.8,
        *,
        v_th: float = 1.0,
        v_rest: float = 0.0,
        v_reset: float | None = -0.1,
        strict: bool = False,
        detach_reset: bool = False,
        surrogate: sg.Surrogate | str = "sigmoid",
        membrane_quant: nn.Module | None = None,
    ) -> None:
        super().__init__(T, v_th, v_reset, strict, detach_reset, surrogate, membrane_quant)
        if delta_T <= 0 or tau <= 0:
            raise ValueError(f"delta_T and tau must be positive, got delta_T={delta_T}, tau={tau}")
        self.tau, self.delta_T, self.theta_rh, self.v_rest = tau, delta_T, theta_rh, v_rest

    def begin(self, x0: Tensor) -> Membrane:
        return Membrane(self.rest(x0))

    def step(self, x: Tensor, state: Membrane) -> tuple[Tensor, Membrane, Tensor]:
        v = state.v
        upswing = self.delta_T * torch.exp((v - self.theta_rh) / self.delta_T)
        h = v + (x + self.v_rest - v + upswing) / self.tau
        s, v = self.fire_reset(h)
        return s, Membrane(v), h

    def extra_repr(self) -> str:
        return f"T={self.T}, tau={self.tau:g}, delta_T={self.delta_T:g}, v_th={self.v_th:g}"
