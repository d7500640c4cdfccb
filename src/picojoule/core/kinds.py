"""Kinds of values that travel on an edge of a spiking network.

binary        s in {0, 1}
ternary       s in {-1, 0, 1}
integer(D)    s in {0..D}: a spike count, D virtual binary steps
time(T)       at most one spike per neuron, carrying its step in {0..T}; T = silent
fixed(b, f)   value = i * 2^-f with a signed b-bit integer i
real          floating point: measured as multiply-accumulate, cannot be packed
"""

from __future__ import annotations

from dataclasses import dataclass

from picojoule.core.errors import KindError

NAMES = ("binary", "ternary", "integer", "time", "fixed", "real")


@dataclass(frozen=True, slots=True)
class Kind:
    """Kind of an edge; build one with `binary`, `ternary`, `integer(D)`, `fixed(bits, frac)`, `real`.

    Fields: `levels` is D of an integer edge or T of a time edge; `bits` and `frac` belong to fixed edges.
    """

    name: str
    levels: int = 1
    bits: int = 0
    frac: int = 0

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise KindError(f"unknown kind {self.name!r}; known: {', '.join(NAMES)}")
        if self.levels < 1:
            raise KindError(f"{self.name}: levels must be at least 1, got {self.levels}")
        if self.name == "fixed" and not 1 <= self.bits <= 63:
            raise KindError(f"fixed: bits must lie in 1..63, got {self.bits}")

    @property
    def is_spikes(self) -> bool:
        """True when the edge carries spikes, so that a synapse costs additions only."""
        return self.name in ("binary", "ternary", "integer", "time")

    @property
    def low(self) -> int:
        """Smallest integer on the edge (spikes and fixed only)."""
        if self.name == "fixed":
            return -(1 << (self.bits - 1))
        return -1 if self.name == "ternary" else 0

    @property
    def high(self) -> int:
        """Largest integer on the edge (spikes and fixed only)."""
        if self.name == "fixed":
            return (1 << (self.bits - 1)) - 1
        return self.levels

    def __str__(self) -> str:
        if self.name in ("integer", "time"):
            return f"{self.name}({self.levels})"
        if self.name == "fixed":
            return f"fixed({self.bits}, {self.frac})"
        return self.name


binary = Kind("binary")
ternary = Kind("ternary")
real = Kind("real")


def integer(levels: int) -> Kind:
    """Spike counts 0..levels.

    >>> str(integer(4))
    'integer(4)'
    """
    return Kind("integer", levels=levels)


def time(steps: int) -> Kind:
    """Single spike times 0..steps, where `steps` means silent."""
    return Kind("time", levels=steps)


def fixed(bits: int, frac: int) -> Kind:
    """Signed fixed point, value = i * 2^-frac."""
    return Kind("fixed", bits=bits, frac=frac)


def parse(text: str) -> Kind:
    """Inverse of `str(kind)`.

    >>> parse("fixed(16, 8)").frac
    8
    """
    head, _, rest = text.partition("(")
    numbers = [int(part) for part in rest.rstrip(")").split(",")] if rest else []
    if head in ("integer", "time") and len(numbers) == 1:
        return Kind(head, levels=numbers[0])
    if head == "fixed" and len(numbers) == 2:
        return fixed(*numbers)
    if head in ("binary", "ternary", "real") and not numbers:
        return Kind(head)
    raise KindError(f"cannot read kind {text!r}; write e.g. 'binary', 'integer(4)' or 'fixed(16, 8)'")
