"""Current-based LIF: a synaptic current with its own decay feeds the membrane.

    c[t] = c_decay c[t-1] + x[t],   h[t] = v_decay v[t-1] + c[t],   s[t] = 1 if h[t] >= v_th else 0

A spike resets the membrane only, never the current. Defaults as SpikingJelly's CUBALIFNode (Lava's equation);
snnTorch's Synaptic(alpha, beta, reset_delay=False) is c_decay=alpha, v_decay=beta, v_reset=None, strict.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from picojoule.neurons import surrogate as sg
from picojoule.neurons.step import ResetNeuron


class CUBAState(NamedTuple):
    """Membrane `v` and synaptic current `c`, both [B, ...]."""

    v: Tensor
    c: Tensor


class CUBA(ResetNeuron):
    """Current-based leaky integrate-and-fire neuron.

    Args:
        T: steps.
        c_decay: factor a step of the current.
        v_decay: factor a step of the membrane.
        v_th, v_reset, strict, detach_reset, surrogate, membrane_quant: as in LIF.
    """

    op_name = "cuba"

    def __init__(
        self,
        T: int = 4,
        c_decay: float = 0.5,
        v_decay: float = 0.75,
        v_th: float = 0.5,
        v_reset: float | None = 0.0,
        *,
        strict: bool = False,
        detach_reset: bool = False,
        surrogate: sg.Surrogate | str = "rect",
        membrane_quant: nn.Module | None = None,
    ) -> None:
        super().__init__(T, v_th, v_reset, strict, detach_reset, surrogate, membrane_quant)
        if not (0 <= c_decay <= 1 and 0 <= v_decay <= 1):
            raise ValueError(f"decays lie in [0, 1], got c_decay={c_decay}, v_decay={v_decay}")
        self.c_decay, self.v_decay = c_decay, v_decay

    def begin(self, x0: Tensor) -> CUBAState:
        return CUBAState(self.rest(x0), torch.zeros_like(x0))

    def step(self, x: Tensor, state: CUBAState) -> tuple[Tensor, CUBAState, Tensor]:
        c = self.c_decay * state.c + x
        h = self.v_decay * state.v + c
        s, v = self.fire_reset(h)
        return s, CUBAState(v, c), h

    def extra_repr(self) -> str:
        return f"T={self.T}, c_decay={self.c_decay:g}, v_decay={self.v_decay:g}, v_th={self.v_th:g}"
