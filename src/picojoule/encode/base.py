"""The module around every encoder of still values: steps, streams, kind."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from picojoule import timeline
from picojoule.core.errors import KindError, NonFiniteError, ShapeError
from picojoule.core.kinds import Kind, binary


def check_unit(x: Tensor, what: str) -> Tensor:
    """x itself when it is a floating-point tensor within [0, 1].

    Raises:
        KindError: integers, or values outside [0, 1].
        NonFiniteError: NaN.
    """
    if not x.is_floating_point():
        raise KindError(
            f"{what} encodes real values in [0, 1], got {x.dtype}; divide by the largest value first"
        )
    if torch.compiler.is_compiling() or x.numel() == 0:
        return x
    low, high = (float(v) for v in torch.aminmax(x.detach()))
    if low != low or high != high:
        raise NonFiniteError(f"{what}: the values hold NaN; look at the scaling of the data")
    if low < 0.0 or high > 1.0:
        raise KindError(
            f"{what} encodes values in [0, 1], got {low:g} .. {high:g}; "
            "scale by statistics of the training split"
        )
    return x


def check_steps(T: int, least: int = 1, what: str = "T") -> int:
    """T itself when it is at least `least`."""
    if least > T:
        raise ShapeError(f"{what} must be at least {least}, got {T}")
    return T


class StraightThrough(torch.autograd.Function):
    """Spikes forward, the identity backward: d spikes / d x := 1 at every step."""

    @staticmethod
    def forward(ctx, x: Tensor, spikes: Tensor) -> Tensor:  # type: ignore[override]
        return spikes.clone()

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return grad, None


def straight_through(x: Tensor, spikes: Tensor) -> Tensor:
    """Spikes [T, B, ...] that pass their gradient on to x [B, ...], summed over the steps."""
    if not x.requires_grad:
        return spikes
    return StraightThrough.apply(x.expand_as(spikes), spikes)  # type: ignore[return-value]


class Encoder(nn.Module):
    """Base of the encoders of still values: [B, ...] in [0, 1] -> rows [T*B, ...], time-major.

    Subclasses implement `steps(x, T, start) -> [T, B, ...]`. In a stream the encoder gives the steps of the
    chunk; the encoded value is passed with every chunk.
    """

    kind: Kind = binary
    causal = True

    def __init__(self, T: int) -> None:
        super().__init__()
        self.T = check_steps(T)

    def set_steps(self, T: int) -> None:
        """Change T."""
        self.T = check_steps(T)

    def steps(self, x: Tensor, T: int, start: int) -> Tensor:
        """Spikes [T, B, ...] of the steps start .. start+T-1."""
        raise TypeError(f"{type(self).__name__} defines no steps(x, T, start)")

    def forward(self, x: Tensor) -> Tensor:
        """[B, ...] -> [T*B, ...]."""
        active = timeline.current_stream()
        T, start = (self.T, 0) if active is None else (active.T, active.step)
        return self.steps(x, T, start).flatten(0, 1)

    def decode(self, rows: Tensor) -> Tensor:
        """Rows [T*B, ...] back to values [B, ...]."""
        raise KindError(f"{type(self).__name__} has no inverse")

    def extra_repr(self) -> str:
        return f"T={self.T}, kind={self.kind}"


def window(spikes: Tensor, T: int, start: int) -> Tensor:
    """Steps start .. start+T-1 of a finished code [T0, B, ...]; silent after its end."""
    part = spikes[start : start + T]
    if len(part) == T:
        return part
    return torch.cat([part, part.new_zeros((T - len(part), *spikes.shape[1:]))])
