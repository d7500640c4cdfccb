"""The float executor: a captured graph on data with torch, batched over rows; for measuring and checking."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from picojoule.core.errors import PicojouleError, ShapeError
from picojoule.graph import nodes as g
from picojoule.graph.builder import CONSTANT, TO_ROW, TO_TIME
from picojoule.graph.fire import fire_rows
from picojoule.graph.nodes import Graph

Inputs = Mapping[str, Any] | Sequence[Any] | Any
N = TypeVar("N", bound=g.Node)
OPS: dict[type[g.Node], Callable[[Any, Any, list[Tensor]], Tensor]] = {}


def execute(
    graph: Graph,
    inputs: Inputs,
    *,
    watch: Iterable[str] | bool | None = None,
    dtype: torch.dtype = torch.float64,
) -> dict[str, Tensor]:
    """Outputs of a captured graph, equal to the model's own in eval mode (to rounding in float64).

    Args:
        graph: stage "captured".
        inputs: batch-first arrays or tensors, by input name, in order, or one alone; B may be 0.
        watch: node names whose rows [T*B | B, *shape] are returned too, or True for all.
        dtype: precision of every float.
    Returns:
        Outputs by key, batch-first ([B, T, ...] where time is kept), and watched nodes by name.
    Raises:
        ShapeError: an input does not have the shape of its node.
    """
    if graph.stage != "captured":
        raise ShapeError(
            f"execute runs captured graphs, got stage {graph.stage!r}; use graph.reference for snapped ones"
        )
    watched = {n.name for n in graph.nodes} if watch is True else set(watch or ())
    unknown = watched - {n.name for n in graph.nodes}
    if unknown:
        raise ShapeError(f"watch names no such nodes: {sorted(unknown)}")
    run = Run(graph, dtype)
    given = named_inputs(graph, inputs)
    with torch.no_grad():
        return run(given, watched)


def named_inputs(graph: Graph, inputs: Inputs) -> dict[str, Any]:
    """Inputs by name, whatever way they came."""
    names = [node.name for node in graph.inputs]
    if isinstance(inputs, Mapping):
        given = dict(inputs)
    elif isinstance(inputs, list | tuple):
        given = dict(zip(names, inputs)) if len(inputs) == len(names) else {}
    else:
        given = {names[0]: inputs} if len(names) == 1 else {}
    if set(given) != set(names):
        raise ShapeError(f"the graph's inputs are {names}; give one array each, by name or in order")
    return given


@dataclass
class Run:
    """One execution: values by node name, the batch size, constants as tensors.

    Intermediate values are dropped after their last reader unless they are watched.
    """

    graph: Graph
    dtype: torch.dtype
    batch: int = 0
    constants: dict[str, Tensor] = field(default_factory=dict)

    def __call__(self, inputs: Mapping[str, Any], watched: set[str]) -> dict[str, Tensor]:
        batches = {int(torch.as_tensor(x).shape[0]) for x in inputs.values()}
        if len(batches) != 1:
            raise ShapeError(f"the inputs disagree about the batch size: {sorted(batches)}")
        self.batch = batches.pop()
        last = {name: i for i, node in enumerate(self.graph.nodes) for name in node.inputs}
        values: dict[str, Tensor] = {}
        results: dict[str, Tensor] = {}
        for i, node in enumerate(self.graph.nodes):
            if isinstance(node, g.Input):
                out = self.border(node, inputs[node.name])
            else:
                out = self.step(node, [values[name] for name in node.inputs])
            values[node.name] = out
            if isinstance(node, g.Output):
                results[node.key] = leave(out, node.edge.steps)
            if node.name in watched:
                results.setdefault(node.name, out)
            for name in node.inputs:
                if last[name] == i:
                    values.pop(name, None)
        return results

    def border(self, node: g.Input, x: Any) -> Tensor:
        """Input rows from batch-first data."""
        t = torch.as_tensor(x).to(self.dtype)
        expected = (node.edge.steps, *node.edge.shape) if node.edge.steps else node.edge.shape
        if tuple(t.shape[1:]) != expected:
            raise ShapeError(
                f"input {node.name!r} must be [B, {', '.join(map(str, expected))}], got {list(t.shape)}"
            )
        return t.transpose(0, 1).reshape(-1, *node.edge.shape) if node.edge.steps else t

    def step(self, node: g.Node, x: list[Tensor]) -> Tensor:
        """Rows of one node."""
        if type(node) not in OPS:
            raise ShapeError(f"node {node.name!r}: the float executor knows no {type(node).__name__}")
        try:
            out = OPS[type(node)](self, node, x)
        except RuntimeError as error:
            if isinstance(error, PicojouleError):
                raise
            raise ShapeError(
                f"node {node.name!r} of module {node.module!r} ({node.source}): {error}"
            ) from error
        return out

    def const(self, name: str | None) -> Tensor:
        """A constant in this run's precision."""
        if name not in self.constants:
            t = torch.from_numpy(np.array(self.graph.tensor(name), order="C"))
            self.constants[str(name)] = t.to(self.dtype) if t.is_floating_point() else t
        return self.constants[str(name)]

    def weight(self, node: g.Conv | g.Linear) -> Tensor:
        """Float weight: codes times scales where it is coded."""
        w = self.const(node.weight).to(self.dtype)
        if node.scale is None:
            return w
        scale = self.const(node.scale)
        return w * scale.reshape(-1, *(1,) * (w.dim() - 1))

    def module(self, name: str) -> Any:
        """The live module of a node, in this run's precision."""
        item = self.graph.live[name]
        return copy.deepcopy(item).to(self.dtype).eval() if isinstance(item, nn.Module) else item


