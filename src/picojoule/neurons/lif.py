"""Leaky integrate-and-fire neurons, with the conventions of the published code families.

    decay_input:     h[t] = v[t-1] + (x[t] - (v[t-1] - v_reset)) / tau
    no decay_input:  h[t] = v[t-1] - (v[t-1] - v_reset) / tau + x[t]
    s[t] = 1 if h[t] >= v_th (> when strict) else 0
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from picojoule.core.spec import NeuronSpec, spec
from picojoule.neurons import surrogate as sg
from picojoule.neurons.base import Fired, Neuron
from picojoule.neurons.leaky import FireRule, LeakyParams, leaky


class LIF(Neuron):
    """Leaky integrate-and-fire neuron; defaults as SpikingJelly's LIFNode.

    Args:
        T: steps.
        tau: time constant in steps, > 1.
        v_th: threshold, in the units of the current.
        v_reset: value after a spike (hard reset); None subtracts v_th instead (soft reset).
        reset: "hard", "soft" or "none"; None derives it from v_reset.
        decay_input: divide the current by tau.
        strict: fire at h > v_th instead of h >= v_th.
        detach_reset: no gradient through the reset.
        surrogate: name or Surrogate object.
        membrane_quant: module applied to the membrane after reset.
    """

    op_name = "leaky"

    def __init__(
        self,
        T: int = 4,
        tau: float = 2.0,
        v_th: float = 1.0,
        v_reset: float | None = 0.0,
        *,
        reset: str | None = None,
        decay_input: bool = True,
        strict: bool = False,
        detach_reset: bool = False,
        surrogate: sg.Surrogate | str = "sigmoid",
        membrane_quant: nn.Module | None = None,
    ) -> None:
        super().__init__(T, membrane_quant)
        if tau <= 1 and not (tau == 1 and decay_input):
            raise ValueError(f"tau must be above 1 step, got {tau}; use IF for no leak")
        self.tau, self.v_th, self.v_reset = tau, v_th, v_reset
        self.reset = reset or ("soft" if v_reset is None else "hard")
        self.decay_input, self.detach_reset = decay_input, detach_reset
        self.rule = FireRule(v_th=v_th, strict=strict, surrogate=sg.get(surrogate))

    def params(self) -> LeakyParams:
        """Constants of the shared core."""
        rest = self.v_reset or 0.0
        return LeakyParams(
            decay=1 - 1 / self.tau,
            gain=1 / self.tau if self.decay_input else 1.0,
            bias=rest / self.tau,
            rule=self.rule,
            reset=self.reset,
            reset_value=rest if self.reset == "hard" else self.v_th,
            detach_reset=self.detach_reset,
            v_init=rest,
        )

    def run(self, x: Tensor, T: int, state: Any = None, want_h: bool = False) -> Fired:
        """See Neuron.run."""
        return leaky(x, T, state, self.params(), self.membrane_quant, want_h)

    def lower(self) -> NeuronSpec:
        """Constants for packing."""
        p = self.params()
        quant: Any = self.membrane_quant
        return spec(
            self.kind,
            decay=p.decay,
            gain=p.gain,
            bias=p.bias,
            thresholds=self.v_th,
            strict=self.rule.strict,
            reset=p.reset,
            reset_value=p.reset_value,
            v_init=p.v_init,
            table=quant.table() if quant is not None else None,
        )

    def extra_repr(self) -> str:
        return f"T={self.T}, tau={self.tau}, v_th={self.v_th}, reset={self.reset!r}"
