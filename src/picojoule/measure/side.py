"""Work beside the synapses: neuron updates, residual sums, pools, readouts, spike masks.

One update of a neuron in one step: IF 1 accumulate and 1 compare, LIF 1 multiply-accumulate (a shift and an
add when the decay is a power of two) and a compare for every threshold.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from torch import Tensor

from picojoule.graph import nodes as g
from picojoule.graph.nodes import Graph, Node
from picojoule.measure import fans
from picojoule.measure.tally import Events

Counts = dict[str, Any]  # name -> number for each sample [B] or one number


def side_counts(
    graph: Graph,
    node: Node,
    x: list[Tensor],
    spikes: list[Events | None],
    batch: int,
    out: Tensor,
    once: bool,
) -> Counts:
    """Additions, multiplications, masks, compares and neuron updates of one node for one batch.

    Args:
        spikes: events of each input, None where it carries no spikes.
        once: the rows are constant over time and computed once a sample.
    """
    elements = out.numel() / max(batch, 1)
    if once and node.edge.steps:
        elements /= node.edge.steps
    if isinstance(node, g.Neuron):
        return neuron_update(graph, node, elements)
    if isinstance(node, g.Conv | g.Linear):
        folds = all(isinstance(n, g.Affine) for n in graph.consumers(node.name))
        has_bias = node.bias is not None and bool(np.any(graph.tensor(node.bias)))
        return {"adds": elements} if has_bias and not folds else {}
    if isinstance(node, g.Affine):
        return _affine(graph, node, elements)
    if isinstance(node, g.Add):
        return _add(x, spikes, elements)
    if isinstance(node, g.Mul | g.Logic):
        wide = [elements * batch / max(1, v.numel()) for v in x]
        active = [e.nonzero.sum(1) * w for e, w in zip(spikes, wide) if e is not None]
        return {"masks": active[0]} if active else {"mults": elements}
    if isinstance(node, g.Pool | g.Mean):
        return _window(node, x[0], spikes[0], elements)
    if isinstance(node, g.Readout):
        return _readout(node, x[0], spikes[0], elements, batch)
    if isinstance(node, g.TimeMix):
        matrix = graph.tensor(node.matrix)
        per_neuron = np.count_nonzero(matrix) / (matrix.shape[0] if matrix.ndim == 3 else 1)
        work = per_neuron * elements / max(node.edge.steps, 1)
        return {"update_mac" if spikes[0] is None else "update_ac": work}
    if isinstance(node, g.Lut):
        return {"compares": elements * math.ceil(math.log2(len(graph.tensor(node.breaks)) + 1))}
    return {}


def neuron_update(graph: Graph, node: g.Neuron, elements: float) -> Counts:
    """Updates of a neuron layer; without constants a neuron counts as one multiply-accumulate."""
    thresholds = 1 if node.thresholds is None else graph.tensor(node.thresholds).shape[0]
    compares = elements * (thresholds + (node.neg_threshold is not None))
    kind = "update_mac"
    if node.lowered and node.decay is not None:
        decay = np.asarray(graph.tensor(node.decay), dtype=np.float64)
        kind = "update_ac" if shifts_only(decay * 2.0**-node.decay_shift) else "update_mac"
    elif node.lowered:
        kind = "update_ac"
    return {kind: elements, "compares": 0.0, "update_compares": compares}


def shifts_only(factors: np.ndarray) -> bool:
    """True when every factor is 0 or a power of two, so that multiplying by it is a shift.

    >>> shifts_only(np.array([1.0, 0.5, 0.0])), shifts_only(np.array([0.75]))
    (True, False)
    """
    mantissa, _ = np.frexp(np.abs(factors))
    return bool(np.isin(mantissa, (0.0, 0.5)).all())


def _affine(graph: Graph, node: g.Affine, elements: float) -> Counts:
    """Folds into the weights before it or the thresholds after it, where only its shift is left."""
    gain, bias = graph.tensor(node.gain), graph.tensor(node.bias)
    adds = elements if np.any(bias) else 0.0
    if graph.stage == "captured":
        before = graph[node.inputs[0]]
        after = graph.consumers(node.name)
        folds = isinstance(before, g.Conv | g.Linear) or all(isinstance(n, g.Neuron) for n in after)
        return {"adds": adds, "mults": 0.0 if folds else elements}
    return {"adds": adds, "mults": 0.0 if shifts_only(np.asarray(gain, np.float64)) else elements}


def _add(x: list[Tensor], spikes: list[Events | None], elements: float) -> Counts:
    """All operands but one are added; a spike operand only where it is not zero."""
    base = next((i for i, e in enumerate(spikes) if e is None), 0)
    total: Any = 0.0
    for i, (rows, e) in enumerate(zip(x, spikes)):
        if i == base:
            continue
        if e is None:
            total = total + elements
        else:
            wide = elements / max(1.0, float(e.nonzero.shape[1]) * rows.shape[0] / max(1, e.nonzero.shape[0]))
            total = total + e.nonzero.sum(1) * wide
    return {"adds": total}


@lru_cache(maxsize=64)
def _pool_fan(node: g.Pool, shape: tuple[int, ...]) -> Tensor:
    return fans.window_fan_out(node, shape)


def _window(node: g.Pool | g.Mean, x: Tensor, spikes: Events | None, elements: float) -> Counts:
    """Sums count as additions of spikes; a maximum of spikes is a mask, of numbers a compare."""
    if isinstance(node, g.Mean):
        size = math.prod(x.shape[1:]) / max(1, node.edge.size)
        return {"adds": spikes.nonzero.sum(1) if spikes is not None else elements * (size - 1)}
    takes_sum = node.mode in ("avg", "sum")
    if spikes is not None:
        return {"adds" if takes_sum else "masks": spikes.nonzero @ _pool_fan(node, tuple(x.shape[1:]))}
    return {"adds" if takes_sum else "compares": elements * (math.prod(node.kernel) - 1)}


def _readout(node: g.Readout, x: Tensor, spikes: Events | None, elements: float, batch: int) -> Counts:
    if node.mode == "last":
        return {}
    if spikes is not None and node.mode in ("mean", "sum"):
        return {"adds": spikes.nonzero.sum(1)}
    steps = x.shape[0] / max(batch, 1)
    return {"compares" if node.mode == "max" else "adds": elements * (steps - 1)}
