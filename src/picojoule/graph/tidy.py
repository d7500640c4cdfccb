"""After lowering: nodes that nothing reads go, row moves are merged, unused constants are dropped."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from picojoule.graph.builder import TO_ROW, TO_TIME
from picojoule.graph.nodes import Graph, Input, Node, Opaque, Output, Reshape, tensor_fields

Moves = tuple[tuple[Any, ...], ...]


def tidy(graph: Graph) -> Graph:
    """The same computation with fewer nodes."""
    nodes = list(graph.nodes)
    before = -1
    while len(nodes) != before:
        before = len(nodes)
        nodes = _alive(_merged(_alive(nodes)))
    used = {name for node in nodes for name in _constants(node)}
    tensors = {name: array for name, array in graph.tensors.items() if name in used}
    names = {node.name for node in nodes}
    live = {name: item for name, item in graph.live.items() if name in names}
    return Graph(tuple(nodes), tensors, graph.stage, live)


def _constants(node: Node) -> set[str]:
    found = set(tensor_fields(node).values())

    def walk(item: Any) -> None:
        if isinstance(item, tuple):
            if len(item) > 1 and item[0] in ("const", "rows") and isinstance(item[1], str):
                found.add(item[1])
            for part in item:
                walk(part)

    if isinstance(node, Opaque):
        walk(node.args)
    return found


def _alive(nodes: list[Node]) -> list[Node]:
    read: set[str] = set()
    kept = []
    for node in reversed(nodes):
        if isinstance(node, Output | Input) or node.name in read:
            kept.append(node)
            read.update(node.inputs)
    return kept[::-1]


def _merged(nodes: list[Node]) -> list[Node]:
    """Reshapes of reshapes become one; those that change nothing, and T -> row -> T, disappear."""
    by_name = {node.name: node for node in nodes}
    counts: dict[str, int] = {}
    for node in nodes:
        for name in node.inputs:
            counts[name] = counts.get(name, 0) + 1
    alias: dict[str, str] = {}
    out: list[Node] = []
    for node in nodes:
        node = replace(node, inputs=tuple(alias.get(name, name) for name in node.inputs))
        source = by_name.get(node.inputs[0]) if node.inputs else None
        if isinstance(node, Reshape) and source is not None:
            if isinstance(source, Reshape) and counts[source.name] == 1:
                node = replace(node, inputs=source.inputs, moves=source.moves + node.moves)
                source = by_name[node.inputs[0]]
            node = replace(node, moves=simplified(node.moves, source.edge.shape))
            if not node.moves:
                alias[node.name] = node.inputs[0]
                continue
        elif isinstance(node, Opaque) and isinstance(source, Opaque) and {node.target, source.target} == {
            TO_ROW, TO_TIME,
        }:  # fmt: skip
            alias[node.name] = source.inputs[0]
            continue
        by_name[node.name] = node
        out.append(node)
    return out


def simplified(moves: Moves, shape: tuple[int, ...]) -> Moves:
    """Moves without those that change nothing; neighbours of one sort are merged.

    >>> simplified((("view", (2, 3)), ("view", (6,))), (6,))
    ()
    >>> simplified((("permute", (1, 0)), ("permute", (1, 0))), (2, 3))
    ()
    """
    out: list[tuple[Any, ...]] = []
    shapes = [shape]
    for move in moves:
        if out and move[0] == out[-1][0] == "view":
            out.pop()
            shapes.pop()
        elif out and move[0] == out[-1][0] == "permute":
            move = ("permute", tuple(out[-1][1][i] for i in move[1]))
            out.pop()
            shapes.pop()
        after = moved_shape(move, shapes[-1])
        if _is_nothing(move, shapes[-1]):
            continue
        if move[0] == "permute" and _only_units_move(move[1], shapes[-1]):
            move = ("view", after)
            if out and out[-1][0] == "view":
                out.pop()
                shapes.pop()
            if after == shapes[-1]:
                continue
        out.append(move)
        shapes.append(after)
    return tuple(out)


def _only_units_move(order: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """A permutation that keeps the order of all axes longer than 1 moves no data."""
    kept = [i for i in order if shape[i] != 1]
    return kept == sorted(kept)


def _is_nothing(move: tuple[Any, ...], shape: tuple[int, ...]) -> bool:
    if move[0] in ("view", "expand"):
        return tuple(move[1]) == shape
    if move[0] == "permute":
        return tuple(move[1]) == tuple(range(len(shape)))
    if move[0] == "pad":
        return not any(any(pair) for pair in move[1])
    return move[0] == "roll" and move[2] % max(shape[move[1]], 1) == 0


def moved_shape(move: tuple[Any, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """Row shape after one move.

    >>> moved_shape(("slice", 0, 1, 7, 2), (8, 3))
    (3, 3)
    """
    if move[0] in ("view", "expand"):
        return tuple(move[1])
    if move[0] == "permute":
        return tuple(shape[i] for i in move[1])
    if move[0] == "slice":
        length = len(range(*slice(move[2], move[3], move[4]).indices(shape[move[1]])))
        return tuple(length if i == move[1] else s for i, s in enumerate(shape))
    if move[0] == "pad":
        return tuple(s + lo + hi for s, (lo, hi) in zip(shape, move[1]))
    return shape
