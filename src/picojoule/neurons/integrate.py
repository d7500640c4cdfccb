"""Integrate-and-fire neurons without leak.

h[t] = v[t-1] + x[t],   s[t] = 1 if h[t] >= v_th (> when strict) else 0
"""

from __future__ import annotations

from torch import nn

from picojoule.neurons import surrogate as sg
from picojoule.neurons.fire import FireRule
from picojoule.neurons.leaky import LeakyNeuron, LeakyParams


class IF(LeakyNeuron):
    """Integrate-and-fire neuron; defaults as SpikingJelly's IFNode.

    Args:
        T: steps.
        v_th: threshold, in the units of the current.
        v_reset: value after a spike (hard reset); None subtracts v_th instead (soft reset).
        reset: "hard", "soft" or "none"; None derives it from v_reset.
        v_init: membrane before the first step; None means v_reset (0 for a soft reset).
        strict: fire at h > v_th instead of h >= v_th.
        detach_reset: no gradient through the reset.
        surrogate: name or Surrogate object.
        membrane_quant: module applied to the membrane after reset.
    """

    def __init__(
        self,
        T: int = 4,
        v_th: float = 1.0,
        v_reset: float | None = 0.0,
        *,
        reset: str | None = None,
        v_init: float | None = None,
        strict: bool = False,
        detach_reset: bool = False,
        surrogate: sg.Surrogate | str = "sigmoid",
        membrane_quant: nn.Module | None = None,
    ) -> None:
        super().__init__(T, membrane_quant)
        self.v_th, self.v_reset = v_th, v_reset
        self.v_init = (v_reset or 0.0) if v_init is None else v_init
        self.reset = reset or ("soft" if v_reset is None else "hard")
        self.detach_reset = detach_reset
        self.rule = FireRule(v_th=v_th, strict=strict, surrogate=sg.get(surrogate))
        self.params()  # a wrong reset is refused here, not at the first call

    @classmethod
    def half_threshold(cls, T: int = 4, v_th: float = 1.0, surrogate: sg.Surrogate | str = "sigmoid") -> IF:
        """Soft reset and a membrane that starts at v_th / 2: rounds a constant current to the nearest rate,
        as conversion from conventional networks wants it."""
        return cls(T, v_th, None, v_init=v_th / 2, surrogate=surrogate)

    def params(self) -> LeakyParams:
        """Constants of the shared core."""
        return LeakyParams(
            decay=1.0,
            rule=self.rule,
            reset=self.reset,
            reset_value=(self.v_reset or 0.0) if self.reset == "hard" else self.v_th,
            detach_reset=self.detach_reset,
            v_init=self.v_init,
        )

    def extra_repr(self) -> str:
        return f"T={self.T}, v_th={self.v_th}, reset={self.reset!r}"
