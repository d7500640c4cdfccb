"""Where an operand comes from: why a layer counts as AC or MAC, what is constant in time, unfolded norms."""

from __future__ import annotations

import math

import numpy as np

from picojoule.core.kinds import Kind, integer
from picojoule.graph import nodes as g
from picojoule.graph.nodes import Graph, Node

Places = dict[str, tuple[Graph, Node]]
_QUIET = (
    g.Conv | g.Linear | g.Affine | g.Reshape | g.Pool | g.Add | g.Mul | g.Mean | g.Concat | g.Upsample | g.Lut
)


def constant_in_time(graph: Graph) -> set[str]:
    """Names of nodes with the same rows in every step: a repeated input and what follows without state."""
    found: set[str] = set()
    for node in graph.nodes:
        repeated = isinstance(node, g.Repeat)
        if repeated or (isinstance(node, _QUIET) and node.edge.steps and set(node.inputs) <= found):
            found.add(node.name)
    return found


def before_repeat(graph: Graph) -> dict[str, int]:
    """Nodes of one row a sample that are repeated later, with the T that each stands for (snapped graphs)."""
    found: dict[str, int] = {}
    for node in reversed(graph.nodes):
        steps = node.edge.steps if isinstance(node, g.Repeat) else found.get(node.name, 0)
        if steps:
            for name in node.inputs:
                if not graph[name].edge.steps:
                    found[name] = max(steps, found.get(name, 0))
    return found


def sums_of_spikes(places: Places, scales: dict[str, float]) -> dict[str, tuple[Kind, float]]:
    """Averages and sums of binary or integer spikes, and their moves, as counts: path -> (kind, unit).

    A window of k spikes up to D holds an integer up to k D; an average divides its unit by k.
    """
    found: dict[str, tuple[Kind, float]] = {}
    for path, (_, node) in places.items():
        if node.edge.kind.is_spikes or not node.inputs:
            continue
        head = path[: len(path) - len(node.name)]
        source = head + node.inputs[0]
        kind, unit = found.get(source, (places[source][1].edge.kind, scales.get(source, 1.0)))
        if kind.name not in ("binary", "integer"):
            continue
        if isinstance(node, g.Reshape | g.Upsample):
            found[path] = kind, unit
        elif isinstance(node, g.Pool) and node.mode in ("avg", "sum"):
            k = math.prod(node.kernel)
            divisor = (node.divisor or k) if node.mode == "avg" else 1
            found[path] = integer(kind.levels * k), unit / divisor
        elif isinstance(node, g.Mean):
            k = places[source][1].edge.size // max(1, node.edge.size)
            found[path] = integer(kind.levels * k), unit / (1 if node.total else k)
    return found


def explain(places: Places, source: str, kind: Kind) -> str:
    """One sentence on the operand of a layer, counted as `kind`."""
    declared = places[source][1].edge.kind
    if kind.is_spikes:
        schedule = {
            "integer": f"counts up to {kind.levels}, each expanded into unary spikes",
            "ternary": "signed spikes add or subtract",
            "time": "one spike that carries its step",
        }.get(kind.name, "spikes add their weight")
        was = "" if declared.is_spikes else ", a sum or average of spikes"
        return f"AC: {source!r} is {kind}{was}: {schedule}"
    return f"MAC: {source!r} is {kind}: {_cause(places, source)}"


def _cause(places: Places, path: str) -> str:
    owner, node = places[path]
    head = path[: len(path) - len(node.name)]
    while isinstance(node, g.Reshape | g.Repeat | g.Upsample) and node.inputs:
        node = owner[node.inputs[0]]
    before = owner[node.inputs[0]] if node.inputs else None
    if isinstance(node, g.Input):
        return "the analogue input of the network" if not head else "the input of a recurrent cell"
    if (
        isinstance(node, g.Pool)
        and node.mode in ("avg", "sum")
        and before is not None
        and before.edge.kind.is_spikes
    ):
        return f"a pool sums {math.prod(node.kernel)} spikes"
    if isinstance(node, g.Mean) and before is not None and before.edge.kind.is_spikes:
        return "a sum or mean over spikes"
    names = {
        g.Add: "a residual sum",
        g.Affine: "a normalisation or scale",
        g.MatMul: "a matrix product without a neuron after it",
        g.Conv: "a convolution without a neuron after it",
        g.Linear: "a linear layer without a neuron after it",
        g.Mul: "a product with numbers that are no spikes",
        g.Neuron: "the neuron before it declares no spike kind",
        g.Scan: "the recurrent cell before it gives numbers",
    }
    word = names.get(type(node), f"{type(node).__name__} of numbers")
    return f"the operator {node.target}" if isinstance(node, g.Opaque) else word


def unfolded_norms(graph: Graph) -> list[tuple[str, str]]:
    """(norm, layer): an Affine with a shift that stands between spikes and a synapse.

    A pure scale folds into the weights that follow; a shift does not (zero padding sees 0, not the shift).
    """
    found: list[tuple[str, str]] = []
    if graph.stage != "captured":
        return found
    for node in graph.nodes:
        if not isinstance(node, g.Conv | g.Linear | g.MatMul):
            continue
        for name in node.inputs:
            source = _through(graph, graph[name])
            if not isinstance(source, g.Affine):
                continue
            before = _through(graph, graph[source.inputs[0]])
            if before.edge.kind.is_spikes and np.any(graph.tensor(source.bias)):
                found.append((source.name, node.name))
    return found


def _through(graph: Graph, node: Node) -> Node:
    """The node behind moves of data."""
    while isinstance(node, g.Reshape | g.Upsample | g.Repeat) and node.inputs:
        node = graph[node.inputs[0]]
    return node