def leave(rows: Tensor, steps: int) -> Tensor:
    """Rows to batch-first output."""
    return (
        rows.reshape(steps, -1, *rows.shape[1:]).transpose(0, 1)
        if steps and rows.numel()
        else (rows.reshape(0, steps, *rows.shape[1:]) if steps else rows)
    )


def split(x: Tensor, steps: int) -> Tensor:
    """[T*B, ...] as [T, B, ...]; an empty batch too."""
    T = max(steps, 1)
    return x.reshape(T, x.shape[0] // T, *x.shape[1:])


def runs(kind: type[N]) -> Callable[[Callable[[Run, N, list[Tensor]], Tensor]], Any]:
    """Registers the executor of a node type."""

    def add(function: Any) -> Any:
        OPS[kind] = function
        return function

    return add


# -- borders and time ------------------------------------------------------------------------------------


@runs(g.Output)
def _output(run: Run, node: g.Output, x: list[Tensor]) -> Tensor:
    return x[0]


@runs(g.Repeat)
def _repeat(run: Run, node: g.Repeat, x: list[Tensor]) -> Tensor:
    return x[0].repeat(node.edge.steps, *[1] * (x[0].dim() - 1))


@runs(g.Readout)
def _readout(run: Run, node: g.Readout, x: list[Tensor]) -> Tensor:
    steps = split(x[0], run.graph[node.inputs[0]].edge.steps)
    if node.mode == "mean":
        return steps.mean(0)
    if node.mode == "sum":
        return steps.sum(0)
    return steps[-1] if node.mode == "last" else steps.amax(0)


@runs(g.TimeMix)
def _time_mix(run: Run, node: g.TimeMix, x: list[Tensor]) -> Tensor:
    matrix, T = run.const(node.matrix), node.edge.steps
    steps = split(x[0], T)
    if matrix.dim() == 2:
        out = (matrix @ steps.reshape(T, -1)).reshape(steps.shape)
    else:
        moved = steps.movedim(2 + node.axis, 0)  # [C, T, B, ...]
        flat = moved.reshape(*moved.shape[:2], math.prod(moved.shape[2:]))
        out = torch.bmm(matrix, flat).reshape(moved.shape).movedim(0, 2 + node.axis)
    if node.bias is not None:
        out = out + per_channel(run.const(node.bias), node.axis, len(node.edge.shape))
    return out.reshape(x[0].shape)


def per_channel(plane: Tensor, axis: int, ndim: int) -> Tensor:
    """[T|1, C|1] to broadcast over [T, B, *row]."""
    shape = [plane.shape[0], 1, *[1] * ndim]
    if ndim:
        shape[2 + axis % ndim] = plane.shape[1]
    return plane.reshape(shape)


# -- weights ---------------------------------------------------------------------------------------------


@runs(g.Conv)
def _conv(run: Run, node: g.Conv, x: list[Tensor]) -> Tensor:
    convs: Any = (F.conv1d, F.conv2d, F.conv3d)
    widths = [w for pair in reversed(node.padding) for w in pair]
    padded = F.pad(x[0], widths) if any(widths) else x[0]
    bias = None if node.bias is None else run.const(node.bias)
    return convs[len(node.stride) - 1](
        padded, run.weight(node), bias, node.stride, 0, node.dilation, node.groups
    )


@runs(g.Linear)
def _linear(run: Run, node: g.Linear, x: list[Tensor]) -> Tensor:
    return F.linear(x[0], run.weight(node), None if node.bias is None else run.const(node.bias))


@runs(g.Affine)
def _affine(run: Run, node: g.Affine, x: list[Tensor]) -> Tensor:
    shape = [1] * x[0].dim()
    if x[0].dim() > 1:
        shape[1 + node.axis % (x[0].dim() - 1)] = -1
    gain, bias = run.const(node.gain), run.const(node.bias)
    return x[0] * gain.reshape(shape) + bias.reshape(shape) if x[0].dim() > 1 else x[0] * gain + bias


# -- neurons and cells -----------------------------------------------------------------------------------


@runs(g.Neuron)
def _neuron(run: Run, node: g.Neuron, x: list[Tensor]) -> Tensor:
    T = max(node.edge.steps, 1)
    if not node.lowered:
        return run.module(node.name).run(x[0], T).spikes
    fields = {k: run.const(v) for k, v in g.tensor_fields(node).items()}
    return fire_rows(split(x[0], T), node, fields).reshape(x[0].shape)


@runs(g.Scan)
def _scan(run: Run, node: g.Scan, x: list[Tensor]) -> Tensor:
    body = Run(node.body, run.dtype)
    steps = split(x[0], node.edge.steps)
    states = [n for n in node.body.inputs if n.name != "x"]
    held = {n.name: steps.new_zeros(steps.shape[1], *n.edge.shape) for n in states}
    out = []
    for current in steps:
        result = body({"x": current, **held}, set())
        out.append(result.pop("y"))
        held = result
    return torch.cat(out)


# -- two values, windows, moves --------------------------------------------------------------------------


@runs(g.Add)
def _add(run: Run, node: g.Add, x: list[Tensor]) -> Tensor:
    signs = node.signs or (1,) * len(x)
    total = x[0] if signs[0] == 1 else -x[0]
    for sign, part in zip(signs[1:], x[1:]):
        total = total + part if sign == 1 else total - part
    return total


@runs(g.Mul)
def _mul(run: Run, node: g.Mul, x: list[Tensor]) -> Tensor:
    return x[0] * x[1]


@runs(g.MatMul)
def _matmul(run: Run, node: g.MatMul, x: list[Tensor]) -> Tensor:
    return x[0] @ x[1]


@runs(g.Logic)
def _logic(run: Run, node: g.Logic, x: list[Tensor]) -> Tensor:
    if node.op == "and":
        return x[0] * x[1]
    return torch.maximum(x[0], x[1]) if node.op == "or" else (1 - x[0]) * x[1]


@runs(g.Lut)
def _lut(run: Run, node: g.Lut, x: list[Tensor]) -> Tensor:
    return run.const(node.values)[torch.bucketize(x[0].contiguous(), run.const(node.breaks), right=True)]


@runs(g.Mean)
def _mean(run: Run, node: g.Mean, x: list[Tensor]) -> Tensor:
    dims = [a + 1 for a in node.axes]
    return x[0].sum(dims, keepdim=node.keepdim) if node.total else x[0].mean(dims, keepdim=node.keepdim)


@runs(g.Concat)
def _concat(run: Run, node: g.Concat, x: list[Tensor]) -> Tensor:
    return torch.cat(x, node.axis + 1)


@runs(g.Upsample)
def _upsample(run: Run, node: g.Upsample, x: list[Tensor]) -> Tensor:
    out = x[0]
    for i, factor in enumerate(node.factors):
        out = out.repeat_interleave(factor, dim=2 + i)
    return out


@runs(g.Pool)
def _pool(run: Run, node: g.Pool, x: list[Tensor]) -> Tensor:
    n = len(node.kernel)
    widths = [w for pair in reversed(node.padding) for w in pair]
    if node.mode == "max":
        pools: Any = (F.max_pool1d, F.max_pool2d, F.max_pool3d)
        padded = F.pad(x[0], widths, value=-math.inf) if any(widths) else x[0]
        return pools[n - 1](padded, node.kernel, node.stride)
    pools = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)
    padded = F.pad(x[0], widths) if any(widths) else x[0]
    mean = pools[n - 1](padded, node.kernel, node.stride)
    count = math.prod(node.kernel)
    return mean * (count / node.divisor) if node.divisor and node.divisor != count else mean


