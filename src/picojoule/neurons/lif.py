"""Leaky integrate-and-fire neurons, with the conventions of the published code families.

decay_input:     h[t] = v[t-1] + (x[t] - (v[t-1] - v_rest)) / tau
no decay_input:  h[t] = v[t-1] - (v[t-1] - v_rest) / tau + x[t]
s[t] = 1 if h[t] >= v_th (> when strict) else 0
"""

from __future__ import annotations

from torch import nn

from picojoule.neurons import surrogate as sg
from picojoule.neurons.fire import FireRule
from picojoule.neurons.leaky import LeakyNeuron, LeakyParams


class LIF(LeakyNeuron):
    """Leaky integrate-and-fire neuron; defaults as SpikingJelly's LIFNode.

    Args:
        T: steps.
        tau: time constant in steps, > 1.
        v_th: threshold, in the units of the current.
        v_reset: value after a spike (hard reset); None subtracts v_th instead (soft reset).
        reset: "hard", "soft" or "none"; None derives it from v_reset.
        decay_input: divide the current by tau.
        decay: factor per step, instead of tau: tau = 1 / (1 - decay).
        v_rest: value the membrane leaks to and starts from; None means v_reset (0 for a soft reset).
        strict: fire at h > v_th instead of h >= v_th.
        detach_reset: no gradient through the reset.
        surrogate: name or Surrogate object.
        membrane_quant: module applied to the membrane after reset.
    """

    def __init__(
        self,
        T: int = 4,
        tau: float = 2.0,
        v_th: float = 1.0,
        v_reset: float | None = 0.0,
        *,
        reset: str | None = None,
        decay_input: bool = True,
        decay: float | None = None,
        v_rest: float | None = None,
        strict: bool = False,
        detach_reset: bool = False,
        surrogate: sg.Surrogate | str = "sigmoid",
        membrane_quant: nn.Module | None = None,
    ) -> None:
        super().__init__(T, membrane_quant)
        if decay is None:
            if tau <= 1 and not (tau == 1 and decay_input):
                raise ValueError(f"tau must be above 1 step, got {tau}; use IF for no leak")
            decay = 1 - 1 / tau
        elif not 0 <= decay < 1:
            raise ValueError(f"decay must lie in [0, 1), got {decay}; use IF for no leak")
        self.decay, self.v_th, self.v_reset = decay, v_th, v_reset
        self.v_rest = (v_reset or 0.0) if v_rest is None else v_rest
        self.reset = reset or ("soft" if v_reset is None else "hard")
        self.decay_input, self.detach_reset = decay_input, detach_reset
        self.rule = FireRule(v_th=v_th, strict=strict, surrogate=sg.get(surrogate))
        self.params()  # a wrong reset is refused here, not at the first call

    @property
    def tau(self) -> float:
        """Time constant in steps."""
        return 1 / (1 - self.decay)

    def params(self) -> LeakyParams:
        """Constants of the shared core."""
        return LeakyParams(
            decay=self.decay,
            gain=1 - self.decay if self.decay_input else 1.0,
            bias=self.v_rest * (1 - self.decay),
            rule=self.rule,
            reset=self.reset,
            reset_value=(self.v_reset or 0.0) if self.reset == "hard" else self.v_th,
            detach_reset=self.detach_reset,
            v_init=self.v_rest,
        )

    def extra_repr(self) -> str:
        return f"T={self.T}, tau={self.tau:.4g}, v_th={self.v_th}, reset={self.reset!r}"
