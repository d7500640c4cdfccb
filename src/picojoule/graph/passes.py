"""Rewrites of a captured graph before folding. No torch."""

from __future__ import annotations

from dataclasses import replace

from picojoule.graph import nodes as g

CONSTANT = "pj::constant"  # target of an Opaque node that holds the same row for every sample
_PER_ROW = (
    g.Conv, g.Linear, g.Affine, g.Pool, g.Reshape, g.Upsample, g.Mean, g.Add, g.Mul, g.MatMul, g.Concat,
    g.Lut, g.Logic,
)  # fmt: skip


def is_constant(node: g.Node) -> bool:
    """True for a node that gives the same row for every sample."""
    return isinstance(node, g.Opaque) and node.target == CONSTANT


def defer_repeat(graph: g.Graph) -> g.Graph:
    """Repeat moved behind everything that works row by row, so that it is computed once a sample.

    A node keeps its name; its repeated rows, where some reader needs them, are `<name>.repeat`.
    """
    done: list[g.Node] = []
    source: dict[str, str] = {}  # repeated node -> the node that holds its rows once
    repeats: dict[str, g.Repeat] = {}  # the Repeat to insert for it
    emitted: dict[str, str] = {}
    constants = {node.name for node in graph.nodes if is_constant(node)}

    def rows(name: str) -> str:
        if name not in source:
            return name
        if name not in emitted:
            node = repeats[name]
            own = node if isinstance(graph[name], g.Repeat) else replace(node, name=f"{name}.repeat")
            done.append(replace(own, inputs=(source[name],)))
            emitted[name] = own.name
        return emitted[name]

    for node in graph.nodes:
        if isinstance(node, g.Repeat):
            below = node.inputs[0]
            source[node.name] = source.get(below, below)
            repeats[node.name] = node
            continue
        lazy = [name for name in node.inputs if name in source]
        if isinstance(node, _PER_ROW) and lazy and all(n in source or n in constants for n in node.inputs):
            inputs = tuple(source.get(name, name) for name in node.inputs)
            done.append(replace(node, inputs=inputs, edge=replace(node.edge, steps=0)))
            source[node.name] = node.name
            first = repeats[lazy[0]]
            repeats[node.name] = g.Repeat(
                name=node.name, inputs=(node.name,), edge=node.edge, source=first.source, module=first.module
            )
            continue
        done.append(replace(node, inputs=tuple(rows(name) for name in node.inputs)))
    return graph.replace(nodes=tuple(done))