@runs(g.Reshape)
def _reshape(run: Run, node: g.Reshape, x: list[Tensor]) -> Tensor:
    out = x[0]
    for move in node.moves:
        out = moved(out, move)
    return out


def moved(x: Tensor, move: tuple[Any, ...]) -> Tensor:
    """One Reshape move on rows [N, *shape]."""
    sort, *rest = move
    if sort == "view":
        return x.reshape(x.shape[0], *rest[0])
    if sort == "permute":
        return x.permute(0, *(a + 1 for a in rest[0]))
    if sort == "slice":
        axis, start, stop, step = rest
        index = [slice(None)] * x.dim()
        index[axis + 1] = slice(start, stop, step)
        return x[tuple(index)]
    if sort == "expand":
        return x.expand(x.shape[0], *rest[0])
    if sort == "pad":
        return F.pad(x, [w for pair in reversed(rest[0]) for w in pair])
    if sort == "flip":
        return x.flip(rest[0] + 1)
    if sort == "roll":
        return x.roll(rest[1], rest[0] + 1)
    raise ShapeError(f"unknown move {sort!r}")


# -- opaque operators ------------------------------------------------------------------------------------


@runs(g.Opaque)
def _opaque(run: Run, node: g.Opaque, x: list[Tensor]) -> Tensor:
    if node.target == TO_ROW:
        return split(x[0], run.graph[node.inputs[0]].edge.steps).movedim(0, 1).contiguous()
    if node.target == TO_TIME:
        return x[0].movedim(1, 0).reshape(node.edge.steps * x[0].shape[0], *node.edge.shape)
    if node.target == CONSTANT:
        row = run.const(node.args[0][1]).to(run.dtype)
        return row.expand(max(node.edge.steps, 1) * run.batch, *row.shape)
    if node.name in run.graph.live:
        return run.module(node.name).run(x[0], max(node.edge.steps, 1)).spikes
    return replay(run, node, x)


