"""Integer arithmetic of the reference interpreter: one function a node type.

Every function takes the run, the node and the rows of its inputs, and returns rows. Rows are [T*B, *shape],
time-major, whole numbers in float64 (or int64).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from picojoule.core.errors import KindError, PackError, ShapeError
from picojoule.graph import nodes as g
from picojoule.graph.reference_neuron import at_step, lut, neuron
from picojoule.graph.reference_run import LIMITS, Run, along, magnitude, rows_per_step, rshift


def execute(run: Run, inputs: dict[str, Tensor], watch: set[str]) -> dict[str, Tensor]:
    """Rows of every output and watched node, from rows of integers by input name."""
    values: dict[str, Tensor] = {}
    result: dict[str, Tensor] = {}
    last_use = {name: node.name for node in run.graph.nodes for name in node.inputs}
    for node in run.graph.nodes:
        if isinstance(node, g.Input):
            value = inputs[node.name]
        else:
            value = FUNCTIONS[type(node)](run, node, *(values[name] for name in node.inputs))
        run.check(node, value)
        values[node.name] = value
        if isinstance(node, g.Output) or node.name in watch:
            result[node.name] = value
        for name in node.inputs:
            if last_use[name] == node.name:
                values.pop(name, None)
    return result


# -- the border ----------------------------------------------------------------------------------------


def quantize_input(run: Run, node: g.Input, data: Tensor) -> Tensor:
    """Batch-first data to integer rows; see `nodes.Input`."""
    if node.edge.steps:
        data = data.transpose(0, 1).reshape(data.shape[0] * data.shape[1], *node.edge.shape)
    kind = node.edge.kind
    if node.table is not None:
        if data.dtype != torch.uint8:
            raise KindError(f"input {node.name!r} has a table for bytes: pass uint8 data, not {data.dtype}")
        table = run.constant(node.table)
        channel = torch.arange(table.shape[0])
        return table[along(channel, node.axis, len(node.edge.shape)), data.long()]
    exact = data.to(torch.float64)
    if kind.is_spikes:
        if exact.numel() and not bool((exact == exact.round()).all()):
            raise KindError(f"input {node.name!r} is declared {kind}, the data holds fractions")
        return exact.to(run.dtype)
    return torch.floor(exact * 2.0**kind.frac + 0.5).clamp(kind.low, kind.high).to(run.dtype)


def output(run: Run, node: g.Output, x: Tensor) -> Tensor:
    """Rows unchanged."""
    return x


def repeat(run: Run, node: g.Repeat, x: Tensor) -> Tensor:
    """[B, ...] -> [T*B, ...], time-major."""
    return x.unsqueeze(0).expand(run.T, *x.shape).reshape(run.T * x.shape[0], *x.shape[1:])


# -- sums of products ----------------------------------------------------------------------------------


def conv(run: Run, node: g.Conv, x: Tensor) -> Tensor:
    """Cross-correlation with integer codes; the bias is added once per row."""
    weight = codes(run, node)
    bias = run.constant(node.bias) if node.bias is not None else None
    _bound_products(run, node, x, weight, bias)
    sides = [side for pair in reversed(node.padding) for side in pair]
    x = F.pad(x, sides)
    if run.dtype == torch.float64:
        function = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[len(node.stride)]
        return function(x, weight, bias, node.stride, 0, node.dilation, node.groups)
    y = _conv_by_taps(node, x, weight)
    return y if bias is None else y + along(bias, 0, y.dim() - 1)


def _conv_by_taps(node: g.Conv, x: Tensor, weight: Tensor) -> Tensor:
    """The same sum tap by tap; PyTorch has no integer convolution."""
    rows, groups, sizes = x.shape[0], node.groups, node.edge.shape[1:]
    x = x.reshape(rows, groups, x.shape[1] // groups, *x.shape[2:])
    weight = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
    y = x.new_zeros(rows, groups, weight.shape[1], int(np.prod(sizes)))
    for tap in np.ndindex(*weight.shape[3:]):
        window = tuple(
            slice(k * d, k * d + (n - 1) * s + 1, s)
            for k, d, s, n in zip(tap, node.dilation, node.stride, sizes)
        )
        part = x[(slice(None), slice(None), slice(None), *window)].flatten(3)
        y = y + weight[(slice(None), slice(None), slice(None), *tap)] @ part
    return y.reshape(rows, -1, *sizes)


def linear(run: Run, node: g.Linear, x: Tensor) -> Tensor:
    """x W^T + b over the last axis."""
    weight = codes(run, node)
    bias = run.constant(node.bias) if node.bias is not None else None
    _bound_products(run, node, x, weight, bias)
    y = x @ weight.T
    return y if bias is None else y + bias


def _bound_products(run: Run, node: g.Node, x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    heaviest = magnitude(weight.abs().flatten(1).sum(1)) if weight.numel() else 0
    run.bound(node, heaviest * magnitude(x) + (0 if bias is None else magnitude(bias)))


def codes(run: Run, node: g.Conv | g.Linear) -> Tensor:
    """Integer weight codes at their full shape, code words looked up."""
    if node.coding.name == "float":
        raise PackError(f"node {node.name!r} has float weights in a snapped graph")
    if node.coding.codebook is None:
        return run.constant(node.weight)
    return torch.from_numpy(g.weight_codes(run.graph, node).astype(np.int64)).to(run.dtype)


def matmul(run: Run, node: g.MatMul, a: Tensor, b: Tensor) -> Tensor:
    """Product over the last two row axes."""
    run.bound(node, a.shape[-1] * magnitude(a) * magnitude(b))
    return a @ b


def time_mix(run: Run, node: g.TimeMix, x: Tensor) -> Tensor:
    """y[t] = sum_j matrix[t, j] x[j] + bias[t]; a stream keeps the steps that came before."""
    T = max(run.steps(node), 1)
    steps = rows_per_step(x, T)
    if run.step:
        steps = torch.cat([run.state[node.name], steps])
    run.state[node.name] = steps
    first, total = run.step, run.step + T
    matrix = run.constant(node.matrix)
    if total > matrix.shape[-1]:
        raise ShapeError(f"node {node.name!r} mixes {matrix.shape[-1]} steps, step {total} was asked for")
    ndim = x.dim() - 1
    used = matrix[..., first:total, :total]
    run.bound(node, magnitude(used.abs().sum(-1)) * magnitude(steps) + _size(run, node.bias))
    out = []
    for t in range(T):
        y = torch.zeros_like(steps[0])
        for j in range(total):
            weight = used[..., t, j]
            y = y + (along(weight, node.axis, ndim) if weight.dim() else weight) * steps[j]
        if node.bias is not None:
            y = y + at_step(run.constant(node.bias), first + t, node, ndim)
        out.append(y)
    return torch.cat(out)


def _size(run: Run, name: str | None) -> int:
    return magnitude(run.constant(name)) if name is not None else 0


# -- elementwise ---------------------------------------------------------------------------------------


def add(run: Run, node: g.Add, *inputs: Tensor) -> Tensor:
    """sum_i sign_i * x_i << shift_i."""
    shifts = node.shifts or (0,) * len(inputs)
    signs = node.signs or (1,) * len(inputs)
    run.bound(node, sum(magnitude(x) << k for x, k in zip(inputs, shifts)))
    total = inputs[0] * (signs[0] * 2 ** shifts[0])
    for x, k, sign in zip(inputs[1:], shifts[1:], signs[1:]):
        total = total + x * (sign * 2**k)
    return total


def mul(run: Run, node: g.Mul, a: Tensor, b: Tensor) -> Tensor:
    """Product, element by element."""
    run.bound(node, magnitude(a) * magnitude(b))
    return a * b


def logic(run: Run, node: g.Logic, a: Tensor, b: Tensor) -> Tensor:
    """and, or, iand on {0, 1}."""
    if node.op == "and":
        return a * b
    if node.op == "or":
        return torch.maximum(a, b)
    if node.op == "iand":
        return (1 - a) * b
    raise PackError(f"node {node.name!r}: unknown logic {node.op!r}; known: and, or, iand")


def affine(run: Run, node: g.Affine, x: Tensor) -> Tensor:
    """rshift(gain * x + bias, shift, rounding)."""
    gain, bias = run.constant(node.gain), run.constant(node.bias)
    run.bound(node, magnitude(gain) * magnitude(x) + magnitude(bias) + 2**node.shift)
    ndim = x.dim() - 1
    return rshift(along(gain, node.axis, ndim) * x + along(bias, node.axis, ndim), node.shift, node.rounding)


# -- windows, sums, moves ------------------------------------------------------------------------------


def pool(run: Run, node: g.Pool, x: Tensor) -> Tensor:
    """Maximum, minimum or sum over windows of the space axes; padding never wins and adds zero."""
    if node.mode not in ("max", "min", "sum"):
        raise PackError(f"pool {node.name!r}: a snapped graph has max, min and sum, not {node.mode!r}")
    sides = [side for pair in reversed(node.padding) for side in pair]
    if node.mode == "sum":
        run.bound(node, magnitude(x) * int(np.prod(node.kernel)))
        y = windows(F.pad(x, sides), node)
        return y.sum(tuple(range(-len(node.kernel), 0)))
    sign = torch.full((x.shape[1],), -1 if node.mode == "min" else 1, dtype=x.dtype)
    if node.flip is not None:
        sign = torch.where(run.constant(node.flip) != 0, -sign, sign)
    shaped = along(sign, 0, x.dim() - 1)
    # one below every integer that fits, so that padding never wins
    never = -LIMITS[run.dtype]
    y = windows(F.pad(x * shaped, sides, value=never), node)
    return y.amax(tuple(range(-len(node.kernel), 0))) * shaped


def windows(x: Tensor, node: g.Pool) -> Tensor:
    """[R, C, *space] -> [R, C, *out, *kernel]."""
    for i, (k, s) in enumerate(zip(node.kernel, node.stride)):
        x = x.unfold(2 + i, k, s)
    return x


def mean(run: Run, node: g.Mean, x: Tensor) -> Tensor:
    """Exact sum over row axes."""
    if not node.total:
        raise PackError(f"mean {node.name!r} of a snapped graph must be a total")
    ndim = x.dim() - 1
    axes = tuple(1 + a % ndim for a in node.axes)
    run.bound(node, magnitude(x) * int(np.prod([x.shape[a] for a in axes])))
    return x.sum(axes, keepdim=node.keepdim)


def concat(run: Run, node: g.Concat, *inputs: Tensor) -> Tensor:
    """Concatenation along a row axis after left shifts."""
    shifts = node.shifts or (0,) * len(inputs)
    run.bound(node, max(magnitude(x) << k for x, k in zip(inputs, shifts)))
    ndim = inputs[0].dim() - 1
    return torch.cat([x * 2**k for x, k in zip(inputs, shifts)], 1 + node.axis % ndim)


def upsample(run: Run, node: g.Upsample, x: Tensor) -> Tensor:
    """Nearest neighbour by whole factors."""
    for i, factor in enumerate(node.factors):
        x = x.repeat_interleave(factor, 2 + i)
    return x


def reshape(run: Run, node: g.Reshape, x: Tensor) -> Tensor:
    """Moves inside a row, in order."""
    for move in node.moves:
        x = moved(x, move)
    return x


def moved(x: Tensor, move: tuple[Any, ...]) -> Tensor:
    """One move of `nodes.Reshape` on rows [R, ...]; axes count row axes."""
    name, *args = move
    ndim = x.dim() - 1
    if name == "view":
        return x.reshape(x.shape[0], *args[0])
    if name == "permute":
        return x.permute(0, *(1 + a % ndim for a in args[0]))
    if name == "slice":
        axis, start, stop, step = args
        return x[(slice(None),) * (1 + axis % ndim) + (slice(start, stop, step),)]
    if name == "expand":
        return x.expand(x.shape[0], *args[0])
    if name == "pad":
        return F.pad(x, [side for pair in reversed(args[0]) for side in pair])
    if name == "flip":
        return x.flip(1 + args[0] % ndim)
    if name == "roll":
        return x.roll(args[1], 1 + args[0] % ndim)
    raise PackError(f"unknown move {name!r}; known: view, permute, slice, expand, pad, flip, roll")


# -- over time -----------------------------------------------------------------------------------------


def readout(run: Run, node: g.Readout, x: Tensor) -> Tensor:
    """Sum, maximum or last over time; in a stream the running one."""
    steps = rows_per_step(x, run.T)
    if node.mode == "last":
        return steps[-1]
    if node.mode == "sum":
        y = steps.sum(0)
    elif node.mode == "max":
        y = steps.amax(0)
    else:
        raise PackError(f"readout {node.name!r}: a snapped graph has sum, max and last, not {node.mode!r}")
    before = run.state.get(node.name)
    if before is not None:
        y = before + y if node.mode == "sum" else torch.maximum(before, y)
    run.state[node.name] = y
    run.bound(node, magnitude(y))
    return y


def scan(run: Run, node: g.Scan, x: Tensor) -> Tensor:
    """A recurrent cell, step by step; state starts at zero."""
    steps = rows_per_step(x, max(run.steps(node), 1))
    shapes = {i.name: i.edge.shape for i in node.body.inputs if i.name.startswith("state")}
    state = run.state.get(node.name)
    if state is None:
        state = {name: x.new_zeros(steps.shape[1], *shape) for name, shape in shapes.items()}

    def constant(name: str) -> Tensor:
        return torch.from_numpy(np.asarray(node.body.tensor(name)).astype(np.int64)).to(run.dtype)

    out = []
    for current in steps:
        body = Run(node.body, run.dtype, 1, 0, {}, constant)
        found = execute(body, {"x": current, **state}, set())
        values = {o.key: found[o.name] for o in node.body.outputs}
        out.append(values["y"])
        state = {name: values[name] for name in shapes}
    run.state[node.name] = state
    return torch.cat(out)


def opaque(run: Run, node: g.Opaque, *inputs: Tensor) -> Tensor:
    """Never packed."""
    raise PackError(f"node {node.name!r} is {node.target}, which has no integer form")


FUNCTIONS: dict[type[g.Node], Callable[..., Tensor]] = {
    g.Output: output,
    g.Repeat: repeat,
    g.Conv: conv,
    g.Linear: linear,
    g.Neuron: neuron,
    g.Add: add,
    g.Mul: mul,
    g.Logic: logic,
    g.MatMul: matmul,
    g.Affine: affine,
    g.Lut: lut,
    g.Pool: pool,
    g.Mean: mean,
    g.Concat: concat,
    g.Upsample: upsample,
    g.Reshape: reshape,
    g.Readout: readout,
    g.TimeMix: time_mix,
    g.Scan: scan,
    g.Opaque: opaque,
}
