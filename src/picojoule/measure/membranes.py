"""Membranes before firing, for looking at: how far neurons are from their thresholds."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from picojoule.graph import nodes as g
from picojoule.graph.nodes import Graph

BINS, LOW, HIGH = 24, -1.0, 2.0  # in thresholds; what lies outside counts in the outer bins
SAMPLES, LAYERS = 1, 16  # the first sample alone, so that the batch size changes nothing


def membrane_histogram(graph: Graph, node: g.Neuron, path: str, x: Tensor, T: int) -> dict[str, Any] | None:
    """Distribution of h over all neurons and steps of the first sample, in thresholds of the first level.

        h[t] = rshift(decay v[t-1]) + gain x[t] + bias;   u = h / threshold

    Args:
        x: input rows [T*B, *shape].
    Returns:
        {layer, counts, low, high, above}: a histogram, its range, and the share with u >= 1; None for
        neurons without constants, with a table, or with a threshold that is not positive everywhere.
    """
    if not node.lowered or node.breaks is not None or node.thresholds is None:
        return None
    steps = x.reshape(T, -1, *x.shape[1:])[:, :SAMPLES].double()
    fields = {k: torch.tensor(graph.tensor(v), dtype=torch.float64) for k, v in g.tensor_fields(node).items()}
    ndim = steps.dim() - 2
    axis = node.axis % ndim if ndim else 0

    def plane(name: str, empty: float) -> Tensor:
        held = fields.get(name, torch.full((1, 1), empty, dtype=torch.float64))
        shape = [1] * ndim
        if ndim:
            shape[axis] = held.shape[-1]
        return held.reshape(*held.shape[:-1], 1, *shape).expand(*held.shape[:-2], T, 1, *shape)

    decay, gain, bias = plane("decay", 1.0), plane("gain", 1.0), plane("bias", 0.0)
    amount, levels = plane("reset_value", 0.0), plane("thresholds", 1.0)
    if bool((levels[0] <= 0).any()):
        return None
    v = plane("v_init", 0.0)[0].expand(steps.shape[1:])
    seen = []
    for t in range(T):
        h = _leaked(decay[t] * v, node) + gain[t] * steps[t] + bias[t]
        n = sum((h >= level).double() for level in levels[:, t])
        if node.neg_threshold is not None:
            n = n - (h <= plane("neg_threshold", 0.0)[t]).double()
        v = h - n * amount[t] if node.reset == "soft" else h
        if node.reset == "hard":
            v = torch.where(torch.as_tensor(n) == 0, h, amount[t])
        seen.append((h / levels[0, t]).flatten())
    u = torch.cat(seen)
    counts = torch.histc(u.clamp(LOW, HIGH), BINS, LOW, HIGH).int().tolist()
    return {
        "layer": path,
        "counts": counts,
        "low": LOW,
        "high": HIGH,
        "above": float((u >= 1).double().mean()),
    }


def _leaked(v: Tensor, node: g.Neuron) -> Tensor:
    """decay * v with the node's rounding after its shift."""
    if not node.decay_shift:
        return v
    half = 2.0 ** (node.decay_shift - 1) if node.rounding == "half_up" else 0.0
    return torch.floor((v + half) * 2.0**-node.decay_shift)
