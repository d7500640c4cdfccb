"""Per-sample sums with their standard errors, and spikes as events. Independent of the batch size."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from picojoule.core.errors import KindError, NonFiniteError
from picojoule.core.kinds import Kind

TOLERANCE = 1e-4  # a spike in float32 may be off by rounding of its scale


@dataclass
class Tally:
    """Named quantities of one node, one number a sample."""

    open: dict[str, np.ndarray] = field(default_factory=dict)
    closed: dict[str, list[np.ndarray]] = field(default_factory=lambda: defaultdict(list))

    def add(self, batch: int, **values: Tensor | float) -> None:
        """Add to the samples of the present batch; a plain number counts for each of them."""
        for name, value in values.items():
            rows = np.full(batch, value) if isinstance(value, int | float) else value.double().numpy()
            self.open[name] = self.open.get(name, 0.0) + rows

    def close(self) -> None:
        """The batch is over."""
        for name, rows in self.open.items():
            self.closed[name].append(rows)
        self.open = {}

    def samples(self, name: str) -> np.ndarray:
        """Values by sample, float64 [n]."""
        parts = self.closed.get(name)
        return np.concatenate(parts) if parts else np.zeros(0)

    def mean(self, name: str) -> float:
        """Average over samples; 0 when never counted."""
        values = self.samples(name)
        return math.fsum(values) / len(values) if len(values) else 0.0

    def error(self, name: str) -> float | None:
        """Standard error of the mean; None for fewer than two samples."""
        values = self.samples(name)
        return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None


@dataclass
class Events:
    """Spikes of one edge summed over time, float64 [B, size].

    Fields: `count` sum of |s| (an integer a counts a times); `nonzero` number of steps with a spike;
    `popcount` sum of the one-bits of |s| (bit-plane schedule).
    """

    count: Tensor
    nonzero: Tensor
    popcount: Tensor


def events(rows: Tensor, kind: Kind, scale: float, T: int, place: str) -> Events:
    """Events of spike rows [T*B, *shape], checked against their kind.

    Args:
        scale: real value of one spike.
        place: names the node in errors.
    Raises:
        KindError: a value outside the kind; NonFiniteError: NaN or infinity.
    """
    n = whole(rows, kind, scale, place)
    if kind.name == "time":
        n = (n < kind.levels).to(n.dtype)  # one spike that carries its step; `levels` is silence
    size = math.prod(n.shape[1:])
    n = n.reshape(T, n.shape[0] // T, size)
    magnitude = n.abs() if kind.low < 0 else n
    count = magnitude.sum(0).double()
    if kind.high <= 1 or kind.name == "time":
        return Events(count, count, count)
    nonzero = (n != 0).sum(0).double()
    ints = magnitude.to(torch.int32)
    bits = torch.zeros_like(ints)
    for bit in range(kind.high.bit_length()):
        bits += (ints >> bit) & 1
    return Events(count, nonzero, bits.sum(0).double())


def whole(rows: Tensor, kind: Kind, scale: float, place: str) -> Tensor:
    """Spike rows as whole numbers of spikes, proven to lie in their kind."""
    n = rows if scale == 1.0 else rows / scale
    if not n.numel():
        return n
    low, high = (float(v) for v in n.aminmax())
    if not math.isfinite(low + high):
        bad = int((~torch.isfinite(n)).sum())
        raise NonFiniteError(
            f"{place}: {bad} of {n.numel()} values are NaN or infinite; look at the data and at the weights "
            "before this layer"
        )
    nearest = n.round()
    is_whole = torch.equal(n, nearest) or bool(((n - nearest).abs() <= TOLERANCE).all())
    if is_whole and low >= kind.low - TOLERANCE and high <= kind.high + TOLERANCE:
        return nearest
    wrong = ((n - nearest).abs() > TOLERANCE) | (nearest < kind.low) | (nearest > kind.high)
    raise KindError(
        f"{place}: declared {kind} but carries {float(n[wrong].flatten()[0]):g} ({int(wrong.sum())} of "
        f"{n.numel()} values are outside); declare its real kind, e.g. kinds.integer(D) or kinds.real"
    )


def finite(rows: Tensor, place: str) -> None:
    """Refuse NaN and infinity.

    Raises:
        NonFiniteError: names the place.
    """
    if rows.numel() and not math.isfinite(
        float(rows.double().sum() if rows.dtype == torch.float16 else rows.sum())
    ):
        bad = int((~torch.isfinite(rows)).sum())
        if bad:
            raise NonFiniteError(
                f"{place}: {bad} of {rows.numel()} values are NaN or infinite; clean the data, and look at "
                "the weights and BatchNorm statistics before this layer"
            )
