"""Checks of a snapped graph before anything executes or packs it. No torch.

`check_graph` recomputes the row shape, the steps and the integer bounds of every node and compares them with
what the graph declares; the writer, the loader and folding use it. `bounds` gives the intervals alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from picojoule.core.errors import PackError, PicojouleError
from picojoule.graph import nodes as n
from picojoule.graph.intervals import BOUNDS, Interval, TooWide, of_input, of_kind, span, too_wide
from picojoule.graph.membranes import neuron
from picojoule.graph.moves import MAX_EXTENT, MAX_RANK, MAX_STEPS, fail
from picojoule.graph.shapes import RULES, infer

SCAN_STEPS = 64  # steps of a recurrent cell that are followed exactly before its declared states are used


class Analysis(NamedTuple):
    """Ends of every edge and of every membrane (h and v), by node name."""

    edges: dict[str, tuple[int, int]]
    membranes: dict[str, tuple[int, int]]


def check_graph(graph: n.Graph, *, error: type[PicojouleError] = PackError) -> Analysis:
    """Prove that a snapped graph is consistent and that no integer leaves its declared edge.

    Args:
        graph: stage "snapped".
        error: class to raise, `FormatError` when a file is read.
    Returns:
        The integer bounds of edges and membranes.
    Raises:
        PackError (or `error`): the message names the node and the field.
    """
    try:
        if graph.stage != "snapped":
            raise PackError(
                f"only snapped graphs hold integers alone, this one is {graph.stage!r}: snap it first"
            )
        check_shapes(graph)
        return analyse(graph)
    except PackError as wrong:
        if error is PackError:
            raise
        raise error(str(wrong)) from None


def bounds(graph: n.Graph) -> dict[str, tuple[int, int]]:
    """Smallest and largest integer of every edge, by node name."""
    return analyse(graph).edges


def membranes(graph: n.Graph) -> dict[str, tuple[int, int]]:
    """Smallest and largest h or v of every neuron over its T steps, by node name."""
    return analyse(graph).membranes


def check_shapes(graph: n.Graph) -> None:
    """Recompute rows and steps of every node and compare them with its edge."""
    known: dict[str, n.Edge] = {}
    keys: set[str] = set()
    for node in graph.nodes:
        _check_edge(node)
        for name in node.inputs:
            if name not in known:
                fail(node, "inputs", f"reads {name!r}, which does not come before it")
        if node.name in known:
            fail(node, "name", "is used twice")
        found = infer(graph, node, [known[name] for name in node.inputs])
        if found.shape != node.edge.shape:
            fail(node, "shape", f"rows are {list(found.shape)}, the node declares {list(node.edge.shape)}")
        if found.steps != node.edge.steps:
            fail(node, "steps", f"are {found.steps}, the node declares {node.edge.steps}")
        if isinstance(node, n.Output):
            if node.key in keys:
                fail(node, "key", f"{node.key!r} is used twice")
            keys.add(node.key)
        else:
            known[node.name] = node.edge
        if isinstance(node, n.Scan):
            _check_body(node)
    steps = sorted({node.edge.steps for node in graph.nodes} - {0})
    if len(steps) > 1:
        raise PackError(f"field 'steps': one graph has one T, found {steps}")
    if not graph.inputs or not keys:
        raise PackError("field 'nodes': a graph needs at least one Input and one Output")


def _check_body(node: n.Scan) -> None:
    try:
        check_shapes(node.body)
    except PackError as wrong:
        fail(node, "body", str(wrong))


def _check_edge(node: n.Node) -> None:
    edge = node.edge
    if type(node).__name__ not in RULES:
        fail(node, "type", "cannot be packed; it has no integer form")
    if edge.kind.name == "real":
        fail(node, "kind", "a real edge cannot be packed; snap the graph")
    if edge.kind.levels > 1 << 20 or not -1000 <= edge.kind.frac <= 1000:
        fail(node, "kind", f"{edge.kind} is out of range: at most 2^20 levels, frac in -1000..1000")
    if (
        len(edge.shape) > MAX_RANK
        or any(size < 1 for size in edge.shape)
        or math.prod(edge.shape) >= MAX_EXTENT
    ):
        fail(
            node,
            "shape",
            f"needs at most {MAX_RANK} axes of at least 1, below 2^31 elements, got {list(edge.shape)}",
        )
    if not 0 <= edge.steps <= MAX_STEPS:
        fail(node, "steps", f"must lie in 0..{MAX_STEPS}, got {edge.steps}")


def analyse(graph: n.Graph, given: Mapping[str, Interval] | None = None) -> Analysis:
    """Interval bounds of a graph whose shapes are checked; `given` replaces those of inputs (scan bodies).

    Raises:
        PackError: an integer may leave its edge's kind, its `v_bits`, or 62 bits.
    """
    found: dict[str, Interval] = {}
    ends: dict[str, tuple[int, int]] = {}
    membrane: dict[str, tuple[int, int]] = {}
    edges: dict[str, n.Edge] = {}
    for node in graph.nodes:
        xs, rows = [found[name] for name in node.inputs], [edges[name] for name in node.inputs]
        try:
            x = _bound(graph, node, xs, rows, given or {}, membrane)
        except TooWide:
            too_wide(node)
        found[node.name], edges[node.name] = x, node.edge
        ends[node.name] = low, high = x.ends
        kind = node.edge.kind
        if low < kind.low or high > kind.high:
            fail(node, "kind", f"{kind} holds {kind.low}..{kind.high}, but the integers reach {low}..{high}")
    return Analysis(ends, membrane)


def _bound(
    graph: n.Graph,
    node: n.Node,
    xs: Sequence[Interval],
    rows: Sequence[n.Edge],
    given: Mapping[str, Interval],
    membrane: dict[str, tuple[int, int]],
) -> Interval:
    if isinstance(node, n.Input):
        return given[node.name] if node.name in given else of_input(graph, node)
    if isinstance(node, n.Neuron):
        spikes, low, high = neuron(graph, node, xs[0])
        membrane[node.name] = (low, high)
        if node.v_bits and max(-low - 1, high) >= 1 << (node.v_bits - 1):
            fail(node, "v_bits", f"{node.v_bits} bits cannot hold membranes of {low}..{high}")
        return spikes
    if isinstance(node, n.Scan):
        return _scan(node, xs[0])
    return BOUNDS[type(node).__name__](graph, node, xs, rows)


def _scan(node: n.Scan, x: Interval) -> Interval:
    """Bounds of a recurrent cell: follow the states until they settle, else use their declared kinds."""
    states = {i.name: i.edge for i in node.body.inputs if i.name != "x"}
    exits = {out.key: out.name for out in node.body.outputs}
    reach = dict.fromkeys(states, (0, 0))
    y: tuple[int, int] | None = None
    for step in range(node.edge.steps):
        settled = dict(reach)
        if step == SCAN_STEPS:
            reach = {name: of_kind(edge.kind, 1).ends for name, edge in states.items()}
        inner = {name: span(*reach[name], len(states[name].shape)) for name in states}
        after = analyse(node.body, {"x": x, **inner}).edges
        out = after[exits["y"]]
        y = out if y is None else (min(y[0], out[0]), max(y[1], out[1]))
        reach = {name: _hull(reach[name], after[exits[name]]) for name in states}
        if step == SCAN_STEPS and any(reach[k] != of_kind(e.kind, 1).ends for k, e in states.items()):
            fail(node, "body", "a state may leave its declared kind")
        if reach == settled or step == SCAN_STEPS:
            break
    if y is None:
        fail(node, "steps", "has no steps")
    return span(*y, len(node.edge.shape))


def _hull(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    return min(a[0], b[0]), max(a[1], b[1])


__all__ = ["Analysis", "analyse", "bounds", "check_graph", "check_shapes", "membranes"]
