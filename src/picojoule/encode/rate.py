"""Rate codes: a value in [0, 1] becomes the share of steps with a spike."""

from __future__ import annotations

import torch
from torch import Tensor

from picojoule import timeline
from picojoule.core.errors import KindError
from picojoule.encode.base import Encoder, check_steps, check_unit, straight_through
from picojoule.encode.counter import uniform


def poisson(x: Tensor, T: int, *, seed: int = 0, index: Tensor | None = None, start: int = 0) -> Tensor:
    """Independent spikes with probability x at each step (Bernoulli; "Poisson" in the literature).

        s[t] = 1 if u[t] < x else 0,  u uniform in [0, 1);  E[sum s] = T x,  Var = T x (1 - x)

    The comparison is strict: x = 0 never fires, x = 1 always. u has 24 bits, so smaller probabilities than
    2^-24 fire with 2^-24. The gradient passes straight through.

    Args:
        x: [B, ...] in [0, 1].
        T: steps.
        seed, index, start: of the random numbers; see `counter.uniform`.
    Returns:
        [T, B, ...] in {0, 1} with the dtype of x.
    """
    check_unit(x, "poisson")
    wide = x if x.dtype == torch.float64 else x.to(torch.float32)
    spikes = uniform(x, check_steps(T), seed, index, start) < wide.detach()
    return straight_through(x, spikes.to(x.dtype))


def rate(x: Tensor, T: int, *, v0: float = 0.0, start: int = 0) -> Tensor:
    """Deterministic rate code: an integrate-and-fire neuron with soft reset, driven by x.

        v[t] = v[t-1] + x - s[t-1],  s[t] = [v[t] >= 1],  v[-1] = v0
        so that s[0] + .. + s[t] = floor((t + 1) x + v0)

    The second line is what is computed, in float64, where (t + 1) x is exact for a float32 x: no sum drifts,
    and every step stands for itself. v0 = 0 gives floor(T x) spikes, v0 = 0.5 gives T x rounded.
    The gradient passes straight through.

    Args:
        x: [B, ...] in [0, 1].
        T: steps.
        v0: membrane before the first step, 0 <= v0 < 1.
        start: first step.
    Returns:
        [T, B, ...] in {0, 1} with the dtype of x.
    """
    check_unit(x, "rate")
    if not 0.0 <= v0 < 1.0:
        raise KindError(f"v0 must lie in [0, 1), got {v0}")
    t = torch.arange(start, start + check_steps(T) + 1, device=x.device, dtype=torch.float64)
    drive = x.detach().to(torch.float64)
    counts = torch.floor(t.reshape(-1, *[1] * x.dim()) * drive + v0)
    return straight_through(x, (counts[1:] - counts[:-1]).to(x.dtype))


class Poisson(Encoder):
    """Bernoulli spikes; see `poisson`.

    Args:
        T: steps.
        seed: of the random numbers. In evaluation the same seed gives the same spikes in every call.
        fresh: while training, draw another seed for every call from torch's global generator.
    """

    def __init__(self, T: int, seed: int = 0, fresh: bool = True) -> None:
        super().__init__(T)
        self.seed, self.fresh = seed, fresh

    def forward(self, x: Tensor, index: Tensor | None = None) -> Tensor:
        """[B, ...] and sample numbers [B] -> [T*B, ...]."""
        active = timeline.current_stream()
        if active is None:
            return poisson(x, self.T, seed=self._seed(), index=index).flatten(0, 1)
        key = active.slot(self)
        seed = active.get(key)
        if seed is None:  # one seed for the whole stream
            seed = self._seed()
            active.put(key, seed)
        return poisson(x, active.T, seed=seed, index=index, start=active.step).flatten(0, 1)

    def _seed(self) -> int:
        return int(torch.randint(2**62, ())) if self.fresh and self.training else self.seed

    def decode(self, rows: Tensor) -> Tensor:
        """Share of spikes: [T*B, ...] -> [B, ...], standard deviation sqrt(x (1 - x) / T)."""
        return timeline.readout(rows, self.T, "mean")

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, seed={self.seed}, fresh={self.fresh}"


class Rate(Encoder):
    """Deterministic rate code; see `rate`."""

    def __init__(self, T: int, v0: float = 0.0) -> None:
        super().__init__(T)
        if not 0.0 <= v0 < 1.0:
            raise KindError(f"v0 must lie in [0, 1), got {v0}")
        self.v0 = v0

    def steps(self, x: Tensor, T: int, start: int) -> Tensor:
        """See `rate`."""
        return rate(x, T, v0=self.v0, start=start)

    def decode(self, rows: Tensor) -> Tensor:
        """Share of spikes: within 1 / T of x, within 0.5 / T when v0 = 0.5."""
        return timeline.readout(rows, self.T, "mean")

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, v0={self.v0}"
