"""Weights without a latent value: a tensor that lives on a grid and is moved by its learning rule alone."""

from __future__ import annotations

import torch
from torch import Tensor

from picojoule.compress.base import QUANTIZERS, Codes, Quantizer, chain, quantized
from picojoule.compress.ste import sign
from picojoule.core.errors import ConfigError, KindError


@QUANTIZERS.register("grid")
class Grid(Quantizer):
    """Identity on a weight that is on the grid already.

        levels: exponent 0: {-1, +1};  N >= 1: {-1, -1 + 2^(1-N), ..., +1}, 2^N + 1 states;  times `scale`

    Attaching snaps the weight to the nearest level once; afterwards only a learning rule that knows the grid
    (binary spatio-temporal optimisation, discrete state transition) moves it. Keep it out of ordinary
    optimizers and of weight decay: a value off the grid is refused when codes are read.

    Args:
        exponent: N in 0..6.
        scale: largest magnitude, positive.
    Source: GXNOR-Net, arXiv:1705.09283, discrete spaces Z_N; N = 0 serves BSO.
    """

    paper = "1705.09283"

    def __init__(self, exponent: int = 0, scale: float = 1.0) -> None:
        super().__init__()
        if exponent not in range(7):
            raise ConfigError(f"grid: exponent must lie in 0..6, got {exponent}")
        if not scale > 0:
            raise ConfigError(f"grid: scale must be positive, got {scale}")
        self.exponent = int(exponent)
        self.scale = float(scale)
        self.coding = ("sign", "ternary")[exponent] if exponent < 2 else "int"
        self.bits = exponent + 1

    @property
    def step(self) -> float:
        """Distance of two levels (of sign to zero for exponent 0)."""
        return self.scale if self.exponent == 0 else self.scale / (1 << (self.exponent - 1))

    @property
    def high(self) -> int:
        """Largest code."""
        return 1 if self.exponent == 0 else 1 << (self.exponent - 1)

    def snap(self, w: Tensor) -> Tensor:
        """The nearest level of every entry; ties to the even code, zero to +1 on the binary grid."""
        if self.exponent == 0:
            return sign(w) * self.step
        return (w / self.step).clamp(-self.high, self.high).round() * self.step

    def forward(self, w: Tensor) -> Tensor:
        return w

    def right_inverse(self, w: Tensor) -> Tensor:
        """What is stored when a value is assigned: the value on the grid."""
        return self.snap(w)

    def codes(self, w: Tensor) -> Codes:
        """Integer levels; the scale is one for the whole layer."""
        if not bool((self.snap(w) == w).all()):
            raise KindError(
                "a Grid weight left its grid: it was moved by an ordinary optimizer or by weight decay; "
                "give it to its learning rule only"
            )
        ints = (w / self.step).round().to(torch.int8)
        scales = torch.full((1,), self.step, dtype=w.dtype, device=w.device)
        return Codes(ints, scales, self.coding, self.bits, tuple(w.shape))


def grid_parameters(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """Tensors that live on a grid; they belong to a learning rule, never to an ordinary optimizer."""
    return [
        chain(module, name).original
        for _, module, name, quantizer in quantized(model)
        if isinstance(quantizer, Grid)
    ]
