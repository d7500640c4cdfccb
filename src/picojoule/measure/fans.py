"""Fan-out maps: how many synapses leave each input position of a node.

    fan[i] = number of outputs that read input i      sum_i s_i fan[i] = sum(conv(s, ones))

so that the exact number of synaptic operations is one dot product with the spike counts.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from picojoule.graph import nodes as g
from picojoule.graph.nodes import Graph


def dense_ops(node: g.Node, in_shapes: list[tuple[int, ...]], kernel: tuple[int, ...] = ()) -> int:
    """FL of one step: K^d (C_in/g) C_out * outputs of a conv, N_in N_out of a linear, n k m of a product.

    Padding counts, as papers count it.
    """
    if isinstance(node, g.Conv):
        return math.prod(kernel) * (in_shapes[0][0] // node.groups) * node.edge.size
    if isinstance(node, g.Linear | g.MatMul):
        return in_shapes[0][-1] * node.edge.size
    raise TypeError(f"{type(node).__name__} is no synaptic node")


def fan_out(graph: Graph, node: g.Conv | g.Linear, shape: tuple[int, ...]) -> Tensor:
    """Outgoing synapses of every input position, all weights counted; float64 [prod(shape)].

    Args:
        shape: row shape of the input.
    """
    if isinstance(node, g.Linear):
        return torch.full((math.prod(shape),), float(node.edge.shape[-1]), dtype=torch.float64)
    kernel = g.weight_codes(graph, node).shape[2:]
    one = torch.ones(1, 1, *kernel, dtype=torch.float64)
    space = _transposed(torch.ones(1, 1, *node.edge.shape[1:], dtype=torch.float64), one, node, shape, 1)
    per_channel = node.edge.shape[0] // node.groups
    return (space * per_channel).expand(1, *shape).reshape(-1)


def effective_fan_out(graph: Graph, node: g.Conv | g.Linear, shape: tuple[int, ...]) -> Tensor | None:
    """The same without zero weights; None when no weight is zero."""
    weight = g.weight_codes(graph, node)
    alive = torch.from_numpy(np.ascontiguousarray(weight != 0)).double()
    if bool(alive.all()):
        return None
    if isinstance(node, g.Linear):
        return alive.sum(0).expand(shape).reshape(-1)
    ones = torch.ones(1, *node.edge.shape, dtype=torch.float64)
    return _transposed(ones, alive, node, shape, node.groups).reshape(-1)


def window_fan_out(node: g.Pool, shape: tuple[int, ...]) -> Tensor:
    """Windows of a pool that read each input position; float64 [prod(shape)]."""
    one = torch.ones(1, 1, *node.kernel, dtype=torch.float64)
    ones = torch.ones(1, 1, *node.edge.shape[1:], dtype=torch.float64)
    return _transposed(ones, one, node, shape, 1).expand(1, *shape).reshape(-1)


def _transposed(
    ones: Tensor, weight: Tensor, node: g.Conv | g.Pool, shape: tuple[int, ...], groups: int
) -> Tensor:
    """Adjoint of the node's window: [1, C, *output] -> [1, C', *input], borders cut."""
    n = len(node.stride)
    turns = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
    dilation = node.dilation if isinstance(node, g.Conv) else (1,) * n
    full = turns[n - 1](ones, weight, stride=node.stride, groups=groups, dilation=dilation)
    missing = []
    for have, size, (before, after) in zip(full.shape[2:], shape[1:], node.padding):
        missing.append(max(0, size + before + after - have))
    full = F.pad(full, [w for m in reversed(missing) for w in (0, m)])
    for axis, (size, (before, _)) in enumerate(zip(shape[1:], node.padding)):
        full = full.narrow(axis + 2, before, size)
    return full
