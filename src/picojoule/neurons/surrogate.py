"""Surrogate gradients g'(z), z = h - th: the derivative used for the spike in the backward pass.

Formulas and defaults follow the table of SpikingJelly 2.0 and, for `fast_sigmoid` and `rate_escape`, snnTorch
1.0; the oracle tests compare them numerically. Every surrogate is a small frozen dataclass with `grad(z)`,
`primitive(z)` (an antiderivative, used as a soft forward pass in checks), `area` (the integral of g' over the
real line) and `window` (the half-width outside which g' is exactly zero).

Published rectangles: MS-ResNet and tdBN 1[|h - 0.5| < 0.5] with th = 0.5 is Rect(1); TA, MA and ASA
2 * 1[|h - th| < 0.25] is Rect(2); ESVAE 1[|h| < 0.5], centred on zero, is Shifted(Rect(1), th). TET's
triangle max(0, gamma - |z|) / gamma^2 is Triangle(1 / gamma).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from picojoule.core.registry import Registry

SURROGATES: Registry[Any] = Registry("surrogate")


@dataclass(frozen=True)
class Surrogate:
    """Base: subclasses define `grad(z)` and `primitive(z)`."""

    @property
    def window(self) -> float:
        """Half-width outside which g' is exactly zero; inf where it has tails."""
        return math.inf

    @property
    def area(self) -> float:
        """Integral of g' over the real line; inf where it diverges, nan where it oscillates."""
        return 1.0

    def grad(self, z: Tensor) -> Tensor:
        """g'(z), the same shape as z."""
        raise TypeError(f"{type(self).__name__} has no gradient; subclass Surrogate and define grad(z)")

    def primitive(self, z: Tensor) -> Tensor:
        """An antiderivative g(z) of `grad`, for checks and soft forward passes."""
        raise TypeError(f"{type(self).__name__} has no primitive; subclass Surrogate and define primitive(z)")


@SURROGATES.register("sigmoid")
@dataclass(frozen=True)
class Sigmoid(Surrogate):
    """g'(z) = a sig(a z) (1 - sig(a z)); area 1. snnTorch's sigmoid is a = 25."""

    alpha: float = 4.0

    def grad(self, z: Tensor) -> Tensor:
        s = torch.sigmoid(self.alpha * z)
        return self.alpha * s * (1 - s)

    def primitive(self, z: Tensor) -> Tensor:
        return torch.sigmoid(self.alpha * z)


@SURROGATES.register("atan")
@dataclass(frozen=True)
class ATan(Surrogate):
    """g'(z) = (a/2) / (1 + (pi a z / 2)^2); area 1."""

    alpha: float = 2.0

    def grad(self, z: Tensor) -> Tensor:
        return (self.alpha / 2) / (1 + (math.pi / 2 * self.alpha * z) ** 2)

    def primitive(self, z: Tensor) -> Tensor:
        return torch.atan(math.pi / 2 * self.alpha * z) / math.pi + 0.5


@SURROGATES.register("triangle")
@dataclass(frozen=True)
class Triangle(Surrogate):
    """g'(z) = max(0, a - a^2 |z|), also called piecewise quadratic; area 1."""

    alpha: float = 1.0

    @property
    def window(self) -> float:
        return 1 / self.alpha

    def grad(self, z: Tensor) -> Tensor:
        return (self.alpha - self.alpha**2 * z.abs()).clamp_min(0)

    def primitive(self, z: Tensor) -> Tensor:
        c = z.clamp(-1 / self.alpha, 1 / self.alpha)
        return self.alpha * c - 0.5 * self.alpha**2 * c * c.abs() + 0.5


@SURROGATES.register("rect")
@dataclass(frozen=True)
class Rect(Surrogate):
    """g'(z) = a where |z| < 1/(2a), else 0; area 1."""

    alpha: float = 1.0

    @property
    def window(self) -> float:
        return 0.5 / self.alpha

    def grad(self, z: Tensor) -> Tensor:
        return self.alpha * (z.abs() < 0.5 / self.alpha).to(z.dtype)

    def primitive(self, z: Tensor) -> Tensor:
        return (self.alpha * z + 0.5).clamp(0, 1)


@SURROGATES.register("exp")
@dataclass(frozen=True)
class PiecewiseExp(Surrogate):
    """g'(z) = (a/2) exp(-a |z|); area 1."""

    alpha: float = 1.0

    def grad(self, z: Tensor) -> Tensor:
        return self.alpha / 2 * torch.exp(-self.alpha * z.abs())

    def primitive(self, z: Tensor) -> Tensor:
        tail = 0.5 * torch.exp(-self.alpha * z.abs())
        return torch.where(z < 0, tail, 1 - tail)


