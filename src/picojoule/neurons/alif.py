"""ALIF: a threshold that rises with recent spikes.

    h[t] = decay v[t-1] + x[t],   th[t] = v_th + adapt a[t-1],   s[t] = 1 if h[t] >= th[t] else 0
    v[t] = h[t] - s[t] th[t]      a[t] = a_decay a[t-1] + (1 - a_decay) s[t]

Source: Long short-term memory and learning-to-learn in networks of spiking neurons, arXiv:1803.09574;
reset by the threshold that was crossed as in Effective and Efficient Computation with Multiple-timescale
Spiking Recurrent Neural Networks, arXiv:2005.11633. Written from the equations, without a reference
implementation.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from picojoule.neurons import surrogate as sg
from picojoule.neurons.fire import heaviside
from picojoule.neurons.step import StepNeuron


class ALIFState(NamedTuple):
    """Membrane `v` and adaptation `a`, both [B, ...]."""

    v: Tensor
    a: Tensor


class ALIF(StepNeuron):
    """Adaptive-threshold leaky integrate-and-fire neuron with soft reset.

    Args:
        T: steps.
        decay: factor a step of the membrane.
        v_th: resting threshold.
        adapt: rise of the threshold for an adaptation of 1.
        a_decay: factor a step of the adaptation, close to 1.
        strict: fire at h > th instead of h >= th.
        detach_reset: no gradient through the reset.
        surrogate: name or Surrogate object.
        membrane_quant: module applied to the membrane after reset.
    """

    op_name = "alif"

    def __init__(
        self,
        T: int = 4,
        decay: float = 0.5,
        v_th: float = 1.0,
        *,
        adapt: float = 1.8,
        a_decay: float = 0.95,
        strict: bool = False,
        detach_reset: bool = False,
        surrogate: sg.Surrogate | str = "sigmoid",
        membrane_quant: nn.Module | None = None,
    ) -> None:
        super().__init__(T, membrane_quant)
        if not (0 <= decay <= 1 and 0 <= a_decay <= 1):
            raise ValueError(f"decays lie in [0, 1], got decay={decay}, a_decay={a_decay}")
        self.decay, self.v_th, self.adapt, self.a_decay = decay, v_th, adapt, a_decay
        self.strict, self.detach_reset = strict, detach_reset
        self.surrogate = sg.get(surrogate)

    def begin(self, x0: Tensor) -> ALIFState:
        return ALIFState(torch.zeros_like(x0), torch.zeros_like(x0))

    def step(self, x: Tensor, state: ALIFState) -> tuple[Tensor, ALIFState, Tensor]:
        h = self.decay * state.v + x
        th = self.v_th + self.adapt * state.a
        s = heaviside(h - th, self.surrogate, self.strict)
        r = s.detach() if self.detach_reset else s
        v = h - r * th
        if self.membrane_quant is not None:
            v = self.membrane_quant(v)
        return s, ALIFState(v, self.a_decay * state.a + (1 - self.a_decay) * s), h

    def extra_repr(self) -> str:
        return f"T={self.T}, decay={self.decay:g}, v_th={self.v_th:g}, adapt={self.adapt:g}"
