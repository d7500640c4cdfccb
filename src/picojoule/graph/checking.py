"""Truth of a captured graph: declared kinds against data, and what cannot be packed."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from picojoule.core.errors import KindError, NonFiniteError, PackError
from picojoule.graph import nodes as g
from picojoule.graph.builder import CONSTANT, TO_ROW, TO_TIME, where
from picojoule.graph.executor import Inputs, Run, named_inputs
from picojoule.graph.nodes import Graph, Node

# -- kinds against data ----------------------------------------------------------------------------------


def spike_scales(graph: Graph) -> dict[str, float]:
    """Real value of one spike on every edge of a spike kind (a neuron's out_scale, carried along)."""
    scales: dict[str, float] = {}
    for node in graph.nodes:
        if isinstance(node, g.Neuron):
            scales[node.name] = node.out_scale
            if not node.lowered:
                scales[node.name] = float(getattr(graph.live.get(node.name), "out_scale", 1.0))
        elif isinstance(node, g.Mul | g.Logic):
            scales[node.name] = scales.get(node.inputs[0], 1.0) * scales.get(node.inputs[1], 1.0)
        else:
            scales[node.name] = scales.get(node.inputs[0], 1.0) if node.inputs else 1.0
    return {n.name: scales[n.name] for n in graph.nodes if n.edge.kind.is_spikes}


def check_kinds(graph: Graph, inputs: Inputs) -> None:
    """Run data through a captured graph and compare every edge with its declared kind.

    Args:
        graph: stage "captured".
        inputs: as for `execute`.
    Raises:
        KindError: an edge of a spike kind carries other numbers; the first such node is named.
        NonFiniteError: a NaN or an infinity appears; the first node with one is named.
    """
    run = _Checked(graph, torch.float64)
    run.scales = spike_scales(graph)
    with torch.no_grad():
        run(named_inputs(graph, inputs), set())


class _Checked(Run):
    """A run that looks at every edge as soon as it is computed."""

    scales: dict[str, float]

    def border(self, node: g.Input, x: Any) -> Tensor:
        out = super().border(node, x)
        self.look(node, out)
        return out

    def step(self, node: Node, x: list[Tensor]) -> Tensor:
        out = super().step(node, x)
        self.look(node, out)
        return out

    def look(self, node: Node, rows: Tensor) -> None:
        """Compare the rows of one node with its kind."""
        if not torch.isfinite(rows).all():
            count = int((~torch.isfinite(rows)).sum())
            raise NonFiniteError(
                f"{_place(node)}: {count} of {rows.numel()} values are NaN or infinite; look at the "
                "input data and "
                "at the weights and BatchNorm statistics before this node"
            )
        kind = node.edge.kind
        if not kind.is_spikes or not rows.numel():
            return
        n = rows / self.scales.get(node.name, 1.0)
        wrong = (n - n.round()).abs() > 1e-6
        wrong |= (n < kind.low - 1e-6) | (n > kind.high + 1e-6)
        if wrong.any():
            example = float(rows[wrong].flatten()[0])
            advice = (
                "give capture the true input_kinds"
                if isinstance(node, g.Input)
                else "declare the kind it really has"
            )
            raise KindError(
                f"{_place(node)}: declared {kind} but carries {example:g} ({int(wrong.sum())} of "
                f"{rows.numel()} "
                f"values are outside); {advice}, e.g. kind = kinds.integer(D) or kinds.real"
            )


def _place(node: Node) -> str:
    return f"node {node.name!r}, {where(node.module, node.source)}"


# -- what cannot be packed -------------------------------------------------------------------------------


class Refusal(NamedTuple):
    """A node that the packed file cannot hold, why, and what to use instead."""

    node: Node
    reason: str
    advice: str


_ADVICE = {
    "softmax": "use an attention without softmax: a spiking neuron on q k^T (layers.SDSA, layers.ESDSA)",
    "relu": "put a spiking neuron in its place (neurons.LIF, neurons.ILIF)",
    "gelu": "put a spiking neuron in its place (neurons.LIF, neurons.ILIF)",
    "silu": "put a spiking neuron in its place (neurons.LIF, neurons.ILIF)",
    "sigmoid": "put a neuron in its place, or gate with spikes (a neuron on the gate, then a product)",
    "tanh": "put a spiking neuron in its place (neurons.LIF, a ternary LIF)",
    "layer_norm": "use BatchNorm, which folds into weights and thresholds",
    "group_norm": "use BatchNorm, which folds into weights and thresholds",
    "instance_norm": "use BatchNorm, which folds into weights and thresholds",
    "conv_transpose2d": "use nearest nn.Upsample and a convolution",
    "upsample_bilinear2d": "use nearest nn.Upsample by a whole factor",
    "adaptive_avg_pool2d": "pool to a size that divides the input's size",
    "div": "divide by constants only",
    "topk": "keep the selection outside the model, in the task that reads its outputs",
    "argmax": "keep argmax outside the model: outputs are scores",
}
_COMPARISONS = ("ge", "gt", "le", "lt", "eq", "ne", "where", "heaviside", "sign", "round", "floor", "clamp")


def unpackable(graph: Graph) -> list[Refusal]:
    """Every node of a captured graph that has no packed form, with reason and advice; empty when it packs."""
    found: list[Refusal] = []
    for node in graph.nodes:
        if isinstance(node, g.Scan):
            found += unpackable(node.body)
        elif isinstance(node, g.Opaque) and node.target != CONSTANT:
            found.append(Refusal(node, *_opaque(node)))
        elif isinstance(node, g.Neuron) and not node.lowered:
            found.append(Refusal(node, *_neuron(graph, node)))
        elif isinstance(node, g.TimeMix) and not node.causal:
            continue  # the whole sequence is known to the engine; only streams need causality
    return found


def _opaque(node: g.Opaque) -> tuple[str, str]:
    if node.target in (TO_ROW, TO_TIME):
        return (
            "time and row axes change places here",
            "mix time with a neuron, a TimeMix (masked or sliding PSN) or a readout; joint "
            "attention over time and "
            "channels trains and measures but stays on the float side",
        )
    if node.target.startswith("module:"):
        return f"{node.target[7:]} is a live module", "write it with layers that the graph knows"
    word = node.target.split(".")[1].strip("_")
    advice = next((text for key, text in _ADVICE.items() if key in word), "")
    if not advice and word in _COMPARISONS:
        advice = (
            "write the comparison as a neuron (neurons.IF, neurons.from_step) so that its spikes are known"
        )
    return f"the operator {node.target} works on real numbers", advice or (
        "use convolutions, linear layers, BatchNorm, pools, sums, products and neurons"
    )


def _neuron(graph: Graph, node: g.Neuron) -> tuple[str, str]:
    module = graph.live.get(node.name)
    lower = getattr(module, "lower", None)
    if callable(lower):
        try:
            lower()
        except PackError as error:
            reason, _, advice = str(error).partition(";")
            return reason, advice.strip() or "use IF, LIF, PLIF, ILIF or a ternary LIF"
    return (
        f"the neuron {node.op!r} has no constants to pack",
        "define lower() -> NeuronSpec, or use IF, LIF, ILIF",
    )


def require_packable(graph: Graph) -> None:
    """Refuse a captured graph that holds anything unpackable.

    Raises:
        PackError: names every such node: module path, source line, reason and what to use instead.
    """
    found = unpackable(graph)
    if found:
        lines = [f"  {_place(r.node)}: {r.reason}; {r.advice}" for r in found]
        raise PackError("this model cannot be packed:\n" + "\n".join(lines))
