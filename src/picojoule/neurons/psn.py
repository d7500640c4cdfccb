"""Parallel spiking neurons: a linear map over time in place of a recursion, no reset.

    H = W X + b over time,   s[t] = 1 if H[t] >= 0 else 0

    PSN         W [T, T] dense; it looks at the future
    MaskedPSN   W * (lam M + (1 - lam)), M the lower band of width k; causal at lam = 1 only
    SlidingPSN  H[t] = sum_{i<k} w[i] x[t-k+1+i] + b, shared over t; causal, any T

Source: Parallel Spiking Neurons with High Efficiency and Ability to Learn Long-term Dependencies,
arXiv:2304.12760.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from picojoule.core.errors import ShapeError
from picojoule.core.spec import NeuronSpec, spec
from picojoule.neurons import surrogate as sg
from picojoule.neurons.base import Fired, Neuron
from picojoule.neurons.fire import heaviside
from picojoule.timeline import module_path


class Past(NamedTuple):
    """The last inputs [P, B, ...] that later steps still read, and the absolute step."""

    x: Tensor
    step: int


class TimeMixNeuron(Neuron):
    """Base of the family: `window(step, T)` gives the rows of the time matrix for steps step..step+T-1."""

    op_name = "psn"
    quantizable = False

    def __init__(self, T: int, surrogate: sg.Surrogate | str) -> None:
        super().__init__(T)
        self.surrogate = sg.get(surrogate)

    def window(self, step: int, T: int) -> tuple[Tensor, Tensor, int]:
        """Matrix [T, P+T] over the P inputs before `step` and the T of this call, bias [T|1, 1], and P."""
        raise TypeError(f"{type(self).__name__} defines no window(step, T)")

    def memory(self) -> int:
        """How many past inputs a later step reads."""
        return 0

    def run(self, x: Tensor, T: int, state: Past | None = None, want_h: bool = False) -> Fired:
        """See Neuron.run."""
        steps = x.reshape(T, x.shape[0] // T, *x.shape[1:])
        step = 0 if state is None else state.step
        matrix, bias, back = self.window(step, T)
        if state is not None:
            if state.x.shape[1:] != steps.shape[1:]:
                raise ShapeError(
                    f"the state holds inputs {tuple(state.x.shape[1:])}, the rows "
                    f"{tuple(steps.shape[1:])}; start a "
                    "new stream for another batch"
                )
            steps = torch.cat([state.x[state.x.shape[0] - back :], steps])
        h = (
            torch.addmm(bias.to(x.dtype), matrix.to(x.dtype), steps.flatten(1))
            if x.numel()
            else x.reshape(T, -1)
        )
        spikes = heaviside(h, self.surrogate).reshape(x.shape)
        keep = min(self.memory(), steps.shape[0])
        past = Past(steps[steps.shape[0] - keep :], step + T)
        return Fired(spikes, past, h.reshape(x.shape) if want_h else None)

    def time_matrix(self, T: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The map over time as constants: matrix [T, T] and bias [T], float64; `lower()` fires on its
        output."""
        T = self.T if T is None else T
        matrix, bias, _ = self.window(0, T)
        plain = [p.detach().double().cpu() for p in (matrix, bias)]
        return plain[0].numpy(), plain[1].expand(T, 1).flatten().numpy()

    def lower(self) -> NeuronSpec:
        """The firing that follows `time_matrix`: threshold 0, no memory, no reset."""
        return spec(self.kind, thresholds=0.0, reset="none", reset_value=0.0)


class PSN(TimeMixNeuron):
    """Dense parallel spiking neuron; sees all T steps at once, so it cannot be streamed.

    Args:
        T: steps, fixed at construction.
        surrogate: name or Surrogate object.
    """

    causal = False
    fixed_steps = True

    def __init__(self, T: int = 4, surrogate: sg.Surrogate | str = "atan") -> None:
        super().__init__(T, surrogate)
        self.weight = nn.Parameter(torch.empty(T, T))
        self.bias = nn.Parameter(torch.full((T, 1), -1.0))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))

    def window(self, step: int, T: int) -> tuple[Tensor, Tensor, int]:
        if T != self.T or step:
            raise ShapeError(
                f"{module_path(self)} holds parameters shaped by T={self.T}, got T={T}; build it anew or use "
                "SlidingPSN"
            )
        return self.weight, self.bias, 0

    def run(self, x: Tensor, T: int, state: Any = None, want_h: bool = False) -> Fired:
        return super().run(x, T, state, want_h)._replace(state=None)

    def extra_repr(self) -> str:
        return f"T={self.T}"


