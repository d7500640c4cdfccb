"""Integer neurons: trained with spike counts 0..D, run as D virtual binary steps.

    h[t] = decay * (h[t-1] - n[t-1]) + gain * x[t],   n[t] = round(clamp(h[t], 0, D)),   s[t] = n[t] / N

Integer training equals binary inference over virtual steps; `expand()` gives those steps (see expand.py).
Sources: SpikeYOLO (I-LIF) arXiv:2407.20708; Spike2Former (NI-LIF) arXiv:2412.14587; Spike-driven Transformer
V3 (SFA) arXiv:2411.16061; QSD-Transformer (IE-LIF) arXiv:2501.13492.
"""

from __future__ import annotations

from torch import nn

from picojoule.core.errors import ShapeError
from picojoule.core.kinds import integer
from picojoule.neurons.fire import FireRule
from picojoule.neurons.leaky import LeakyNeuron, LeakyParams


class ILIF(LeakyNeuron):
    """I-LIF: a leaky neuron that emits a spike count, with soft reset by the count (detached).

    Args:
        T: steps.
        D: cap, the number of virtual binary steps.
        N: norm, the output is n / N.
        decay: factor per step, 0 keeps no memory.
        rounding: "half_even" (torch.round, as the official code) or "half_up".
        open_window: derivative 1 on (0, D) instead of [0, D].
        detach_reset: no gradient through the reset.
        membrane_quant: module applied to the membrane after reset.
    """

    def __init__(
        self,
        T: int = 4,
        D: int = 4,
        N: float = 1.0,
        *,
        decay: float = 0.25,
        rounding: str = "half_even",
        open_window: bool = False,
        detach_reset: bool = True,
        membrane_quant: nn.Module | None = None,
    ) -> None:
        super().__init__(T, membrane_quant)
        if D < 1:
            raise ShapeError(f"D must be at least 1 virtual step, got {D}")
        if not 0 <= decay <= 1:
            raise ValueError(f"decay must lie in [0, 1], got {decay}")
        if N <= 0:
            raise ValueError(f"the norm N must be positive, got {N}")
        self.kind = integer(D)
        self.D, self.N, self.decay, self.detach_reset = D, N, decay, detach_reset
        self.gain = 1.0
        self.rule = FireRule(kind=self.kind, rounding=rounding, open_window=open_window)

    def params(self) -> LeakyParams:
        """Constants of the shared core."""
        return LeakyParams(
            decay=self.decay,
            gain=self.gain,
            rule=self.rule,
            reset="soft",
            reset_value=1.0,
            detach_reset=self.detach_reset,
            out_scale=1 / self.N,
        )

    def extra_repr(self) -> str:
        return f"T={self.T}, D={self.D}, N={self.N:g}, decay={self.decay:g}, rounding={self.rule.rounding!r}"


class NILIF(ILIF):
    """NI-LIF: s = round(clamp(x, 0, D)) / N, no memory between steps unless `decay` is given.

    Args:
        T: steps.
        D: cap, the number of virtual binary steps.
        N: norm; None means D, so that outputs lie in [0, 1].
        decay, rounding, open_window: as in ILIF.
    """

    def __init__(
        self,
        T: int = 1,
        D: int = 4,
        N: float | None = None,
        *,
        decay: float = 0.0,
        rounding: str = "half_even",
        open_window: bool = False,
    ) -> None:
        super().__init__(T, D, D if N is None else N, decay=decay, rounding=rounding, open_window=open_window)


class SFA(NILIF):
    """Spike firing approximation of Spike-driven Transformer V3: NI-LIF; large models use the open window."""


class IELIF(ILIF):
    """IE-LIF of QSD-Transformer: s = floor(clamp(D x, 0, D) + 1/2) / N, derivative D/N on 0 < D x < D.

    Args:
        T: steps.
        D: cap.
        N: norm; None means D. The attention branch of the official code divides by 2.
    """

    def __init__(self, T: int = 1, D: int = 4, N: float | None = None) -> None:
        super().__init__(T, D, D if N is None else N, decay=0.0, rounding="half_up", open_window=True)
        self.gain = float(D)