@SURROGATES.register("softsign")
@dataclass(frozen=True)
class SoftSign(Surrogate):
    """g'(z) = a / (2 (1 + a |z|)^2); area 1."""

    alpha: float = 2.0

    def grad(self, z: Tensor) -> Tensor:
        return self.alpha / (2 * (1 + self.alpha * z.abs()) ** 2)

    def primitive(self, z: Tensor) -> Tensor:
        return 0.5 * (self.alpha * z / (1 + self.alpha * z.abs()) + 1)


@SURROGATES.register("superspike")
@dataclass(frozen=True)
class SuperSpike(Surrogate):
    """g'(z) = a / (1 + |z|)^2; area 2 a (not normalised)."""

    alpha: float = 1.0

    @property
    def area(self) -> float:
        return 2 * self.alpha

    def grad(self, z: Tensor) -> Tensor:
        return self.alpha / (1 + z.abs()) ** 2

    def primitive(self, z: Tensor) -> Tensor:
        return self.alpha * z / (1 + z.abs())


@SURROGATES.register("erf")
@dataclass(frozen=True)
class Erf(Surrogate):
    """g'(z) = (a / sqrt(pi)) exp(-a^2 z^2); area 1."""

    alpha: float = 2.0

    def grad(self, z: Tensor) -> Tensor:
        return self.alpha / math.sqrt(math.pi) * torch.exp(-((self.alpha * z) ** 2))

    def primitive(self, z: Tensor) -> Tensor:
        return 0.5 * (1 + torch.erf(self.alpha * z))


@SURROGATES.register("logabs")
@dataclass(frozen=True)
class NonzeroSignLogAbs(Surrogate):
    """g'(z) = a / (1 + a |z|); the area diverges."""

    alpha: float = 1.0

    @property
    def area(self) -> float:
        return math.inf

    def grad(self, z: Tensor) -> Tensor:
        return self.alpha / (1 + self.alpha * z.abs())

    def primitive(self, z: Tensor) -> Tensor:
        return z.sign() * torch.log1p(self.alpha * z.abs())


@SURROGATES.register("leaky_rect")
@dataclass(frozen=True)
class PiecewiseLeakyReLU(Surrogate):
    """g'(z) = 1/(2w) where |z| < w, else c; the area diverges unless c = 0."""

    w: float = 1.0
    c: float = 0.01

    @property
    def window(self) -> float:
        return self.w if self.c == 0 else math.inf

    @property
    def area(self) -> float:
        return 1.0 if self.c == 0 else math.inf

    def grad(self, z: Tensor) -> Tensor:
        inside = (z.abs() < self.w).to(z.dtype)
        return inside * (0.5 / self.w) + (1 - inside) * self.c

    def primitive(self, z: Tensor) -> Tensor:
        inside = z.clamp(-self.w, self.w)
        return inside / (2 * self.w) + self.c * (z - inside) + 0.5


@SURROGATES.register("leaky_relu")
@dataclass(frozen=True)
class LeakyKReLU(Surrogate):
    """g'(z) = k where z >= 0, else leak; the area diverges."""

    leak: float = 0.0
    k: float = 1.0

    @property
    def area(self) -> float:
        return math.inf

    def grad(self, z: Tensor) -> Tensor:
        up = (z >= 0).to(z.dtype)
        return up * self.k + (1 - up) * self.leak

    def primitive(self, z: Tensor) -> Tensor:
        return torch.where(z >= 0, self.k * z, self.leak * z)


@SURROGATES.register("log_tailed_relu")
@dataclass(frozen=True)
class LogTailedReLU(Surrogate):
    """g'(z) = 1/z where z > 1, 1 where 0 < z <= 1, a where z <= 0; the area diverges."""

    alpha: float = 0.0

    @property
    def area(self) -> float:
        return math.inf

    def grad(self, z: Tensor) -> Tensor:
        return torch.where(z > 0, 1 / z.clamp_min(1), torch.full_like(z, self.alpha))

    def primitive(self, z: Tensor) -> Tensor:
        up = z.clamp(0, 1) + torch.log(z.clamp_min(1))
        return torch.where(z > 0, up, self.alpha * z)


@SURROGATES.register("s2nn")
@dataclass(frozen=True)
class S2NN(Surrogate):
    """g'(z) = a sig(a z) (1 - sig(a z)) where z < 0, b / (z + 1) where z >= 0; the area diverges."""

    alpha: float = 4.0
    beta: float = 1.0

    @property
    def area(self) -> float:
        return math.inf

    def grad(self, z: Tensor) -> Tensor:
        s = torch.sigmoid(self.alpha * z)
        return torch.where(z < 0, self.alpha * s * (1 - s), self.beta / (z.clamp_min(0) + 1))

    def primitive(self, z: Tensor) -> Tensor:
        up = 0.5 + self.beta * torch.log1p(z.clamp_min(0))
        return torch.where(z < 0, torch.sigmoid(self.alpha * z), up)


