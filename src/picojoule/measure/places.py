"""Nodes of a graph by path, also inside recurrent cells: their spike units, weights and bits."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from picojoule.graph import nodes as g
from picojoule.graph.builder import CONSTANT, TO_ROW, TO_TIME
from picojoule.graph.checking import spike_scales
from picojoule.graph.nodes import Graph, Node

Synaptic = g.Conv | g.Linear | g.MatMul


def all_nodes(graph: Graph, prefix: str = "") -> Iterable[tuple[str, tuple[Graph, Node]]]:
    """(path, (graph, node)) of every node; those of a Scan's body follow it as "scan/node"."""
    for node in graph.nodes:
        yield prefix + node.name, (graph, node)
        if isinstance(node, g.Scan):
            yield from all_nodes(node.body, f"{prefix}{node.name}/")


def repeats_of(graph: Graph, path: str) -> int:
    """Steps that a node inside a Scan is executed in; 1 outside."""
    head, slash, _ = path.partition("/")
    return max(graph[head].edge.steps, 1) if slash else 1


def spike_units(graph: Graph, prefix: str = "") -> dict[str, float]:
    """Real value of one spike by path; integers in snapped graphs."""
    found: dict[str, float] = {}
    if graph.stage == "snapped":
        found = {prefix + n.name: 1.0 for n in graph.nodes if n.edge.kind.is_spikes}
    else:
        found = {prefix + k: v for k, v in spike_scales(graph).items()}
    for node in graph.nodes:
        if isinstance(node, g.Scan):
            found |= spike_units(node.body, f"{prefix}{node.name}/")
    return found


def weights_of(
    graph: Graph, node: Synaptic, shapes: list[tuple[int, ...]], other: Node | None
) -> tuple[tuple[int, ...], int, float]:
    """Kernel, stored weights, and bits a weight; of a product its other operand is the weight."""
    if isinstance(node, g.MatMul):
        edge = other.edge if other is not None else graph[node.inputs[1]].edge
        return (), edge.size, float(kind_bits(edge.kind))
    weight = g.weight_codes(graph, node)
    stored = graph.tensor(node.weight)
    bits = node.coding.bits * stored.size / max(1, weight.size)
    return tuple(weight.shape[2:]) if isinstance(node, g.Conv) else (), int(weight.size), bits


def kind_bits(kind: Any) -> int:
    """Bits that hold one value of a kind: 1 binary, 2 ternary, ceil(log2(D+1)) integer, 32 real."""
    if kind.name == "fixed":
        return kind.bits
    if kind.name == "real":
        return 32
    return 2 if kind.name == "ternary" else max(1, math.ceil(math.log2(kind.levels + 1)))


def not_counted(places: dict[str, tuple[Graph, Node]]) -> list[str]:
    """Operators without a counting rule: "path: operator"."""
    return [
        f"{path}: {node.target}"
        for path, (_, node) in places.items()
        if isinstance(node, g.Opaque) and node.target not in (CONSTANT, TO_ROW, TO_TIME)
    ]
