"""A lowered neuron on rows in floating point: the equation of NeuronSpec, step by step."""

from __future__ import annotations

import torch
from torch import Tensor

from picojoule.graph.nodes import Neuron


def fire_rows(x: Tensor, node: Neuron, fields: dict[str, Tensor]) -> Tensor:
    """Spikes [T, B, *row] (times out_scale) for currents x [T, B, *row].

        h[t] = decay * v + gain * x[t] + bias;   n[t] = #{k : h >= th_k}  - [h <= neg_threshold]
        v = reset(h, n), then the membrane table;   out = n * out_scale

    Args:
        fields: constants of the node by field name: [T|1, C|1], thresholds [L, T|1, C|1].
    """
    T, ndim = x.shape[0], x.dim() - 2
    axis = node.axis % ndim if ndim else 0

    def plane(name: str) -> Tensor:
        p = fields[name]
        shape = [1] * ndim
        if ndim:
            shape[axis] = p.shape[-1]
        return p.reshape(*p.shape[:-1], 1, *shape).expand(*p.shape[:-2], T, 1, *shape)

    decay, gain, bias, reset, thresholds = map(plane, ("decay", "gain", "bias", "reset_value", "thresholds"))
    negative = plane("neg_threshold") if "neg_threshold" in fields else None
    v = plane("v_init")[0].expand(x.shape[1:])
    out = torch.empty_like(x)
    for t in range(T):
        h = decay[t] * v + gain[t] * x[t] + bias[t]
        n = torch.zeros_like(h)
        for level, strict in zip(thresholds[:, t], node.strict):
            n += h > level if strict else h >= level
        if negative is not None:
            n -= (h < negative[t] if node.neg_strict else h <= negative[t]).to(h.dtype)
        if node.reset == "soft":
            v = h - n * reset[t]
        elif node.reset == "hard":
            v = torch.where(n == 0, h, reset[t])
        else:
            v = h
        if "breaks" in fields:
            v = fields["values"][torch.bucketize(v.contiguous(), fields["breaks"], right=True)]
        out[t] = n
    return out if node.out_scale == 1.0 else out * node.out_scale