class MaskedPSN(TimeMixNeuron):
    """Parallel spiking neuron of order k, whose mask is blended in while training by `lam` 0 -> 1.

    Args:
        T: steps, fixed at construction.
        k: order, the number of steps a step sees, 1..T.
        lam: blend of the mask; only at 1 is the neuron causal.
        surrogate: name or Surrogate object.
    """

    fixed_steps = True
    mask: Tensor
    blend: Tensor

    def __init__(
        self, T: int = 4, k: int = 2, lam: float = 0.0, surrogate: sg.Surrogate | str = "atan"
    ) -> None:
        super().__init__(T, surrogate)
        if not 1 <= k <= T:
            raise ValueError(f"the order k must lie in 1..T={T}, got {k}")
        self.k = k
        self.weight = nn.Parameter(torch.empty(T, T))
        self.bias = nn.Parameter(torch.full((T, 1), -1.0))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        ones = torch.ones(T, T)
        self.register_buffer("mask", torch.tril(ones) * torch.triu(ones, 1 - k), persistent=False)
        self.register_buffer("blend", torch.tensor(0.0))
        self.lam = lam

    @property
    def lam(self) -> float:
        """Blend of the mask, 0..1; saved with the model."""
        return float(self.blend)

    @lam.setter
    def lam(self, value: float) -> None:
        if not 0 <= value <= 1:
            raise ValueError(f"lam must lie in [0, 1], got {value}")
        self.blend.fill_(value)

    @property
    def causal(self) -> bool:  # type: ignore[override]
        """True only when the mask is complete (lam = 1)."""
        return self.lam >= 1

    def memory(self) -> int:
        return self.k - 1

    def window(self, step: int, T: int) -> tuple[Tensor, Tensor, int]:
        whole = step == 0 and T == self.T
        if not whole and (not self.causal or step + T > self.T):
            raise ShapeError(
                f"{module_path(self)} holds parameters shaped by T={self.T}, got steps "
                f"{step}..{step + T - 1}; build it "
                "anew or use SlidingPSN"
            )
        matrix = self.weight * (self.mask if self.causal else self.blend * self.mask + (1 - self.blend))
        back = min(step, self.k - 1)
        return matrix[step : step + T, step - back : step + T], self.bias[step : step + T], back

    def extra_repr(self) -> str:
        return f"T={self.T}, k={self.k}, lam={self.lam:g}"


class SlidingPSN(TimeMixNeuron):
    """Parallel spiking neuron whose k weights slide over time: causal, streams, any T.

    Args:
        T: steps.
        k: number of taps, >= 1; they start at 2^-(k-1), ..., 1/2, 1.
        surrogate: name or Surrogate object.
    """

    def __init__(self, T: int = 4, k: int = 2, surrogate: sg.Surrogate | str = "atan") -> None:
        super().__init__(T, surrogate)
        if k < 1:
            raise ValueError(f"the number of taps k must be at least 1, got {k}")
        self.k = k
        self.weight = nn.Parameter(2.0 ** torch.arange(1 - k, 1, dtype=torch.float32))
        self.bias = nn.Parameter(torch.tensor(-1.0))

    def memory(self) -> int:
        return self.k - 1

    def window(self, step: int, T: int) -> tuple[Tensor, Tensor, int]:
        back = min(step, self.k - 1)
        t = torch.arange(T, device=self.weight.device)[:, None] + back
        j = torch.arange(T + back, device=self.weight.device)[None, :]
        age = t - j
        taps = self.weight[(self.k - 1 - age).clamp(0, self.k - 1)]
        matrix = torch.where((age >= 0) & (age < self.k), taps, 0.0)
        return matrix, self.bias.view(1, 1), back

    def extra_repr(self) -> str:
        return f"T={self.T}, k={self.k}"
