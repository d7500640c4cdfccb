"""KLIF: LIF whose membrane is scaled by a learned k and rectified before firing.

    u[t] = LIF charge,   h[t] = relu(k u[t]),   s[t] = 1 if h[t] >= v_th else 0
    reset on h, or (scale_reset) on h / k with threshold v_th / k

The rectified membrane carries over steps, so KLIF has no packed form.
Source: KLIF: An optimized spiking neuron unit, arXiv:2302.09238.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from picojoule.neurons import surrogate as sg
from picojoule.neurons.base import Membrane
from picojoule.neurons.step import ResetNeuron


class KLIF(ResetNeuron):
    """KLIF neuron with one learned scale `k` a layer, starting at 1.

    Args:
        T: steps.
        tau: time constant in steps, > 1.
        v_th, v_reset, decay_input, strict, detach_reset, surrogate, membrane_quant: as in LIF.
        scale_reset: divide the membrane by k after firing.
    """

    op_name = "klif"

    def __init__(
        self,
        T: int = 4,
        tau: float = 2.0,
        v_th: float = 1.0,
        v_reset: float | None = 0.0,
        *,
        scale_reset: bool = False,
        decay_input: bool = True,
        strict: bool = False,
        detach_reset: bool = False,
        surrogate: sg.Surrogate | str = "sigmoid",
        membrane_quant: nn.Module | None = None,
    ) -> None:
        super().__init__(T, v_th, v_reset, strict, detach_reset, surrogate, membrane_quant)
        if tau <= 1:
            raise ValueError(f"tau must be above 1 step, got {tau}")
        self.tau, self.scale_reset, self.decay_input = tau, scale_reset, decay_input
        self.k = nn.Parameter(torch.tensor(1.0))

    def begin(self, x0: Tensor) -> Membrane:
        return Membrane(self.rest(x0))

    def step(self, x: Tensor, state: Membrane) -> tuple[Tensor, Membrane, Tensor]:
        leak = (state.v - (self.v_reset or 0.0)) / self.tau
        u = state.v - leak + (x / self.tau if self.decay_input else x)
        h = torch.relu(self.k * u)
        s, v = self.fire_reset(h, 1 / self.k if self.scale_reset else 1.0)
        return s, Membrane(v), h

    def extra_repr(self) -> str:
        return f"T={self.T}, tau={self.tau:g}, v_th={self.v_th:g}, scale_reset={self.scale_reset}"
