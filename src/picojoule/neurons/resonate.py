"""Resonate-and-fire neurons: a damped oscillator in place of a leak.

    z[t] = exp(dt (b + i w)) z[t-1] + dt x[t],   s[t] = 1 if Re z[t] >= th[t] else 0
    RF:   b = -|b'|,                    th = v_th, or v_th + q[t-1] with a refractory threshold
    BRF:  b = p(w) - |b'| - q[t-1],     th = v_th + q[t-1],   p(w) = (sqrt(1 - (dt w)^2) - 1) / dt
    q[t] = gamma q[t-1] + s[t]

Nothing is reset: oscillation and phase survive a spike. Sources: Izhikevich, Resonate-and-fire neurons, 2001;
Balanced resonate-and-fire neurons, arXiv:2402.14603. Written from the equations.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from picojoule.core.errors import ShapeError
from picojoule.neurons import surrogate as sg
from picojoule.neurons.fire import heaviside
from picojoule.neurons.step import StepNeuron


class RFState(NamedTuple):
    """Real and imaginary part of the oscillator and the refractory trace, each [B, ...]."""

    re: Tensor
    im: Tensor
    q: Tensor


class RF(StepNeuron):
    """Resonate-and-fire neuron with learned frequency and damping per channel.

    Args:
        T: steps.
        channels: size of the channel axis; 1 shares one oscillator.
        dt: step size; dt * omega is the angle turned in a step.
        omega: range (low, high) of the initial angular frequencies, spread evenly over channels.
        damping: initial |b'|, > 0.
        v_th: threshold.
        gamma: decay of the refractory trace; None for none.
        axis: channel axis of the rows.
        surrogate: name or Surrogate object.
    """

    op_name = "rf"
    quantizable = False

    def __init__(
        self,
        T: int = 4,
        channels: int = 1,
        dt: float = 0.1,
        *,
        omega: tuple[float, float] = (1.0, 5.0),
        damping: float = 1.0,
        v_th: float = 0.1,
        gamma: float | None = None,
        axis: int = 1,
        surrogate: sg.Surrogate | str = "triangle",
    ) -> None:
        super().__init__(T)
        if dt <= 0 or damping <= 0:
            raise ValueError(f"dt and damping must be positive, got dt={dt}, damping={damping}")
        if axis == 0:
            raise ShapeError("axis 0 of the rows is time and batch; channels lie on axis 1 or later")
        self.channels, self.dt, self.v_th, self.gamma, self.axis = channels, dt, v_th, gamma, axis
        self.omega = nn.Parameter(torch.linspace(omega[0], omega[1], channels))
        self.damping = nn.Parameter(torch.full((channels,), damping))
        self.surrogate = sg.get(surrogate)

    def _along(self, p: Tensor, like: Tensor) -> Tensor:
        shape = [1] * like.dim()
        shape[self.axis] = self.channels
        return p.view(shape)

    def begin(self, x0: Tensor) -> RFState:
        if self.channels != 1 and x0.shape[self.axis] != self.channels:
            raise ShapeError(
                f"{type(self).__name__} was built for channels={self.channels} on axis {self.axis}, got rows "
                f"{tuple(x0.shape)}"
            )
        return RFState(torch.zeros_like(x0), torch.zeros_like(x0), torch.zeros_like(x0))

    def rate(self, w: Tensor, q: Tensor) -> Tensor:
        """Exponent b of the decay, negative."""
        return -self._along(self.damping, q).abs()

    def step(self, x: Tensor, state: RFState) -> tuple[Tensor, RFState, Tensor]:
        w = self._along(self.omega, x).abs()
        size = torch.exp(self.dt * self.rate(w, state.q))
        c, d = size * torch.cos(self.dt * w), size * torch.sin(self.dt * w)
        re = c * state.re - d * state.im + self.dt * x
        im = d * state.re + c * state.im
        s = heaviside(re - self.v_th - state.q, self.surrogate)
        q = state.q if self.gamma is None else self.gamma * state.q + s
        return s, RFState(re, im, q), re

    def extra_repr(self) -> str:
        return f"T={self.T}, channels={self.channels}, dt={self.dt:g}, v_th={self.v_th:g}"


class BRF(RF):
    """Balanced resonate-and-fire neuron: the damping keeps every frequency stable and grows after a spike.

    Args:
        T, channels, dt, omega, damping, v_th, axis, surrogate: as in RF; dt * omega must stay below 1.
        gamma: decay of the refractory trace.
    """

    op_name = "brf"

    def __init__(
        self,
        T: int = 4,
        channels: int = 1,
        dt: float = 0.01,
        *,
        omega: tuple[float, float] = (5.0, 10.0),
        damping: float = 1.0,
        v_th: float = 1.0,
        gamma: float = 0.9,
        axis: int = 1,
        surrogate: sg.Surrogate | str = "triangle",
    ) -> None:
        if max(abs(omega[0]), abs(omega[1])) * dt >= 1:
            raise ValueError(
                f"a balanced neuron needs dt * omega < 1, got dt={dt} and omega in {omega}; lower dt"
            )
        super().__init__(
            T,
            channels,
            dt,
            omega=omega,
            damping=damping,
            v_th=v_th,
            gamma=gamma,
            axis=axis,
            surrogate=surrogate,
        )

    def rate(self, w: Tensor, q: Tensor) -> Tensor:
        balance = (torch.sqrt((1 - (self.dt * w) ** 2).clamp_min(1e-12)) - 1) / self.dt
        return balance - self._along(self.damping, q).abs() - q
