"""Elastic bi-spiking neuron of SpikeLM: ternary spikes with a measured or learned amplitude.

    m[t] = x[t] + carry[t-1],   n[t] = clamp(round(m[t] / a), -1, 1),   s[t] = a n[t]
    carry = decay m (1 - |n|)                 default
          = decay m (a - s)                   official: a negative spike amplifies the carry

Amplitude, spike and membrane carry no gradient over time; within a step ds/dm = 1 where |m| <= a, else 0.
The amplitude of a step is k mean|m| of the first training batch, then frozen or learned (LSQ gradient).
Source: SpikeLM, arXiv:2406.03287.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from picojoule.core.errors import PackError, ShapeError
from picojoule.core.kinds import ternary
from picojoule.core.spec import NeuronSpec, spec
from picojoule.neurons.base import Fired
from picojoule.neurons.step import StepNeuron
from picojoule.timeline import module_path


class ElasticState(NamedTuple):
    """What is left of the membrane [B, ...], and the absolute step."""

    v: Tensor
    step: int


class _Elastic(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, m: Tensor, a: Tensor) -> Tensor:
        ctx.save_for_backward(m, a)
        return a * (m / a).round().clamp(-1, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        m, a = ctx.saved_tensors
        q = m / a
        inside = q.abs() <= 1
        ga = None
        if ctx.needs_input_grad[1]:
            slope = torch.where(inside, q.round() - q, q.sign())
            ga = (grads[0] * slope).sum().reshape(a.shape) / math.sqrt(max(m.numel(), 1))
        return grads[0] * inside, ga


class ElasticTernary(StepNeuron):
    """SpikeLM's neuron: spikes in {-a, 0, a}.

    Args:
        T: steps; with one amplitude a step they are fixed at construction.
        decay: factor of the carry.
        k: amplitude over mean |m| at the first training batch; larger k fires less.
        shared: one amplitude for all steps, which can be packed and streamed to any length.
        learn: train the amplitude (LSQ) instead of freezing it.
        official: the carry of the released code, for parity.
    """

    kind = ternary
    op_name = "elastic"
    quantizable = False
    amplitude: Tensor
    initialised: Tensor

    def __init__(
        self,
        T: int = 4,
        decay: float = 0.25,
        k: float = 2.0,
        *,
        shared: bool = False,
        learn: bool = False,
        official: bool = False,
    ) -> None:
        super().__init__(T)
        if k <= 0 or not 0 <= decay <= 1:
            raise ValueError(f"k must be positive and decay in [0, 1], got k={k}, decay={decay}")
        self.decay, self.k, self.shared, self.official = decay, k, shared, official
        start = torch.ones(1 if shared else T)
        if learn:
            self.amplitude = nn.Parameter(start)
        else:
            self.register_buffer("amplitude", start)
        self.register_buffer("initialised", torch.zeros(start.shape, dtype=torch.bool))

    @property
    def fixed_steps(self) -> bool:
        """True when there is one amplitude a step."""
        return not self.shared

    def begin(self, x0: Tensor) -> ElasticState:
        return ElasticState(torch.zeros_like(x0), 0)

    @torch.no_grad()
    def _measure(self, m: Tensor, i: int) -> None:
        size = float(m.detach().abs().mean())
        if math.isfinite(size) and size > 0:  # a silent or empty batch says nothing; wait for the next one
            self.amplitude[i] = self.k * size
            self.initialised[i] = True

    def step(self, x: Tensor, state: ElasticState) -> tuple[Tensor, ElasticState, Tensor]:
        i = 0 if self.shared else state.step
        if i >= self.amplitude.numel():
            raise ShapeError(
                f"{module_path(self)} holds one amplitude for each of T={self.amplitude.numel()} "
                f"steps, got step {i}; "
                "build it with shared=True for longer sequences"
            )
        m = x + state.v
        if self.training and not self.initialised[i]:
            self._measure(m, i)
        a = self.amplitude[i]
        s = _Elastic.apply(m, a)
        left = (a - s) if self.official else 1 - (s / a).abs()
        return s, ElasticState((self.decay * m * left).detach(), state.step + 1), m

    def run(self, x: Tensor, T: int, state: ElasticState | None = None, want_h: bool = False) -> Fired:
        if self.fixed_steps and T > self.T:
            raise ShapeError(
                f"{module_path(self)} holds one amplitude for each of T={self.T} steps, got T={T}; "
                "build it with "
                "shared=True for longer sequences"
            )
        return super().run(x, T, state, want_h)

    def lower(self) -> NeuronSpec:
        """Constants for packing; the carry of the default form is a hard reset to 0.

        Raises:
            PackError: amplitudes that differ between steps, or the official carry.
        """
        a = self.amplitude.detach().double()
        if self.official or not bool((a == a[0]).all()):
            raise PackError(
                f"{module_path(self)}: only the default carry with one amplitude for all steps has a "
                "packed form; "
                "build it with shared=True and official=False"
            )
        half = float(a[0]) / 2
        return spec(
            self.kind,
            decay=self.decay,
            thresholds=half,
            strict=True,
            neg_threshold=-half,
            neg_strict=True,
            reset="hard",
            reset_value=0.0,
            out_scale=float(a[0]),
        )

    def extra_repr(self) -> str:
        return f"T={self.T}, decay={self.decay:g}, k={self.k:g}, shared={self.shared}"
