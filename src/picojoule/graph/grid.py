"""The grid that a graph is snapped to: how many bits of every constant are kept. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from picojoule.core.errors import ConfigError
from picojoule.graph.nodes import ROUNDINGS


@dataclass(frozen=True)
class Grid:
    """Bits of a snapped graph; see docs/folding.md.

    Args:
        frac: fraction bits of membranes (in units of one accumulator step) and of residual sums.
        nodes: fraction bits of single nodes, by name.
        out_frac: fraction bits of outputs.
        decay_bits: fraction bits of a decay that is not a power of two.
        decay_rounding: "floor" or "half_up", after each step.
        weight_bits: bits of weights that come without codes, per output channel, symmetric.
        mix_bits: fraction bits of time-mixing matrices.
        input_bits: bits of a real input; None fits the samples, or 16 without samples.
        input_frac: fraction bits of a real input; the search of `pack` may take fewer.
        input_bytes: real value of one step of a u8 input (1/255); None takes real inputs.
        stream: keep membranes at T = 1 and bound them for any number of steps.
    """

    frac: int = 16
    nodes: Mapping[str, int] = field(default_factory=dict)
    out_frac: int = 16
    decay_bits: int = 8
    decay_rounding: str = "floor"
    weight_bits: int = 8
    mix_bits: int = 8
    input_bits: int | None = None
    input_frac: int = 8
    input_bytes: float | None = None
    stream: bool = False

    def __post_init__(self) -> None:
        limits = {
            "frac": (0, 32), "out_frac": (0, 32), "decay_bits": (1, 24), "weight_bits": (2, 16),
            "mix_bits": (0, 24), "input_frac": (0, 24),
        }  # fmt: skip
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError(f"Grid.{name} must lie in {low}..{high}, got {value}")
        for node, bits in self.nodes.items():
            if not 0 <= bits <= 32:
                raise ConfigError(f"Grid.nodes[{node!r}] must lie in 0..32, got {bits}")
        if self.input_bits is not None and not 2 <= self.input_bits <= 32:
            raise ConfigError(f"Grid.input_bits must lie in 2..32, got {self.input_bits}")
        if self.input_bytes is not None and self.input_bytes <= 0:
            raise ConfigError(f"Grid.input_bytes must be positive, got {self.input_bytes}")
        if self.decay_rounding not in ROUNDINGS:
            raise ConfigError(f"Grid.decay_rounding must be one of {ROUNDINGS}, got {self.decay_rounding!r}")

    def of(self, node: str) -> int:
        """Fraction bits of a node.

        >>> Grid(4, nodes={"head": 8}).of("head")
        8
        """
        return self.nodes.get(node, self.frac)

    def with_node(self, node: str, frac: int) -> Grid:
        """The same grid with other fraction bits at one node."""
        return replace(self, nodes={**self.nodes, node: frac})


def as_grid(grid: Grid | int) -> Grid:
    """A number of fraction bits, or a Grid, as a Grid."""
    return grid if isinstance(grid, Grid) else Grid(frac=grid)
