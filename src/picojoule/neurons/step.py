"""Neurons given by one step: the scan over time, and a user's own step function as a neuron."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from picojoule.core.errors import ShapeError
from picojoule.core.kinds import Kind, binary
from picojoule.neurons import surrogate as sg
from picojoule.neurons.base import Fired, Neuron
from picojoule.neurons.fire import heaviside


def scan(
    step: Callable[[Tensor, Any], tuple[Tensor, Any, Tensor | None]], x: Tensor, T: int, state: Any
) -> Fired:
    """(s[t], state, h[t]) = step(x[t], state) for t = 0..T-1, differentiated by autograd.

    Args:
        x: rows [T*B, ...].
        state: whatever the step takes, for rows [B, ...].
    Returns:
        Fired with h = None when the step gives none.
    """
    spikes, before = [], []
    for current in x.reshape(T, x.shape[0] // T, *x.shape[1:]).unbind(0):
        s, state, h = step(current, state)
        spikes.append(s)
        before.append(h)
    h_rows = None if any(h is None for h in before) else torch.cat(before)
    return Fired(torch.cat(spikes), state, h_rows)


def check_state(state: Any, x: Tensor, T: int) -> None:
    """Refuses a state whose tensors belong to another batch.

    Raises:
        ShapeError: a tensor of the state has another leading axis than the batch.
    """
    batch = x.shape[0] // T
    for item in state if isinstance(state, tuple) else (state,):
        if isinstance(item, Tensor) and item.dim() and item.shape[0] != batch:
            raise ShapeError(
                f"the state holds rows {tuple(item.shape)}, the current {tuple(x.shape)} with T={T} has "
                f"B={batch}; start a new stream for another batch"
            )


class StepNeuron(Neuron):
    """A neuron defined by `begin(x0) -> state` and `step(x, state) -> (spikes, state, h)` on rows [B,
    ...]."""

    def begin(self, x0: Tensor) -> Any:
        """State before the first step, a NamedTuple of tensors; x0 [B, ...] gives shape, dtype and device."""
        raise TypeError(f"{type(self).__name__} defines no begin(x0)")

    def step(self, x: Tensor, state: Any) -> tuple[Tensor, Any, Tensor | None]:
        """One step on rows [B, ...]."""
        raise TypeError(f"{type(self).__name__} defines no step(x, state)")

    def run(self, x: Tensor, T: int, state: Any = None, want_h: bool = False) -> Fired:
        """See Neuron.run."""
        if state is None:
            state = self.begin(x[: x.shape[0] // T])
        else:
            check_state(state, x, T)
        fired = scan(self.step, x, T, state)
        return fired if want_h else fired._replace(h=None)


class ResetNeuron(StepNeuron):
    """A step neuron with a threshold, a hard or soft reset of `v`, and a membrane quantizer.

    Args:
        T: steps.
        v_th: threshold.
        v_reset: value after a spike (hard reset); None subtracts v_th instead (soft reset).
        strict: fire at h > v_th instead of h >= v_th.
        detach_reset: no gradient through the reset.
        surrogate: name or Surrogate object.
        membrane_quant: module applied to the membrane after reset.
    """

    def __init__(
        self,
        T: int,
        v_th: float,
        v_reset: float | None,
        strict: bool,
        detach_reset: bool,
        surrogate: sg.Surrogate | str,
        membrane_quant: nn.Module | None,
    ) -> None:
        super().__init__(T, membrane_quant)
        self.v_th, self.v_reset, self.strict, self.detach_reset = v_th, v_reset, strict, detach_reset
        self.surrogate = sg.get(surrogate)

    def rest(self, x0: Tensor) -> Tensor:
        """A membrane at v_reset (0 for a soft reset)."""
        return torch.full_like(x0, self.v_reset or 0.0)

    def fire_reset(self, h: Tensor, scale: Tensor | float = 1.0) -> tuple[Tensor, Tensor]:
        """Spikes for membranes h, and the membrane after reset; `scale` multiplies what is left of h."""
        s = heaviside(h - self.v_th, self.surrogate, self.strict)
        r = s.detach() if self.detach_reset else s
        if self.v_reset is None:
            v = (h - r * self.v_th) * scale
        else:
            v = (1 - r) * (h * scale) + r * self.v_reset
        return s, v if self.membrane_quant is None else self.membrane_quant(v)


class _FromStep(StepNeuron):
    quantizable = False  # its step function owns the membrane

    def __init__(self, step_fn: Any, init_state: Any, T: int, kind: Kind, name: str) -> None:
        super().__init__(T)
        self.kind = kind
        self.step_fn = step_fn  # an nn.Module becomes a child, so its parameters train and save
        self.init_state = init_state
        self.op_name = name

    def begin(self, x0: Tensor) -> Any:
        return self.init_state(x0)

    def step(self, x: Tensor, state: Any) -> tuple[Tensor, Any, Tensor | None]:
        out = self.step_fn(x, state)
        if (
            not isinstance(out, tuple)
            or len(out) not in (2, 3)
            or (hasattr(out, "_fields") and len(out) == 2)
        ):
            raise ShapeError(
                f"the step function {self.op_name!r} returned {type(out).__name__}; return (spikes, "
                "state) or "
                "(spikes, state, h)"
            )
        spikes, state = out[0], out[1]
        if spikes.shape[0] != x.shape[0]:
            raise ShapeError(
                f"the step function {self.op_name!r} returned spikes {tuple(spikes.shape)} for a current "
                f"{tuple(x.shape)}; keep the batch axis"
            )
        return spikes, state, out[2] if len(out) == 3 else None

    def run(self, x: Tensor, T: int, state: Any = None, want_h: bool = False) -> Fired:
        fired = super().run(x, T, state, True)
        if want_h and fired.h is None:
            raise ValueError(
                f"the step function {self.op_name!r} gives no h; return (spikes, state, h) to inspect "
                "membranes"
            )
        return fired if want_h else fired._replace(h=None)

    def _get_name(self) -> str:
        return self.op_name  # what the user called it

    def extra_repr(self) -> str:
        return f"T={self.T}, kind={self.kind}"


def from_step(
    step_fn: Callable[..., Any],
    init_state: Callable[[Tensor], Any],
    T: int = 4,
    kind: Kind = binary,
    name: str | None = None,
) -> Neuron:
    """A user's own step function as a neuron: multi-step, streaming, with state kept between chunks.

    Args:
        step_fn: (x [B, ...], state) -> (spikes, state) or (spikes, state, h); a module or a function.
        init_state: x0 [B, ...] -> the state before the first step, a NamedTuple of tensors.
        T: steps.
        kind: what the spikes are; measuring checks it on data.
        name: for messages; default the function's own name.

    >>> from typing import NamedTuple
    >>> class V(NamedTuple):
    ...     v: Tensor
    >>> def step(x, state):
    ...     h = state.v + x
    ...     s = heaviside(h - 1.0, sg.get("atan"))
    ...     return s, V(h - s)
    >>> neuron = from_step(step, lambda x0: V(torch.zeros_like(x0)), T=3)
    >>> neuron(torch.full((3, 1), 0.5)).flatten().tolist()
    [0.0, 1.0, 0.0]
    """
    label = name or getattr(step_fn, "__name__", type(step_fn).__name__)
    return _FromStep(step_fn, init_state, T, kind, label)