def replay(run: Run, node: g.Opaque, x: list[Tensor]) -> Tensor:
    """Run an operator from its description (see lowering.opaque)."""
    target: Any = torch.ops
    for part in node.target.split("."):
        target = getattr(target, part)

    def build(item: tuple[Any, ...]) -> Any:
        sort, *rest = item
        if sort == "in":
            index, is_split, extra, held = rest
            steps = run.graph[node.inputs[index]].edge.steps
            shown = lead_view(x[index], steps, is_split, extra)
            return shown if held == "float" else shown.bool() if held == "bool" else shown.long()
        if sort == "const":
            return run.const(rest[0])
        if sort == "rows":  # a constant made for every row, kept with length 1
            const = run.const(rest[0])
            return const.expand(rest[1] * run.batch, *const.shape[1:])
        if sort == "batch":
            return rest[0] * run.batch
        if sort == "list":
            return [build(part) for part in rest[0]]
        return run.dtype if isinstance(rest[0], torch.dtype) and rest[0].is_floating_point else rest[0]

    named = {name: build(item) for name, item in node.args}
    plain = [named.pop(a.name) for a in target._schema.arguments if not a.kwarg_only and a.name in named]
    out = target(*plain, **named)
    extras = dict(node.kwargs)
    if "pick" in extras:
        out = out[extras["pick"][1]]
    rows = max(node.edge.steps, 1) * run.batch
    return out.reshape(rows, *node.edge.shape).to(run.dtype)


def lead_view(rows: Tensor, steps: int, is_split: bool, extra: int) -> Tensor:
    """Canonical rows as the operator saw them: time apart, row axes fused into the batch."""
    shape = list(rows.shape)
    fused = math.prod(shape[1 : 1 + extra])
    lead = [steps, shape[0] // steps * fused] if is_split else [shape[0] * fused]
    return rows.reshape(lead + shape[1 + extra :])
