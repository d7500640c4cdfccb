"""Surrogate gradients g'(z), z = h - th: the derivative used for the spike in the backward pass.

Formulas and defaults follow the table shared by SpikingJelly 2.0 (checked numerically against it).
Every surrogate is a small frozen dataclass with `grad(z)` and `primitive(z)`, an antiderivative.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from picojoule.core.registry import Registry

SURROGATES: Registry[Any] = Registry("surrogate")


@dataclass(frozen=True)
class Surrogate:
    """Base: `grad(z)` is g'(z) elementwise, `window` the half-width outside which it is exactly zero."""

    window: ClassVar[float] = math.inf

    def grad(self, z: Tensor) -> Tensor:
        """g'(z), the same shape as z."""
        raise TypeError(f"{type(self).__name__} has no gradient; subclass Surrogate and define grad(z)")

    def primitive(self, z: Tensor) -> Tensor:
        """An antiderivative g(z) of `grad`, for checks and soft forward passes."""
        raise TypeError(f"{type(self).__name__} has no primitive; subclass Surrogate and define primitive(z)")


@SURROGATES.register("sigmoid")
@dataclass(frozen=True)
class Sigmoid(Surrogate):
    """g'(z) = a sig(a z) (1 - sig(a z)); area 1."""

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
    """g'(z) = max(0, a - a^2 |z|), also called piecewise quadratic; area 1. TET writes gamma = 1/a."""

    alpha: float = 1.0

    @property
    def window_(self) -> float:
        """Half-width of the support."""
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

    def grad(self, z: Tensor) -> Tensor:
        return self.alpha * (z.abs() < 0.5 / self.alpha).to(z.dtype)

    def primitive(self, z: Tensor) -> Tensor:
        return (self.alpha * z + 0.5).clamp(0, 1)


def get(surrogate: Surrogate | str) -> Surrogate:
    """A surrogate by name with its default constant, or the object itself.

    >>> get("atan").alpha
    2.0
    """
    return surrogate if isinstance(surrogate, Surrogate) else SURROGATES.get(surrogate)()
