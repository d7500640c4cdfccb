"""snnTorch's neurons, whose reset acts one step later.

    mem[t] = beta mem[t-1] + x[t] - R v_th     subtract, R = [mem[t-1] > v_th]
    mem[t] = beta (1 - R) mem[t-1] + x[t]      zero
    s[t] = [mem[t] > v_th], the gradient never passes R

With h = mem this is the linear-charge core: the delayed subtraction, which is not decayed, is a soft reset by
v_th / beta in the same step, and "zero" is a hard reset to 0. The `h` of the operator is snnTorch's mem.
Without the delay (reset_delay=False) this is the plain soft reset; snnTorch agrees as long as no membrane
stays above v_th after its reset, where it holds back a spike.
Source: Eshraghian et al., Training Spiking Neural Networks Using Lessons From Deep Learning,
arXiv:2109.12894; compared with snnTorch 1.0 in the oracle tests.
"""

from __future__ import annotations

from torch import nn

from picojoule.neurons import surrogate as sg
from picojoule.neurons.fire import FireRule
from picojoule.neurons.leaky import LeakyNeuron, LeakyParams

MECHANISMS = {"subtract": "soft", "zero": "hard", "none": "none"}


class Leaky(LeakyNeuron):
    """snnTorch's Leaky.

    Args:
        T: steps.
        beta: decay a step, in [0, 1].
        v_th: threshold, fired strictly above it.
        reset: "subtract", "zero" or "none", snnTorch's names.
        reset_delay: reset at the next step, as snnTorch does by default.
        surrogate: name or Surrogate object.
        membrane_quant: module applied to the membrane after reset.
    """

    def __init__(
        self,
        T: int = 4,
        beta: float = 0.9,
        v_th: float = 1.0,
        *,
        reset: str = "subtract",
        reset_delay: bool = True,
        surrogate: sg.Surrogate | str = "atan",
        membrane_quant: nn.Module | None = None,
    ) -> None:
        super().__init__(T, membrane_quant)
        if reset not in MECHANISMS:
            raise ValueError(f"reset must be one of {', '.join(MECHANISMS)}, got {reset!r}")
        if not 0 <= beta <= 1:
            raise ValueError(f"beta must lie in [0, 1], got {beta}")
        if beta == 0 and reset == "subtract" and reset_delay:
            raise ValueError("beta=0 with a delayed subtraction has no form here; use reset_delay=False")
        self.beta, self.v_th, self.mechanism, self.reset_delay = beta, v_th, reset, reset_delay
        self.rule = FireRule(v_th=v_th, strict=True, surrogate=sg.get(surrogate))

    def params(self) -> LeakyParams:
        """Constants of the shared core."""
        amount = self.v_th / self.beta if self.reset_delay and self.mechanism == "subtract" else self.v_th
        return LeakyParams(
            decay=self.beta,
            rule=self.rule,
            reset=MECHANISMS[self.mechanism],
            reset_value=0.0 if self.mechanism == "zero" else amount,
            detach_reset=True,
        )

    def extra_repr(self) -> str:
        return f"T={self.T}, beta={self.beta:g}, v_th={self.v_th:g}, reset={self.mechanism!r}"
