"""Row shapes and steps that follow from a node and its inputs, with every field checked. No torch.

`infer(graph, node, inputs)` recomputes what `node.edge` must say; it trusts no field of the node. All
arithmetic is on Python integers, so hostile sizes cannot wrap around.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from picojoule.graph import nodes as n
from picojoule.graph.moves import (
    MAX_EXTENT,
    MAX_RANK,
    MAX_SHIFT,
    MAX_VALUE,
    Shape,
    axis_of,
    fail,
    moved,
)


def constant(
    graph: n.Graph, node: n.Node, field: str, name: str | None, *, floating: bool = False
) -> np.ndarray:
    """The named constant, proven to exist, to be of integers below 2^62 and not to be empty."""
    if name is None:
        fail(node, field, "is missing")
    if name not in graph.tensors:
        fail(node, field, f"names the constant {name!r}, which does not exist")
    value = graph.tensors[name]
    if floating:
        if value.dtype.kind != "f" or not np.isfinite(value).all():
            fail(node, field, f"must hold finite floats, got {value.dtype}")
        return value
    if value.dtype.kind not in "iub":
        fail(node, field, f"must hold integers, got {value.dtype}")
    if value.size == 0:
        fail(node, field, f"is empty, shape {list(value.shape)}")
    if value.dtype.itemsize == 8 and max(-int(value.min()), int(value.max())) >= MAX_VALUE:
        fail(node, field, "holds values beyond 62 bits")
    return value


def per_channel(graph: n.Graph, node: n.Node, field: str, name: str | None, channels: int) -> np.ndarray:
    """A constant of shape [C|1]."""
    value = constant(graph, node, field, name)
    if value.shape not in ((1,), (channels,)):
        fail(node, field, f"must be [1] or [{channels}], got {list(value.shape)}")
    return value


def plane(
    graph: n.Graph, node: n.Node, field: str, name: str | None, steps: int, channels: int, levels: int = 0
) -> np.ndarray:
    """A constant of shape [T|1, C|1], or with `levels` [L, T|1, C|1]."""
    value = constant(graph, node, field, name)
    tail = value.shape[1:] if levels else value.shape
    fits = len(tail) == 2 and tail[0] in (1, steps) and tail[1] in (1, channels)
    if not fits or (levels and value.shape[0] != levels):
        lead = f"{levels}, " if levels else ""
        fail(node, field, f"must be [{lead}1 or {steps}, 1 or {channels}], got {list(value.shape)}")
    return value


def broadcast(node: n.Node, shapes: Sequence[Shape]) -> Shape:
    """Common row shape of several rows."""
    try:
        return tuple(np.broadcast_shapes(*shapes))
    except ValueError:
        fail(node, "inputs", f"rows {' and '.join(str(list(s)) for s in shapes)} do not broadcast")


def same_steps(node: n.Node, inputs: Sequence[n.Edge]) -> int:
    """T of the inputs, which must agree."""
    steps = {edge.steps for edge in inputs}
    if len(steps) != 1:
        fail(node, "inputs", f"have different steps {sorted(steps)}; put a Repeat before the one without")
    return steps.pop()


def _choice(node: n.Node, field: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        fail(node, field, f"must be one of {', '.join(allowed)}, got {value!r}")


def _range(node: n.Node, field: str, value: int, low: int, high: int) -> int:
    if not low <= value <= high:
        fail(node, field, f"must lie in {low}..{high}, got {value}")
    return value


def _list(node: n.Node, field: str, values: Sequence[int], count: int, low: int, high: int) -> Sequence[int]:
    if len(values) != count:
        fail(node, field, f"needs {count} entries, got {len(values)}")
    for value in values:
        _range(node, field, value, low, high)
    return values


def _shifts(node: n.Add | n.Concat, count: int) -> None:
    if node.shifts:  # none: no shift at all
        _list(node, "shifts", node.shifts, count, 0, MAX_SHIFT)


def _windows(node: Any, space: Shape, kernel: Shape, dilation: Sequence[int]) -> Shape:
    """Space extents that a sliding window leaves."""
    count = len(space)
    _list(node, "stride", node.stride, count, 1, MAX_EXTENT)
    _list(node, "dilation", dilation, count, 1, MAX_EXTENT)
    if len(node.padding) != count:
        fail(
            node, "padding", f"needs (before, after) for each of {count} space axes, got {len(node.padding)}"
        )
    out = []
    for i, extent in enumerate(space):
        _list(node, "padding", node.padding[i], 2, 0, MAX_EXTENT)
        room = extent + sum(node.padding[i]) - dilation[i] * (kernel[i] - 1) - 1
        if room < 0:
            fail(node, "kernel", f"window {list(kernel)} is larger than the padded rows {list(space)}")
        out.append(room // node.stride[i] + 1)
    return tuple(out)


def weight_shape(graph: n.Graph, node: n.Conv | n.Linear) -> Shape:
    """Full shape of a weight, with its coding and codebook checked."""
    weight = constant(graph, node, "weight", node.weight)
    coding = node.coding
    if node.scale is not None:
        fail(node, "scale", "belongs to captured graphs; snapping folds it into what follows")
    _choice(node, "coding.name", coding.name, ("int", "sign", "ternary", "codebook"))
    fixed_bits = {"sign": 1, "ternary": 2}.get(coding.name)
    if fixed_bits is not None and coding.bits != fixed_bits:
        fail(node, "coding.bits", f"{coding.name} weights have {fixed_bits} bits, got {coding.bits}")
    _range(node, "coding.bits", coding.bits, 1, 32)
    if (coding.codebook is not None) != (coding.name == "codebook"):
        fail(node, "coding.codebook", "belongs to codebook weights, and only to them")
    low, high = int(weight.min()), int(weight.max())
    if coding.name == "codebook":
        return _codebook_shape(graph, node, weight, low, high)
    if isinstance(node, n.Conv) and node.kernel:
        fail(node, "kernel", "is given only with a codebook")
    limit = {"sign": 1, "ternary": 1}.get(coding.name, (1 << (coding.bits - 1)) - 1)
    least = -1 if coding.name in ("sign", "ternary") else -(1 << (coding.bits - 1))
    if low < least or high > limit:
        fail(node, "weight", f"codes {low}..{high} leave {least}..{limit} of coding {coding.name}")
    if coding.name == "sign" and not weight.all():
        fail(node, "weight", "sign codes are -1 and +1, got 0")
    return weight.shape


def _codebook_shape(
    graph: n.Graph, node: n.Conv | n.Linear, weight: np.ndarray, low: int, high: int
) -> Shape:
    book = constant(graph, node, "coding.codebook", node.coding.codebook)
    if book.ndim != 2 or max(-int(book.min()), int(book.max())) >= 1 << 31:
        fail(node, "coding.codebook", f"must be [K, word] of 32-bit code words, got {list(book.shape)}")
    if weight.ndim != 2:
        fail(node, "weight", f"indices must be [C_out, fan_in / word], got {list(weight.shape)}")
    if low < 0 or high >= min(book.shape[0], 1 << node.coding.bits):
        fail(node, "weight", f"indices {low}..{high} leave the codebook of {book.shape[0]} words")
    fan_in = weight.shape[1] * book.shape[1]
    if isinstance(node, n.Linear):
        return (weight.shape[0], fan_in)
    taps = math.prod(_list(node, "kernel", node.kernel, len(node.kernel), 1, MAX_EXTENT))
    if fan_in % taps:
        fail(node, "kernel", f"{list(node.kernel)} does not divide a fan-in of {fan_in}")
    return (weight.shape[0], fan_in // taps, *node.kernel)


def _input(graph: n.Graph, node: n.Input, inputs: Sequence[n.Edge]) -> n.Edge:
    if node.table is not None:
        channels = node.edge.shape[axis_of(node, node.axis, len(node.edge.shape))]
        table = constant(graph, node, "table", node.table)
        if table.shape not in ((channels, 256), (1, 256)):
            fail(node, "table", f"must be [{channels}, 256], got {list(table.shape)}")
    return node.edge


def _output(graph: n.Graph, node: n.Output, inputs: Sequence[n.Edge]) -> n.Edge:
    if node.edge.kind != inputs[0].kind:
        fail(node, "kind", f"must repeat its input's {inputs[0].kind}, got {node.edge.kind}")
    return inputs[0]


def _repeat(graph: n.Graph, node: n.Repeat, inputs: Sequence[n.Edge]) -> n.Edge:
    if inputs[0].steps != 0 or node.edge.steps < 1:
        fail(node, "steps", "repeats one row a sample to T >= 1 rows")
    return n.Edge(node.edge.kind, inputs[0].shape, node.edge.steps)


def _conv(graph: n.Graph, node: n.Conv, inputs: Sequence[n.Edge]) -> n.Edge:
    row = inputs[0].shape
    count = len(row) - 1
    if not 1 <= count <= 3:
        fail(node, "inputs", f"rows must be [C, 1 to 3 space axes], got {list(row)}")
    shape = weight_shape(graph, node)
    _range(node, "groups", node.groups, 1, MAX_EXTENT)
    if len(shape) != count + 2 or shape[1] * node.groups != row[0] or shape[0] % node.groups:
        fail(node, "weight", f"{list(shape)} with {node.groups} groups does not fit rows {list(row)}")
    if node.bias is not None:
        per_channel(graph, node, "bias", node.bias, shape[0])
    space = _windows(node, row[1:], shape[2:], node.dilation)
    return n.Edge(node.edge.kind, (shape[0], *space), inputs[0].steps)


def _linear(graph: n.Graph, node: n.Linear, inputs: Sequence[n.Edge]) -> n.Edge:
    row, shape = inputs[0].shape, weight_shape(graph, node)
    if len(shape) != 2 or not row or row[-1] != shape[1]:
        fail(node, "weight", f"{list(shape)} does not fit rows {list(row)}")
    if node.bias is not None:
        per_channel(graph, node, "bias", node.bias, shape[0])
    return n.Edge(node.edge.kind, (*row[:-1], shape[0]), inputs[0].steps)


def _staircase(graph: n.Graph, node: Any) -> None:
    breaks = constant(graph, node, "breaks", node.breaks)
    values = constant(graph, node, "values", node.values)
    if breaks.ndim != 1 or values.shape != (breaks.size + 1,):
        fail(node, "values", f"{breaks.size} breaks need {breaks.size + 1} values, got {list(values.shape)}")
    if (breaks[1:] < breaks[:-1]).any():
        fail(node, "breaks", "must ascend")


def _neuron(graph: n.Graph, node: n.Neuron, inputs: Sequence[n.Edge]) -> n.Edge:
    edge = inputs[0]
    axis = axis_of(node, node.axis, len(edge.shape))
    steps, channels = max(1, edge.steps), edge.shape[axis]
    if not node.lowered:
        fail(node, "lowered", "the neuron is not lowered to constants")
    if node.out_scale != 1.0:
        fail(node, "out_scale", f"must be folded into what follows, got {node.out_scale}")
    _choice(node, "reset", node.reset, ("hard", "soft", "none"))
    _choice(node, "rounding", node.rounding, n.ROUNDINGS)
    _range(node, "decay_shift", node.decay_shift, 0, MAX_SHIFT)
    _range(node, "frac", node.frac, -1000, 1000)
    _range(node, "v_bits", node.v_bits, 0, 63)
    for field in ("decay", "gain", "bias", "reset_value", "v_init", "neg_threshold"):
        if getattr(node, field) is not None or field != "neg_threshold":
            value = plane(graph, node, field, getattr(node, field), steps, channels)
            if field == "v_init" and value.shape[0] != 1:
                fail(node, field, f"has no steps, must be [1, 1 or {channels}]")
    levels = len(node.strict)
    plane(
        graph,
        node,
        "thresholds",
        node.thresholds,
        steps,
        channels,
        levels=_range(node, "strict", levels, 1, 65536),
    )
    if any(node.strict) or node.neg_strict:
        fail(node, "strict", "strict comparisons must have become >= th + 1")
    if (node.breaks is None) != (node.values is None):
        fail(node, "breaks", "a membrane table needs breaks and values")
    if node.breaks is not None:
        _staircase(graph, node)
    if node.unit is not None:
        unit = constant(graph, node, "unit", node.unit, floating=True)
        if unit.shape not in ((1, 1), (1, channels)):
            fail(node, "unit", f"must be [1, 1 or {channels}], got {list(unit.shape)}")
    kind = node.edge.kind
    if not kind.is_spikes or kind.high < levels:
        fail(node, "kind", f"{kind} cannot hold the counts of {levels} levels")
    if (kind.name == "ternary") != (node.neg_threshold is not None):
        fail(node, "neg_threshold", "belongs to ternary neurons, and only to them")
    return n.Edge(kind, edge.shape, edge.steps)


def _add(graph: n.Graph, node: n.Add, inputs: Sequence[n.Edge]) -> n.Edge:
    _shifts(node, len(inputs))
    if node.signs:
        _list(node, "signs", node.signs, len(inputs), -1, 1)
    if 0 in node.signs:
        fail(node, "signs", "must be 1 or -1, got 0")
    return n.Edge(node.edge.kind, broadcast(node, [e.shape for e in inputs]), same_steps(node, inputs))


def _pair(graph: n.Graph, node: n.Mul | n.Logic, inputs: Sequence[n.Edge]) -> n.Edge:
    if isinstance(node, n.Logic):
        _choice(node, "op", node.op, ("and", "or", "iand"))
        if any(e.kind.name != "binary" for e in (*inputs, node.edge)):
            fail(node, "kind", "logic takes and gives binary edges")
    return n.Edge(node.edge.kind, broadcast(node, [e.shape for e in inputs]), same_steps(node, inputs))


def _matmul(graph: n.Graph, node: n.MatMul, inputs: Sequence[n.Edge]) -> n.Edge:
    a, b = inputs[0].shape, inputs[1].shape
    if len(a) < 2 or len(b) < 2 or a[-1] != b[-2]:
        fail(node, "inputs", f"cannot multiply rows {list(a)} and {list(b)}")
    lead = broadcast(node, [a[:-2], b[:-2]])
    return n.Edge(node.edge.kind, (*lead, a[-2], b[-1]), same_steps(node, inputs))


def _affine(graph: n.Graph, node: n.Affine, inputs: Sequence[n.Edge]) -> n.Edge:
    channels = inputs[0].shape[axis_of(node, node.axis, len(inputs[0].shape))]
    per_channel(graph, node, "gain", node.gain, channels)
    per_channel(graph, node, "bias", node.bias, channels)
    _range(node, "shift", node.shift, 0, MAX_SHIFT)
    _choice(node, "rounding", node.rounding, n.ROUNDINGS)
    return n.Edge(node.edge.kind, inputs[0].shape, inputs[0].steps)


def _lut(graph: n.Graph, node: n.Lut, inputs: Sequence[n.Edge]) -> n.Edge:
    _staircase(graph, node)
    return n.Edge(node.edge.kind, inputs[0].shape, inputs[0].steps)


def _pool(graph: n.Graph, node: n.Pool, inputs: Sequence[n.Edge]) -> n.Edge:
    row = inputs[0].shape
    _choice(node, "mode", node.mode, ("max", "min", "sum"))
    if not 2 <= len(row) <= 4:
        fail(node, "inputs", f"rows must be [C, 1 to 3 space axes], got {list(row)}")
    _list(node, "kernel", node.kernel, len(row) - 1, 1, MAX_EXTENT)
    space = _windows(node, row[1:], node.kernel, (1,) * len(node.kernel))
    for i, pads in enumerate(node.padding):
        if max(pads) >= node.kernel[i]:
            fail(node, "padding", f"{list(pads)} must be below the kernel {node.kernel[i]}")
    if node.divisor:
        fail(node, "divisor", "belongs to captured averages; snapped pools are sums")
    if node.flip is not None:
        if node.mode == "sum":
            fail(node, "flip", "turns max into min; a sum has none")
        flip = per_channel(graph, node, "flip", node.flip, row[0])
        if int(flip.min()) < 0 or int(flip.max()) > 1:
            fail(node, "flip", "holds true and false only")
    return n.Edge(node.edge.kind, (row[0], *space), inputs[0].steps)


def _mean(graph: n.Graph, node: n.Mean, inputs: Sequence[n.Edge]) -> n.Edge:
    row = inputs[0].shape
    if not node.total:
        fail(node, "total", "only exact sums exist on integers")
    gone = {axis_of(node, axis, len(row), "axes") for axis in node.axes}
    if len(gone) != len(node.axes) or not gone:
        fail(node, "axes", f"must name distinct row axes, got {list(node.axes)}")
    shape = tuple(1 if i in gone else size for i, size in enumerate(row) if node.keepdim or i not in gone)
    return n.Edge(node.edge.kind, shape, inputs[0].steps)


def _concat(graph: n.Graph, node: n.Concat, inputs: Sequence[n.Edge]) -> n.Edge:
    first = inputs[0].shape
    axis = axis_of(node, node.axis, len(first))
    _shifts(node, len(inputs))
    for edge in inputs:
        if len(edge.shape) != len(first) or any(
            a != b for i, (a, b) in enumerate(zip(edge.shape, first)) if i != axis
        ):
            fail(node, "inputs", f"rows {list(edge.shape)} and {list(first)} differ outside axis {axis}")
    total = sum(edge.shape[axis] for edge in inputs)
    return n.Edge(node.edge.kind, (*first[:axis], total, *first[axis + 1 :]), same_steps(node, inputs))


def _upsample(graph: n.Graph, node: n.Upsample, inputs: Sequence[n.Edge]) -> n.Edge:
    row = inputs[0].shape
    _list(node, "factors", node.factors, max(1, len(row) - 1), 1, 4096)
    if not row:
        fail(node, "inputs", "rows need a channel axis")
    space = (size * factor for size, factor in zip(row[1:], node.factors))
    return n.Edge(node.edge.kind, (row[0], *space), inputs[0].steps)


def _readout(graph: n.Graph, node: n.Readout, inputs: Sequence[n.Edge]) -> n.Edge:
    _choice(node, "mode", node.mode, ("sum", "max", "last"))
    if inputs[0].steps < 1:
        fail(node, "inputs", "has no steps to read over")
    return n.Edge(node.edge.kind, inputs[0].shape, 0)


def _timemix(graph: n.Graph, node: n.TimeMix, inputs: Sequence[n.Edge]) -> n.Edge:
    edge = inputs[0]
    steps, channels = edge.steps, edge.shape[axis_of(node, node.axis, len(edge.shape))]
    if steps < 1:
        fail(node, "inputs", "has no steps to mix")
    matrix = constant(graph, node, "matrix", node.matrix)
    if matrix.shape not in ((steps, steps), (1, steps, steps), (channels, steps, steps)):
        fail(
            node,
            "matrix",
            f"must be [{steps}, {steps}] or [{channels}, {steps}, {steps}], got {list(matrix.shape)}",
        )
    if node.causal and np.triu(matrix, 1).any():
        fail(node, "matrix", "a causal matrix is lower triangular")
    if node.bias is not None:
        plane(graph, node, "bias", node.bias, steps, channels)
    return n.Edge(node.edge.kind, edge.shape, steps)


def _scan(graph: n.Graph, node: n.Scan, inputs: Sequence[n.Edge]) -> n.Edge:
    enter = {entry.name: entry.edge for entry in node.body.inputs}
    leave = {out.key: out.edge for out in node.body.outputs}
    states = [f"state{i}" for i in range(len(enter) - 1)]
    if set(enter) != {"x", *states} or set(leave) != {"y", *states}:
        fail(
            node,
            "body",
            f"needs inputs x, state0.. and outputs y, state0.., got {list(enter)}, {list(leave)}",
        )
    if enter["x"].shape != inputs[0].shape:
        fail(node, "body", f"expects rows {list(enter['x'].shape)}, gets {list(inputs[0].shape)}")
    for state in states:
        if enter[state].shape != leave[state].shape:
            fail(node, "body", f"{state} changes its rows")
    if inputs[0].steps < 1:
        fail(node, "inputs", "has no steps to scan")
    if any(inner.edge.steps > 1 for inner in node.body.nodes):
        fail(node, "body", "is a graph of one step")
    return n.Edge(node.edge.kind, leave["y"].shape, inputs[0].steps)


def _reshape(graph: n.Graph, node: n.Reshape, inputs: Sequence[n.Edge]) -> n.Edge:
    row = inputs[0].shape
    for move in node.moves:
        row = moved(node, row, move)
        if len(row) > MAX_RANK or math.prod(row) >= MAX_EXTENT:
            fail(node, "moves", f"{move[0]} gives rows {list(row)[: MAX_RANK + 1]}, which are too large")
    return n.Edge(node.edge.kind, row, inputs[0].steps)


class Rule(NamedTuple):
    """Fewest and most inputs of a node type, and the function that infers its edge."""

    least: int
    most: int
    infer: Callable[[n.Graph, Any, Sequence[n.Edge]], n.Edge]


RULES: dict[str, Rule] = {
    "Input": Rule(0, 0, _input),
    "Output": Rule(1, 1, _output),
    "Repeat": Rule(1, 1, _repeat),
    "Conv": Rule(1, 1, _conv),
    "Linear": Rule(1, 1, _linear),
    "Neuron": Rule(1, 1, _neuron),
    "Add": Rule(1, 64, _add),
    "Mul": Rule(2, 2, _pair),
    "Logic": Rule(2, 2, _pair),
    "MatMul": Rule(2, 2, _matmul),
    "Affine": Rule(1, 1, _affine),
    "Lut": Rule(1, 1, _lut),
    "Pool": Rule(1, 1, _pool),
    "Mean": Rule(1, 1, _mean),
    "Concat": Rule(1, 1024, _concat),
    "Upsample": Rule(1, 1, _upsample),
    "Reshape": Rule(1, 1, _reshape),
    "Readout": Rule(1, 1, _readout),
    "TimeMix": Rule(1, 1, _timemix),
    "Scan": Rule(1, 1, _scan),
}


def infer(graph: n.Graph, node: n.Node, inputs: Sequence[n.Edge]) -> n.Edge:
    """Edge of a node: the kind it declares with the row shape and steps that follow from its inputs.

    Raises:
        PackError: a field of the node is wrong, or the node cannot be packed; the field is named.
    """
    rule = RULES.get(type(node).__name__)
    if rule is None:
        fail(
            node, "type", "cannot be packed; rewrite the operator with the nodes that can, or keep it outside"
        )
    if not rule.least <= len(inputs) <= rule.most:
        fail(node, "inputs", f"needs {rule.least}..{rule.most} inputs, got {len(inputs)}")
    return rule.infer(graph, node, inputs)
