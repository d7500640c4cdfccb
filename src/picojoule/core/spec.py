"""NeuronSpec: what a neuron becomes when it is lowered; the contract of folding, packing and the engine."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from picojoule.core.errors import ShapeError
from picojoule.core.kinds import Kind

Array = np.ndarray
RESETS = ("hard", "soft", "none")


@dataclass(frozen=True, slots=True)
class MembraneTable:
    """Staircase applied to the membrane after reset: v -> values[#{j : v >= breaks[j]}].

    `breaks` ascend and hold one entry less than `values`. Every uniform or tanh membrane quantizer is one.
    """

    breaks: Array
    values: Array

    def __post_init__(self) -> None:
        if self.values.ndim != 1 or self.breaks.shape != (self.values.size - 1,):
            raise ShapeError(
                f"a membrane table of {self.values.size} values needs {self.values.size - 1} breaks, "
                f"got shape {self.breaks.shape}"
            )


@dataclass(frozen=True, slots=True)
class NeuronSpec:
    """A spiking neuron as constants, in real units.

        h[t] = decay * v + gain * x[t] + bias
        n[t] = #{k : h >= thresholds[k]}  (>  where strict[k])   minus  [h <= neg_threshold] for ternary
        v    = reset == "hard": reset_value where n != 0, else h
               reset == "soft": h - n * reset_value
               reset == "none": h
        v    = table(v)  when there is one
        out  = n * out_scale,   v before step 0 = v_init

    Every array broadcasts to [T|1, C|1]; `thresholds` to [L, T|1, C|1] with ascending levels,
    L = 1 for binary and ternary, D for integer(D).
    Without a table the equation is positively homogeneous: scaling gain, bias, thresholds, reset_value and
    v_init of a channel by the same c > 0 leaves the spikes unchanged; folding relies on it.
    """

    kind: Kind
    decay: Array
    gain: Array
    bias: Array
    thresholds: Array
    strict: tuple[bool, ...]
    reset: str
    reset_value: Array
    v_init: Array
    neg_threshold: Array | None = None
    neg_strict: bool = False
    out_scale: float = 1.0
    table: MembraneTable | None = None
    v_bits: int | None = None

    def __post_init__(self) -> None:
        if self.reset not in RESETS:
            raise ValueError(f"reset must be one of {', '.join(RESETS)}, got {self.reset!r}")
        for name in ("decay", "gain", "bias", "reset_value", "v_init"):
            if getattr(self, name).ndim != 2:
                raise ShapeError(f"NeuronSpec.{name} must be [T|1, C|1], got {getattr(self, name).shape}")
        if self.thresholds.ndim != 3 or self.thresholds.shape[0] != len(self.strict):
            raise ShapeError(
                f"NeuronSpec.thresholds must be [L, T|1, C|1] with one strict flag a level, "
                f"got {self.thresholds.shape} and {len(self.strict)} flags"
            )
        if (self.kind.name == "ternary") != (self.neg_threshold is not None):
            raise ValueError("neg_threshold belongs to ternary neurons, and only to them")

    @property
    def homogeneous(self) -> bool:
        """True when per-channel scales fold into the thresholds."""
        return self.table is None

    @property
    def memoryless(self) -> bool:
        """True when no step sees the membrane of an earlier one."""
        return not np.any(self.decay)

    def with_(self, **changes: Any) -> NeuronSpec:
        """A copy with some fields changed."""
        return replace(self, **changes)


def spec(
    kind: Kind,
    *,
    thresholds: Any,
    decay: Any = 0.0,
    gain: Any = 1.0,
    bias: Any = 0.0,
    strict: bool | tuple[bool, ...] = False,
    reset: str = "soft",
    reset_value: Any = 1.0,
    v_init: Any = 0.0,
    neg_threshold: Any = None,
    neg_strict: bool = False,
    out_scale: float = 1.0,
    table: MembraneTable | None = None,
    v_bits: int | None = None,
) -> NeuronSpec:
    """Build a NeuronSpec from scalars or arrays: scalars become [1, 1], vectors [C] become [1, C].

    >>> from picojoule.core import kinds
    >>> s = spec(kinds.binary, decay=0.5, thresholds=1.0, reset="hard", reset_value=0.0)
    >>> s.decay.shape, s.thresholds.shape
    ((1, 1), (1, 1, 1))
    """

    def plane(value: Any) -> Array:
        array = np.asarray(value, dtype=np.float64)
        return array.reshape((1,) * (2 - array.ndim) + array.shape) if array.ndim < 2 else array

    levels = np.asarray(thresholds, dtype=np.float64)
    if levels.ndim == 0:
        levels = levels.reshape(1, 1, 1)
    elif levels.ndim == 1:  # one threshold a level
        levels = levels.reshape(-1, 1, 1)
    elif levels.ndim == 2:  # [L, C]
        levels = levels[:, None, :]
    flags = (strict,) * levels.shape[0] if isinstance(strict, bool) else strict
    return NeuronSpec(
        kind=kind,
        decay=plane(decay),
        gain=plane(gain),
        bias=plane(bias),
        thresholds=levels,
        strict=flags,
        reset=reset,
        reset_value=plane(reset_value),
        v_init=plane(v_init),
        neg_threshold=None if neg_threshold is None else plane(neg_threshold),
        neg_strict=neg_strict,
        out_scale=out_scale,
        table=table,
        v_bits=v_bits,
    )
