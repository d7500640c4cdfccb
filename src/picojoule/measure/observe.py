"""Runs a graph on data and shows every node's rows to an observer; captured and snapped graphs alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from picojoule.graph import nodes as g
from picojoule.graph import reference, reference_ops
from picojoule.graph.executor import Run, named_inputs, split
from picojoule.graph.nodes import Graph, Node

# observer(path, node, rows of its inputs, its own rows); `path` names nodes inside a Scan "scan/node".
Observer = Callable[[str, Node, list[Tensor], Tensor], None]


def observe(graph: Graph, inputs: Any, observer: Observer, dtype: torch.dtype) -> dict[str, Tensor]:
    """Outputs of one batch; `observer` sees every node once (inside a Scan: once a step).

    Args:
        graph: captured (floats of `dtype`) or snapped (integers in float64).
        inputs: batch-first arrays, as for `graph.execute` and `graph.reference.run`.
    Returns:
        Outputs by key, batch-first; of snapped graphs as integers.
    """
    with torch.no_grad():
        if graph.stage == "snapped":
            return _snapped(graph, inputs, observer)
        return _Observed(graph, dtype, observer=observer)(named_inputs(graph, inputs), set())


class _Observed(Run):
    """A float run that reports every node."""

    def __init__(self, graph: Graph, dtype: torch.dtype, *, observer: Observer, prefix: str = "") -> None:
        super().__init__(graph, dtype)
        self.observer, self.prefix = observer, prefix

    def border(self, node: g.Input, x: Any) -> Tensor:
        out = super().border(node, x)
        self.observer(self.prefix + node.name, node, [], out)
        return out

    def step(self, node: Node, x: list[Tensor]) -> Tensor:
        out = self._cell(node, x[0]) if isinstance(node, g.Scan) else super().step(node, x)
        self.observer(self.prefix + node.name, node, x, out)
        return out

    def _cell(self, node: g.Scan, x: Tensor) -> Tensor:
        body = _Observed(node.body, self.dtype, observer=self.observer, prefix=f"{self.prefix}{node.name}/")
        steps = split(x, node.edge.steps)
        held = {
            n.name: steps.new_zeros(steps.shape[1], *n.edge.shape) for n in node.body.inputs if n.name != "x"
        }
        out = []
        for current in steps:
            held = body({"x": current, **held}, set())
            out.append(held.pop("y"))
        return torch.cat(out)


def _snapped(graph: Graph, inputs: Any, observer: Observer) -> dict[str, Tensor]:
    stream = reference.Stream(graph, keep=False)
    data = reference.named_inputs(graph, inputs)
    T = max((node.edge.steps for node in graph.nodes), default=0) or 1
    run = reference_ops.Run(graph, torch.float64, T, 0, {}, stream.constant)
    rows = {n.name: reference_ops.quantize_input(run, n, data[n.name]) for n in graph.inputs}
    return _integers(run, rows, observer, "")


def _integers(
    run: reference_ops.Run, rows: Mapping[str, Tensor], observer: Observer, prefix: str
) -> dict[str, Tensor]:
    """The loop of `reference_ops.execute` with an observer; the same functions and range checks."""
    values: dict[str, Tensor] = {}
    result: dict[str, Tensor] = {}
    last = {name: node.name for node in run.graph.nodes for name in node.inputs}
    for node in run.graph.nodes:
        x = [values[name] for name in node.inputs]
        if isinstance(node, g.Input):
            value = rows[node.name]
        elif isinstance(node, g.Scan):
            value = _integer_cell(run, node, x[0], observer, prefix)
        else:
            value = reference_ops.FUNCTIONS[type(node)](run, node, *x)
        run.check(node, value)
        observer(prefix + node.name, node, x, value)
        values[node.name] = value
        if isinstance(node, g.Output):
            result[node.key] = reference.batch_first(value, run.steps(node))
        for name in node.inputs:
            if last[name] == node.name:
                values.pop(name, None)
    return result


def _integer_cell(run: reference_ops.Run, node: g.Scan, x: Tensor, observer: Observer, prefix: str) -> Tensor:
    steps = split(x, node.edge.steps)
    held = {n.name: x.new_zeros(steps.shape[1], *n.edge.shape) for n in node.body.inputs if n.name != "x"}

    def constant(name: str) -> Tensor:
        return torch.as_tensor(node.body.tensor(name)).to(run.dtype)

    out = []
    for current in steps:
        body = reference_ops.Run(node.body, run.dtype, 1, 0, {}, constant)
        held = _integers(body, {"x": current, **held}, observer, f"{prefix}{node.name}/")
        out.append(held.pop("y"))
    return torch.cat(out)