@SURROGATES.register("q_pseudo_spike")
@dataclass(frozen=True)
class QPseudoSpike(Surrogate):
    """g'(z) = (1 + 2 |z| / (a - 1))^-a, a > 1; area 1."""

    alpha: float = 2.0

    def __post_init__(self) -> None:
        if self.alpha <= 1:
            raise ValueError(f"q_pseudo_spike needs alpha above 1, got {self.alpha}")

    def grad(self, z: Tensor) -> Tensor:
        return (1 + 2 * z.abs() / (self.alpha - 1)) ** -self.alpha

    def primitive(self, z: Tensor) -> Tensor:
        tail = 0.5 * (1 + 2 * z.abs() / (self.alpha - 1)) ** (1 - self.alpha)
        return torch.where(z < 0, tail, 1 - tail)


@SURROGATES.register("fourier")
@dataclass(frozen=True)
class SquarewaveFourierSeries(Surrogate):
    """g'(z) = (4/P) sum_{i=1}^{n-1} cos((2i-1) 2 pi z / P), P the period; oscillates: no area."""

    n: int = 2
    period: float = 8.0

    @property
    def area(self) -> float:
        return math.nan

    def _waves(self) -> list[float]:
        return [(2 * i - 1) * 2 * math.pi / self.period for i in range(1, self.n)]

    def grad(self, z: Tensor) -> Tensor:
        total = torch.zeros_like(z)
        for w in self._waves():
            total = total + torch.cos(w * z)
        return 4 / self.period * total

    def primitive(self, z: Tensor) -> Tensor:
        total = torch.full_like(z, 0.5)
        for w in self._waves():
            total = total + 4 / self.period * torch.sin(w * z) / w
        return total


@SURROGATES.register("fake_numerical")
@dataclass(frozen=True)
class FakeNumericalGradient(Surrogate):
    """g'(z) = min(1/|z|, a); the area diverges."""

    alpha: float = 0.3

    @property
    def area(self) -> float:
        return math.inf

    def grad(self, z: Tensor) -> Tensor:
        return (1 / z.abs()).clamp_max(self.alpha)

    def primitive(self, z: Tensor) -> Tensor:
        a = self.alpha
        return a * z.clamp(-1 / a, 1 / a) + z.sign() * torch.log((a * z.abs()).clamp_min(1))


@SURROGATES.register("straight_through")
@dataclass(frozen=True)
class StraightThrough(Surrogate):
    """g'(z) = 1, the straight-through estimator; the area diverges."""

    @property
    def area(self) -> float:
        return math.inf

    def grad(self, z: Tensor) -> Tensor:
        return torch.ones_like(z)

    def primitive(self, z: Tensor) -> Tensor:
        return z.clone()


@SURROGATES.register("fast_sigmoid")
@dataclass(frozen=True)
class FastSigmoid(Surrogate):
    """g'(z) = 1 / (1 + k |z|)^2, snnTorch's default family; area 2/k."""

    slope: float = 25.0

    @property
    def area(self) -> float:
        return 2 / self.slope

    def grad(self, z: Tensor) -> Tensor:
        return 1 / (1 + self.slope * z.abs()) ** 2

    def primitive(self, z: Tensor) -> Tensor:
        return z / (1 + self.slope * z.abs())


@SURROGATES.register("rate_escape")
@dataclass(frozen=True)
class SpikeRateEscape(Surrogate):
    """g'(z) = k exp(-b |z - 1|), as snnTorch applies it to the shifted membrane; area 2 k / b."""

    beta: float = 1.0
    slope: float = 25.0

    @property
    def area(self) -> float:
        return 2 * self.slope / self.beta

    def grad(self, z: Tensor) -> Tensor:
        return self.slope * torch.exp(-self.beta * (z - 1).abs())

    def primitive(self, z: Tensor) -> Tensor:
        tail = self.slope / self.beta * torch.exp(-self.beta * (z - 1).abs())
        return torch.where(z < 1, tail, 2 * self.slope / self.beta - tail)


@dataclass(frozen=True)
class Shifted(Surrogate):
    """g'(z) = inner'(z + offset): a window that is not centred on the threshold. `Shifted(Rect(1), th)` is
    centred on h = 0."""

    inner: Surrogate = field(default_factory=Rect)
    offset: float = 0.0

    @property
    def window(self) -> float:
        return self.inner.window + abs(self.offset)

    @property
    def area(self) -> float:
        return self.inner.area

    def grad(self, z: Tensor) -> Tensor:
        return self.inner.grad(z + self.offset)

    def primitive(self, z: Tensor) -> Tensor:
        return self.inner.primitive(z + self.offset)


def get(surrogate: Surrogate | str) -> Surrogate:
    """A surrogate by name with its default constant, or the object itself.

    >>> get("atan").alpha
    2.0
    """
    return surrogate if isinstance(surrogate, Surrogate) else SURROGATES.get(surrogate)()
