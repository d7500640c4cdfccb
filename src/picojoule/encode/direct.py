"""Direct encoding: the analogue value itself, repeated, so that the first layer learns the code.

The spikes begin at the neuron behind the first synaptic layer. That layer computes with real numbers: T times
its multiply-accumulates, or once when it is cached. An energy figure has to count them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from picojoule import timeline
from picojoule.core.errors import ShapeError
from picojoule.core.kinds import Kind, real
from picojoule.encode.base import check_steps


def direct(x: Tensor, T: int) -> Tensor:
    """The value at every step: [B, ...] -> [T, B, ...], a view."""
    return x.unsqueeze(0).expand(check_steps(T), *x.shape)


def inject(x: Tensor, T: int) -> Tensor:
    """The value as a charge at step 0 and nothing afterwards: [B, ...] -> [T, B, ...]."""
    return torch.cat([x.unsqueeze(0), x.new_zeros((check_steps(T) - 1, *x.shape))])


class Direct(nn.Module):
    """The value at every step, through an optional first layer: [B, ...] -> rows [T*B, ...].

        cached:    repeat(first(x), T)        first layer computed once
        uncached:  first(x) at every step     first layer computed T times

    The two are equal bit for bit, because every step computes the same batch. (One call on the T*B repeated
    rows may differ in the last bit: kernels are chosen by batch size.) A BatchNorm in training mode moves its
    running statistics once a call when cached, T times when not.

    Args:
        T: steps.
        first: layer without memory (conv, norm), or None.
        cached: compute `first` once.
    """

    kind: Kind = real
    causal = True

    def __init__(self, T: int, first: nn.Module | None = None, cached: bool = True) -> None:
        super().__init__()
        self.T = check_steps(T)
        self.first = first
        self.cached = cached

    def set_steps(self, T: int) -> None:
        """Change T."""
        self.T = check_steps(T)

    def forward(self, x: Tensor) -> Tensor:
        """[B, ...] -> [T*B, ...]."""
        active = timeline.current_stream()
        T = self.T if active is None else active.T
        if self.first is None:
            return timeline.repeat(x, T)
        if not self.cached:
            return torch.cat([self.first(x) for _ in range(T)])
        y = self.first(x)
        if y.shape[:1] != x.shape[:1]:
            raise ShapeError(f"the first layer turned {x.shape[0]} rows into {y.shape[0]}; it must keep them")
        return timeline.repeat(y, T)

    def decode(self, rows: Tensor) -> Tensor:
        """Rows [T*B, ...] -> [B, ...]: any step is the value (without a first layer)."""
        return timeline.readout(rows, self.T, "last")

    def extra_repr(self) -> str:
        return f"T={self.T}, cached={self.cached}"


class Inject(nn.Module):
    """The value as a charge at step 0: [B, ...] -> rows [T*B, ...]; see `inject`."""

    kind: Kind = real
    causal = True

    def __init__(self, T: int) -> None:
        super().__init__()
        self.T = check_steps(T)

    def set_steps(self, T: int) -> None:
        """Change T."""
        self.T = check_steps(T)

    def forward(self, x: Tensor) -> Tensor:
        """[B, ...] -> [T*B, ...]."""
        active = timeline.current_stream()
        if active is None:
            return inject(x, self.T).flatten(0, 1)
        rows = inject(x, active.T)
        return (rows if active.step == 0 else torch.zeros_like(rows)).flatten(0, 1)

    def decode(self, rows: Tensor) -> Tensor:
        """Rows [T*B, ...] -> [B, ...]: the sum over the steps."""
        return timeline.readout(rows, self.T, "sum")
