"""Recurrent cells: a one-step module run over time, fed with what it gave one step before.

    (y[t], state[t]) = cell(x[t], state[t-1]),   state before step 0 is zero

`RecurrentLIF` is the cell of a recurrent spiking layer:

    h[t] = decay * v[t-1] + W x[t] + R s[t-1] + b
    s[t] = 1 if h[t] >= v_th else 0
    v[t] = (1 - s[t]) h[t]  (hard)   or   h[t] - v_th s[t]  (soft)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from picojoule import timeline
from picojoule.core.errors import ShapeError
from picojoule.core.kinds import Kind, binary, real
from picojoule.neurons import surrogate as sg
from picojoule.neurons.base import leaf_key, leaf_module
from picojoule.neurons.lif import LIF


class RecurrentLIF(nn.Module):
    """One step of a layer of LIF neurons that see each other's last spikes.

    Args:
        in_features: width of the input rows.
        features: number of neurons.
        tau: time constant in steps, > 1; decay = 1 - 1/tau.
        v_th: threshold.
        reset: "hard" (to zero) or "soft" (by v_th).
        surrogate: name or Surrogate object.
    """

    kind: Kind = binary
    state_kinds: tuple[Kind, ...] = (real, binary)

    def __init__(
        self,
        in_features: int,
        features: int,
        tau: float = 2.0,
        v_th: float = 1.0,
        reset: str = "soft",
        surrogate: sg.Surrogate | str = "sigmoid",
    ) -> None:
        super().__init__()
        if tau <= 1:
            raise ValueError(f"tau must be above 1 step, got {tau}")
        if reset not in ("hard", "soft"):
            raise ValueError(f"reset must be 'hard' or 'soft', got {reset!r}")
        self.features, self.decay, self.v_th, self.reset = features, 1 - 1 / tau, v_th, reset
        self.input = nn.Linear(in_features, features)
        self.recurrent = nn.Linear(features, features, bias=False)
        nn.init.orthogonal_(self.recurrent.weight, 0.5)
        # tau = 1 has no memory: the membrane is part of this cell's state instead.
        self.fire = LIF(T=1, tau=1.0, v_th=v_th, surrogate=surrogate)

    def forward(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """x [B, in_features], state (v, s) [B, features] each -> spikes [B, features] and the new state."""
        v, s = state
        h = self.decay * v + self.input(x) + self.recurrent(s)
        spikes = self.fire(h, T=1)
        v = h - self.v_th * spikes if self.reset == "soft" else h * (1 - spikes)
        return spikes, (v, spikes)

    def state_rows(self, row: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        """Row shapes of the state for input rows of shape `row`."""
        return ((*row[:-1], self.features),) * 2

    def out_row(self, row: tuple[int, ...]) -> tuple[int, ...]:
        """Row shape of the output for input rows of shape `row`."""
        return (*row[:-1], self.features)


class Recurrent(nn.Module):
    """Runs a one-step cell over time: rows [T*B, ...] -> rows [T*B, ...]; its state is carried in a stream.

    Args:
        cell: module with `forward(x, state) -> (y, state)`, a tuple state of tensors [B, ...],
            `state_rows(row) -> shapes` and `out_row(row) -> shape`; `kind` and `state_kinds` where it spikes.
        T: steps.
    """

    causal = True

    def __init__(self, cell: nn.Module, T: int = 4) -> None:
        super().__init__()
        missing = [name for name in ("state_rows", "out_row") if not hasattr(cell, name)]
        if missing:
            raise ShapeError(
                f"the cell {type(cell).__name__} lacks {' and '.join(missing)}: a cell tells the "
                "shapes of its "
                "state and output rows (see RecurrentLIF)"
            )
        if T < 1:
            raise ShapeError(f"T must be at least 1, got {T}")
        self.cell: Any = cell
        self.T = T

    @property
    def kind(self) -> Kind:
        """Kind of the output."""
        return getattr(self.cell, "kind", real)

    @property
    def state_kinds(self) -> tuple[Kind, ...]:
        """Kinds of the state tensors."""
        return getattr(self.cell, "state_kinds", (real,) * len(self.state_rows((1,))))

    def state_rows(self, row: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        """Row shapes of the state."""
        return tuple(self.cell.state_rows(tuple(row)))

    def set_steps(self, T: int) -> None:
        """Change T."""
        self.T = T

    def forward(self, x: Tensor, T: int | None = None) -> Tensor:
        """Rows [T*B, ...] -> rows [T*B, ...], from zero state, or from the stream's.

        Raises:
            ShapeError: the rows are not a multiple of T.
        """
        active = timeline.current_stream()
        T = T or (active.T if active is not None else self.T)
        if torch.compiler.is_exporting():
            return _recurrent_op(x, T, leaf_key(self), list(self.cell.out_row(tuple(x.shape[1:]))))
        if x.shape[0] % T:
            raise ShapeError(
                f"Recurrent: the leading axis of {tuple(x.shape)} is not a multiple of T={T}; rows "
                "are [T*B, ...]"
            )
        if active is None:
            return self.run(x, T)[0]
        key = active.slot(self)
        out, state = self.run(x, T, active.get(key))
        active.put(key, state)
        return out

    def run(
        self, x: Tensor, T: int, state: tuple[Tensor, ...] | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Outputs [T*B, ...] and the state after step T; None starts at zero."""
        steps = x.reshape(T, x.shape[0] // T, *x.shape[1:])
        if state is None:
            state = tuple(x.new_zeros(steps.shape[1], *row) for row in self.state_rows(tuple(x.shape[1:])))
        out = []
        held: tuple[Tensor, ...] = state
        with timeline.streaming(None):  # the cell's own neurons have no memory beside `held`
            for current in steps:
                y, held = self.cell(current, held)
                out.append(y)
        return torch.cat(out), tuple(held)

    def extra_repr(self) -> str:
        return f"T={self.T}"


@torch.library.custom_op("pj::recurrent", mutates_args=())
def _recurrent_op(x: Tensor, T: int, key: str, row: list[int]) -> Tensor:
    module: Any = leaf_module(key)
    return module.run(x, T)[0].clone()


@_recurrent_op.register_fake
def _(x: Tensor, T: int, key: str, row: list[int]) -> Tensor:
    return x.new_empty((x.shape[0], *row))
