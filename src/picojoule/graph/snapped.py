"""SnappedModel: a folded network on integers inside PyTorch, that may be trained further."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from picojoule.core.errors import PackError
from picojoule.core.kinds import fixed
from picojoule.graph import nodes as g
from picojoule.graph.check import analyse, check_graph
from picojoule.graph.intervals import Interval, span
from picojoule.graph.membranes import Sweep
from picojoule.graph.reference import batch_first, named_inputs
from picojoule.graph.snapped_ops import InputOp, Op, Range, bits_for

EXACT_BITS = 53  # integers of the reference interpreter
SETTLE_STEPS = 4096  # steps after which an unsettled membrane counts as unbounded


class SnappedModel(nn.Module):
    """Evaluates the snapped operators; parameters are real, their rounding is straight-through.

    Made in float64, where evaluation equals the reference interpreter to the spike. After `.float()` it
    trains faster and sums above 2^24 round; evaluate in float64.

    Args:
        ops: operators in execution order.
        keys: output key -> operator name.
        endless: bound membranes for any number of steps (graphs that will be streamed).
        grid_nodes: captured nodes whose fraction bits matter, in execution order.
    """

    def __init__(
        self,
        ops: Sequence[Op],
        keys: Mapping[str, str],
        endless: bool = False,
        grid_nodes: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.ops = nn.ModuleList(ops)
        self.keys, self.endless = dict(keys), endless
        self.grid_nodes = list(grid_nodes)
        self.register_buffer("like", torch.zeros((), dtype=torch.float64), persistent=False)

    def forward(self, *inputs: Any) -> Any:
        """Real outputs, batch-first: a tensor, or a dict by key when there are several.

        Args:
            inputs: batch-first data in the order of the graph's inputs.
        """
        values = self._run(inputs, set())
        out = {}
        for key, name in self.keys.items():
            op = self.op(name)
            out[key] = batch_first(values[name] * 2.0**-op.frac, op.steps)
        return next(iter(out.values())) if len(out) == 1 else out

    @torch.no_grad()
    def integers(self, *inputs: Any, watch: Sequence[str] | str = ()) -> dict[str, Tensor]:
        """What the reference interpreter returns: int64 by output key (and watched node name)."""
        names = set(self.neurons) if watch == "neurons" else set([watch] if isinstance(watch, str) else watch)
        values = self._run(inputs, names)
        wanted = {**self.keys, **{name: name for name in names}}
        return {k: batch_first(values[n], self.op(n).steps).to(torch.int64) for k, n in wanted.items()}

    @property
    def neurons(self) -> list[str]:
        """Names of the neurons."""
        return [op.name for op in self._ops() if hasattr(op, "plan")]

    def op(self, name: str) -> Op:
        """The operator of that name."""
        for op in self._ops():
            if op.name == name:
                return op
        raise KeyError(name)

    def graph(self) -> g.Graph:
        """The integers of the present parameters as a graph of stage "snapped", every range proven.

        Raises:
            PackError: an edge or a membrane could pass 2^53; the node is named.
        """
        tensors: dict[str, np.ndarray] = {}
        ranges: dict[str, Range] = {}
        nodes: list[g.Node] = []
        for op in self._ops():
            node, ranges[op.name] = op.node(tensors, [ranges[name] for name in op.inputs])
            nodes.append(node)
        wide = g.Graph(tuple(nodes), tensors, "snapped")
        graph = narrowed(wide, self.endless)
        check_graph(graph)
        return graph

    def _ops(self) -> list[Op]:
        return list(self.ops)  # type: ignore[arg-type]

    def _run(self, inputs: Sequence[Any], watch: set[str]) -> dict[str, Tensor]:
        dtype = self.like.dtype
        given = self._named(inputs)
        keep = watch | set(self.keys.values())
        last = {name: op.name for op in self._ops() for name in op.inputs}
        values: dict[str, Tensor] = {}
        for op in self._ops():
            if isinstance(op, InputOp):
                x = given[op.name]
                values[op.name] = op(x if x.dtype == torch.uint8 else x.to(torch.float64)).to(dtype)
                continue
            values[op.name] = op(*(values[name] for name in op.inputs))
            for name in op.inputs:
                if last[name] == op.name and name not in keep:
                    values.pop(name, None)
        return values

    def _named(self, inputs: Sequence[Any]) -> dict[str, Tensor]:
        entries = [op for op in self._ops() if isinstance(op, InputOp)]
        nodes = tuple(g.Input(name=op.name, edge=g.Edge(fixed(8, 0), op.shape, op.steps)) for op in entries)
        given = inputs[0] if len(inputs) == 1 and isinstance(inputs[0], Mapping) else list(inputs)
        checked = named_inputs(g.Graph(nodes), given)
        live = given if isinstance(given, Mapping) else dict(zip(checked, given))
        return {name: live[name] if isinstance(live[name], Tensor) else checked[name] for name in checked}

    def extra_repr(self) -> str:
        return f"{len(self.ops)} operators, outputs {', '.join(self.keys)}"


def narrowed(graph: g.Graph, endless: bool = False) -> g.Graph:
    """The graph with `bits` of every fixed edge and `v_bits` of every neuron from their proven ranges."""
    found = analyse(graph)
    nodes: list[g.Node] = []
    for node in graph.nodes:
        low, high = found.edges[node.name]
        bits = bits_for(low, high)
        _fits(node, bits)
        if node.edge.kind.name == "fixed":
            if isinstance(node, g.Input) and node.table is None:
                nodes.append(node)
                continue
            node = replace(node, edge=replace(node.edge, kind=fixed(bits, node.edge.kind.frac)))
        if isinstance(node, g.Neuron):
            least, most = found.membranes[node.name]
            if endless:
                ends = _settled(graph, node, found.edges[node.inputs[0]])
                least, most = min(least, ends[0]), max(most, ends[1])
            v_bits = bits_for(min(least, -most), max(most, -least))
            _fits(node, v_bits)
            node = replace(node, v_bits=v_bits)
        nodes.append(node)
    return graph.replace(nodes=tuple(nodes))


def _fits(node: g.Node, bits: int) -> None:
    if bits > EXACT_BITS:
        place = f" of module {node.module!r}" if node.module else ""
        raise PackError(
            f"{type(node).__name__} {node.name!r}{place} ({node.source}) needs {bits} bits, beyond 2^53: use "
            f"fewer fraction bits, Grid(nodes={{{node.name!r}: ...}})"
        )


def _settled(graph: g.Graph, node: g.Neuron, x: Range) -> Range:
    """Range of h and v over any number of steps.

    Raises:
        PackError: the membrane has no bound in a stream.
    """
    rank = len(node.edge.shape)
    sweep = Sweep(graph, node, Interval(*span(*x, rank)))
    if not sweep.steady:
        return 0, 0  # constants per step end after T steps
    low = high = sweep.v_init
    least, most = int(low.min()), int(high.max())
    for _ in range(SETTLE_STEPS):
        h = sweep.charge(0, low, high)
        after = sweep.fire(0, *h)
        least = min(least, int(h[0].min()), int(after[0].min()))
        most = max(most, int(h[1].max()), int(after[1].max()))
        if node.values is not None:
            values = graph.tensor(node.values)
            after = np.full_like(after[0], values.min()), np.full_like(after[1], values.max())
            least, most = min(least, int(values.min())), max(most, int(values.max()))
        widened = np.minimum(low, after[0]), np.maximum(high, after[1])
        if np.array_equal(widened[0], low) and np.array_equal(widened[1], high):
            return least, most
        low, high = widened
    raise PackError(
        f"neuron {node.name!r} of module {node.module!r} has no leak, so its membrane has no bound in a "
        "stream; use a leak, a membrane table or Grid(stream=False)"
    )
