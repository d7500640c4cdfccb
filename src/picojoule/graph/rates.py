"""How often spikes fire: the share of set bits of every spike edge, by bit-plane."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from picojoule.core.kinds import Kind
from picojoule.graph import nodes as g

RATE_SAMPLES = 256  # enough for three digits: every sample holds thousands of neurons


def planes_of(kind: Kind) -> int:
    """Bit-planes of packed spikes: one for binary, +1 and -1 for ternary, the binary digits of counts."""
    return 2 if kind.name == "ternary" else max(1, int(kind.high).bit_length())


def spike_edges(graph: g.Graph) -> dict[str, g.Node]:
    """Nodes that give spikes, by name; outputs only repeat what they read."""
    return {n.name: n for n in graph.nodes if n.edge.kind.is_spikes and not isinstance(n, g.Output)}


def plane_counts(values: np.ndarray, kind: Kind) -> np.ndarray:
    """Set bits of spikes by plane, [planes]."""
    if kind.name == "ternary":
        return np.array([(values > 0).sum(), (values < 0).sum()])
    return np.array([(values >> bit & 1).sum() for bit in range(planes_of(kind))])


def measure(
    graph: g.Graph, parts: Iterable[Mapping[str, Any]], run: Callable[..., Mapping[str, Any]]
) -> dict[str, list[float]]:
    """Share of set bits of every spike edge over the samples.

        rate[plane] = set bits / (samples * T * elements of a row)

    Args:
        graph: stage "snapped".
        parts: batches of inputs by name.
        run: `reference.run`, which executes the graph and returns watched nodes.
    Returns:
        Node name -> one rate in 0..1 a bit-plane (binary spikes have one).
    """
    edges = spike_edges(graph)
    outputs = {node.key for node in graph.outputs}
    watched = [name for name in edges if name not in outputs]
    set_bits: dict[str, Any] = dict.fromkeys(watched, 0)
    elements = dict.fromkeys(watched, 0)
    for part in parts:
        found = run(graph, part, watch=watched)
        for name in watched:
            values = np.asarray(found[name])
            set_bits[name] = set_bits[name] + plane_counts(values, edges[name].edge.kind)
            elements[name] += values.size
    return {
        name: [round(float(bits) / elements[name], 5) for bits in set_bits[name]]
        for name in watched
        if elements[name]
    }


__all__ = ["RATE_SAMPLES", "measure", "plane_counts", "planes_of", "spike_edges"]
