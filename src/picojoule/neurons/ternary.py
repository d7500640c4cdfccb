"""Ternary neurons: spikes of either sign.

h[t] = decay * v[t-1] + x[t],   s[t] = [h >= v_th] - [h <= -v_th],   v[t] = h (1 - |s|)
"""

from __future__ import annotations

from torch import nn

from picojoule.core.kinds import ternary
from picojoule.neurons import surrogate as sg
from picojoule.neurons.fire import FireRule
from picojoule.neurons.leaky import LeakyNeuron, LeakyParams


class TernaryLIF(LeakyNeuron):
    """Leaky neuron with spikes in {-1, 0, 1}.

    Args:
        T: steps.
        decay: factor per step.
        v_th: threshold on |h|, > 0.
        reset: "hard" (to 0), "soft" (by s * v_th) or "none".
        strict: fire at |h| > v_th instead of |h| >= v_th.
        detach_reset: no gradient through the reset.
        surrogate: name or Surrogate object.
        membrane_quant: module applied to the membrane after reset.
    """

    kind = ternary

    def __init__(
        self,
        T: int = 4,
        decay: float = 0.5,
        v_th: float = 0.5,
        *,
        reset: str = "hard",
        strict: bool = False,
        detach_reset: bool = False,
        surrogate: sg.Surrogate | str = "rect",
        membrane_quant: nn.Module | None = None,
    ) -> None:
        super().__init__(T, membrane_quant)
        if v_th <= 0:
            raise ValueError(f"a ternary threshold must be positive, got {v_th}")
        self.decay, self.v_th, self.reset, self.detach_reset = decay, v_th, reset, detach_reset
        self.rule = FireRule(kind=ternary, v_th=v_th, strict=strict, surrogate=sg.get(surrogate))
        self.params()  # a wrong reset is refused here, not at the first call

    def params(self) -> LeakyParams:
        """Constants of the shared core."""
        return LeakyParams(
            decay=self.decay,
            rule=self.rule,
            reset=self.reset,
            reset_value=0.0 if self.reset == "hard" else self.v_th,
            detach_reset=self.detach_reset,
        )

    def extra_repr(self) -> str:
        return f"T={self.T}, decay={self.decay:g}, v_th={self.v_th:g}, reset={self.reset!r}"
