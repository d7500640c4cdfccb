"""Population code: Gaussian receptive fields turn one value into the activity of m neurons."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from picojoule import timeline
from picojoule.core.errors import KindError
from picojoule.encode.base import Encoder, check_steps, window
from picojoule.encode.latency import at_steps, first_steps
from picojoule.encode.rate import poisson, rate

CODES = ("latency", "rate", "poisson")
SILENT_BELOW = 0.1


def centres(m: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Centres of the receptive fields [m], float64.

    mu_i = low + (2 i - 3) / 2 * (high - low) / (m - 2),  i = 1..m: half a spacing outside both ends.
    """
    if m < 3 or not high > low:
        raise KindError(f"receptive fields need m >= 3 neurons and low < high, got {m}, {low}, {high}")
    i = torch.arange(1, m + 1, dtype=torch.float64)
    return low + (2 * i - 3) / 2 * (high - low) / (m - 2)


def width(m: int, low: float = 0.0, high: float = 1.0, gamma: float = 1.5) -> float:
    """sigma = (high - low) / (gamma (m - 2))."""
    if m < 3 or not gamma > 0:
        raise KindError(f"receptive fields need m >= 3 neurons and gamma > 0, got {m}, {gamma}")
    return (high - low) / (gamma * (m - 2))


def responses(x: Tensor, mu: Tensor, sigma: Tensor | float) -> Tensor:
    """r_i = exp(-(x - mu_i)^2 / (2 sigma^2)): [B, ...] -> [B, ..., m] in (0, 1]."""
    return torch.exp(-(((x.unsqueeze(-1) - mu) / sigma) ** 2) / 2)


def response_steps(r: Tensor, T: int) -> Tensor:
    """Spike step of each response: t_i = round((T - 1) (1 - r_i)), silent (T) where r_i < 0.1; int64."""
    t = torch.round((check_steps(T) - 1) * (1.0 - r.detach().to(torch.float64))).to(torch.int64)
    return torch.where(r < SILENT_BELOW, T, t)


def population(
    x: Tensor,
    T: int,
    m: int,
    *,
    code: str = "latency",
    low: float = 0.0,
    high: float = 1.0,
    gamma: float = 1.5,
    seed: int = 0,
    index: Tensor | None = None,
) -> Tensor:
    """Spikes of m neurons a value.

    Args:
        x: [B, ...] in the unit of low and high; values outside only excite the outer neurons less.
        T: steps.
        m: neurons a value, at least 3.
        code: "latency" (one spike, strong responses first), "rate" (deterministic) or "poisson".
        low, high: range of the values, from the training split.
        gamma: fields overlap more for a smaller gamma.
        seed, index: of the "poisson" code; see `counter.uniform`.
    Returns:
        [T, B, ..., m] in {0, 1}.
    """
    _check_code(code)
    mu = centres(m, low, high).to(x.device, x.dtype)
    return _spikes(responses(x, mu, width(m, low, high, gamma)), T, code, seed, index, 0)


def _check_code(code: str) -> None:
    if code not in CODES:
        raise KindError(f"unknown code {code!r}; choose one of {', '.join(CODES)}")


def _spikes(r: Tensor, T: int, code: str, seed: int, index: Tensor | None, start: int) -> Tensor:
    if code == "latency":
        return at_steps(response_steps(r, T), T).to(r.dtype)
    if code == "rate":
        return rate(r, T, start=start)
    return poisson(r, T, seed=seed, index=index, start=start)


def decode_population(strength: Tensor, mu: Tensor) -> Tensor:
    """Centre of mass sum_i a_i mu_i / sum_i a_i of strengths [..., m]; NaN where all are silent.

    An estimate and not an inverse: near the ends of the range the missing neurons pull it inwards.
    """
    return (strength * mu).sum(-1) / strength.sum(-1)


class Population(Encoder):
    """Gaussian receptive fields: [B, ...] -> rows [T*B, ..., m].

    Args:
        T: steps.
        m: neurons a value, at least 3.
        code, low, high, gamma, seed: see `population`.
        learnable: centres and widths are parameters; the codes "rate" and "poisson" pass gradients to them.
    """

    def __init__(
        self,
        T: int,
        m: int = 8,
        *,
        code: str = "latency",
        low: float = 0.0,
        high: float = 1.0,
        gamma: float = 1.5,
        seed: int = 0,
        learnable: bool = False,
    ) -> None:
        super().__init__(T)
        _check_code(code)
        if learnable and code == "latency":
            raise KindError("spike times pass no gradient; use code='rate' or 'poisson' with learnable=True")
        self.code, self.seed, self.low, self.high = code, seed, low, high
        mu = centres(m, low, high).to(torch.get_default_dtype())
        log_sigma = torch.full_like(mu, width(m, low, high, gamma)).log()
        self.mu: Tensor
        self.log_sigma: Tensor
        if learnable:
            self.mu = nn.Parameter(mu)
            self.log_sigma = nn.Parameter(log_sigma)
        else:
            self.register_buffer("mu", mu)
            self.register_buffer("log_sigma", log_sigma)

    def steps(self, x: Tensor, T: int, start: int) -> Tensor:
        """See `population`."""
        r = responses(x, self.mu, self.log_sigma.exp())
        if self.code == "latency":
            return window(_spikes(r, self.T, "latency", 0, None, 0), T, start)
        return _spikes(r, T, self.code, self.seed, None, start)

    def decode(self, rows: Tensor) -> Tensor:
        """Rows [T*B, ..., m] -> estimate [B, ...]; see `decode_population`."""
        spikes = timeline.split(rows, self.T)
        if self.code == "latency":
            t = first_steps(spikes)
            strength = torch.where(t < self.T, 1.0 - t / max(1, self.T - 1) + 1e-6, 0.0)
        else:
            strength = spikes.mean(0)
        return decode_population(strength.to(self.mu.dtype), self.mu)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, m={len(self.mu)}, code={self.code!r}"
