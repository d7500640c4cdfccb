"""Folding: a captured graph of real constants becomes a snapped model on integers. See docs/folding.md."""

from __future__ import annotations

from typing import Any

from picojoule.core.errors import PackError
from picojoule.graph import fold_moves, fold_neuron, fold_rules, fold_sums
from picojoule.graph import nodes as g
from picojoule.graph.folder import Folder, place
from picojoule.graph.grid import Grid, as_grid
from picojoule.graph.passes import defer_repeat
from picojoule.graph.snapped import SnappedModel

RULES = {**fold_rules.TABLE, **fold_sums.TABLE, **fold_moves.TABLE, **fold_neuron.TABLE}


def snap(captured: g.Graph, grid: Grid | int = 16, *, samples: Any = None) -> SnappedModel:
    """Fold BatchNorm, scales, biases, decays and the first layer of a captured graph onto dyadic grids.

    Args:
        captured: what `graph.capture` returned.
        grid: fraction bits, or a `Grid` with single nodes and roundings.
        samples: inputs (an array or one per input) that fit the bits of real inputs; None takes 16 bits.
    Returns:
        SnappedModel, made in float64: `model(x)` in real units, `model.graph()` the integers.
    Raises:
        PackError: the graph holds something without an integer form; module path and line are named.
    """
    if captured.stage != "captured":
        raise PackError(f"snap wants a captured graph, this one is {captured.stage!r}")
    folder = Folder(defer_repeat(captured), as_grid(grid), samples)
    for node in folder.graph.nodes:
        fold = RULES.get(type(node))
        if fold is None:
            raise PackError(f"{place(node)} cannot be packed")
        folder.syms[node.name] = fold(folder, node)
    return SnappedModel(
        folder.ops, {n.key: n.name for n in captured.outputs}, folder.grid.stream, folder.asked
    )
