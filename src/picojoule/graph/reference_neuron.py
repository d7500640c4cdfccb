"""Neurons and staircases of the reference interpreter: integers in, integers out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from picojoule.core.errors import KindError, PackError, ShapeError
from picojoule.graph import nodes as g
from picojoule.graph.reference_run import Run, along, magnitude, rows_per_step, rshift


def at_step(plane: Tensor, t: int, node: Any, ndim: int) -> Tensor:
    """Row t of a constant [T|1, C|1], shaped to broadcast over one step."""
    if plane.shape[0] != 1 and t >= plane.shape[0]:
        raise ShapeError(
            f"node {node.name!r} has constants for {plane.shape[0]} steps, step {t + 1} was asked"
        )
    return along(plane[t if plane.shape[0] > 1 else 0], node.axis, ndim)


def neuron(run: Run, node: g.Neuron, x: Tensor) -> Tensor:
    """Charge, fire, reset, table; see `nodes.Neuron` for the equation."""
    timed = node.edge.steps > 0
    steps = rows_per_step(x, run.T if timed else 1)
    first = run.step if timed else 0
    v = run.state.get(node.name) if timed else None
    if v is None:
        v = at_step(run.constant(_named(node, "v_init")), 0, node, x.dim() - 1).expand_as(steps[0])
    out = []
    for t in range(steps.shape[0]):
        spikes, v = neuron_step(run, node, steps[t], v, first + t)
        out.append(spikes)
    if timed:
        run.state[node.name] = v
    return torch.cat(out)


def neuron_step(run: Run, node: g.Neuron, x: Tensor, v: Tensor, t: int) -> tuple[Tensor, Tensor]:
    """One step: current x and membrane v [B, ...] -> (spike counts, membrane after reset)."""

    def at(name: str) -> Tensor:
        return at_step(run.constant(_named(node, name)), t, node, x.dim() - 1)

    decay, gain, bias = at("decay"), at("gain"), at("bias")
    run.bound(node, magnitude(decay) * magnitude(v) + 2**node.decay_shift)
    run.bound(node, magnitude(decay) * magnitude(v) + magnitude(gain) * magnitude(x) + magnitude(bias))
    h = rshift(decay * v, node.decay_shift, node.rounding) + gain * x + bias
    _check_membrane(node, h)
    n = torch.zeros_like(h)
    for level in run.constant(_named(node, "thresholds")):
        n = n + (h >= at_step(level, t, node, x.dim() - 1))
    if node.neg_threshold is not None:
        n = n - (h <= at("neg_threshold")).to(n.dtype)
    if node.reset == "hard":
        v = torch.where(n != 0, at("reset_value"), h)
    elif node.reset == "soft":
        v = h - n * at("reset_value")
    else:
        v = h
    if node.breaks is not None:
        v = staircase(v, run.constant(node.breaks), run.constant(_named(node, "values")))
    _check_membrane(node, v)
    return n, v


def _named(node: g.Neuron, name: str) -> str:
    found = getattr(node, name)
    if found is None:
        raise PackError(f"neuron {node.name!r} of a snapped graph lacks {name!r}")
    return found


def _check_membrane(node: g.Neuron, v: Tensor) -> None:
    if node.v_bits and magnitude(v) >= 1 << (node.v_bits - 1):
        raise KindError(
            f"neuron {node.name!r} reached {magnitude(v)}, beyond its {node.v_bits} membrane bits"
        )


def staircase(x: Tensor, breaks: Tensor, values: Tensor) -> Tensor:
    """values[#{j : x >= breaks[j]}]."""
    return values[torch.searchsorted(breaks, x.contiguous(), right=True)]


def lut(run: Run, node: g.Lut, x: Tensor) -> Tensor:
    """A staircase of the input."""
    return staircase(x, run.constant(node.breaks), run.constant(node.values))
