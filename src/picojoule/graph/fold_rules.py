"""Folding the border, weighted sums and affine maps: what happens to scale and offset (docs/folding.md)."""

from __future__ import annotations

import math

import numpy as np

from picojoule.core.errors import PackError
from picojoule.core.kinds import fixed
from picojoule.graph import nodes as g
from picojoule.graph import symbolic as sy
from picojoule.graph.folder import Folder, Rule, place
from picojoule.graph.passes import is_constant
from picojoule.graph.snapped_moves import OutputOp
from picojoule.graph.snapped_ops import ConvOp, InputOp, LinearOp, TimeMixOp, bits_for
from picojoule.graph.symbolic import Array, Sym, dyadic, scalar

BYTE_BITS = 32  # of a table entry before its range is known


# -- border --------------------------------------------------------------------------------------------


def fold_input(f: Folder, node: g.Input) -> Sym:
    """Spikes as they are; real data on the input grid, or bytes through a table (see `fold_affine`)."""
    shape, ndim = node.edge.shape, len(node.edge.shape)
    if node.edge.kind.is_spikes:
        op = InputOp(8)
        return f.emit(
            op, node, [], shape, node.edge.steps, scalar(1, ndim), scalar(0, ndim), kind=node.edge.kind
        )
    grid = f.grid
    if grid.input_bytes is not None:
        return _byte_input(f, node, np.full((1, 1), grid.input_bytes), np.zeros((1, 1)), 0)
    scale = scalar(2.0**-grid.input_frac, ndim)
    op = InputOp(_input_bits(f, node))
    return f.emit(op, node, [], shape, node.edge.steps, scale, scalar(0, ndim))


def _input_bits(f: Folder, node: g.Input) -> int:
    if f.grid.input_bits is not None:
        return f.grid.input_bits
    if f.samples is None:
        return 16
    names = [n.name for n in f.graph.inputs]
    data = f.samples
    if isinstance(data, dict):
        data = data[node.name]
    elif isinstance(data, list | tuple):
        data = data[names.index(node.name)]
    array = np.asarray(data, dtype=np.float64)
    if not array.size:
        return 16
    ends = np.floor(np.array([array.min(), array.max()]) * 2.0**f.grid.input_frac + 0.5)
    return max(bits_for(int(ends[0]), int(ends[1])), 2)


def _byte_input(f: Folder, node: g.Input, gain: Array, bias: Array, axis: int) -> Sym:
    """A u8 input p of channel c becomes round((gain_c p + bias_c) * 2^frac)."""
    shape, ndim = node.edge.shape, len(node.edge.shape)
    channels = shape[axis] if shape else 1
    full = [np.broadcast_to(v.reshape(-1), (channels,))[:, None] for v in (gain, bias)]
    table = np.floor((full[0] * np.arange(256) + full[1]) * 2.0**f.grid.input_frac + 0.5)
    op = InputOp(BYTE_BITS, table, axis)
    scale = scalar(2.0**-f.grid.input_frac, ndim)
    return f.emit(op, node, [], shape, node.edge.steps, scale, scalar(0, ndim))


def fold_output(f: Folder, node: g.Output) -> Sym:
    """Integers of an output lie on a dyadic grid, so that they compare like the real values."""
    sym = f.inputs(node)[0]
    if not sym.kind.is_spikes:
        sym = f.on_grid(sym, f.grid.out_frac, node)
    elif dyadic(sym) != 0:  # spikes that stand for a fraction leave as numbers
        sym = f.numbers(sym, f.grid.out_frac, node)
    spikes = sym.kind.is_spikes
    return f.emit(
        OutputOp(node.key),
        node,
        [sym],
        sym.shape,
        sym.steps,
        sym.scale,
        sym.offset,
        kind=sym.kind if spikes else None,
    )


def fold_opaque(f: Folder, node: g.Opaque) -> Sym:
    """Constants stay symbolic; anything else cannot be packed."""
    if is_constant(node):
        value = f.tensor(node.args[0][1]).reshape(1, *node.edge.shape)
        zero = scalar(0, len(node.edge.shape))
        return Sym("", fixed(1, 0), node.edge.shape, node.edge.steps, zero, sy.compress(value))
    raise PackError(
        f"{place(node)}: the operator {node.target} has no integer form; use spiking layers "
        "(convolutions, linear, BatchNorm, pools, additions, spike products) or keep it outside the model"
    )


def fold_scan(f: Folder, node: g.Scan) -> Sym:
    """Recurrent cells keep real state."""
    raise PackError(
        f"{place(node)}: a recurrent cell keeps state that no grid bounds; use neurons with memory "
        "(LIF, PLIF) or a causal time mix where the model is to be packed"
    )


# -- weighted sums -------------------------------------------------------------------------------------


def weights(f: Folder, node: g.Conv | g.Linear) -> tuple[Array, Array, g.Coding, Array | None]:
    """Integer codes at full shape, real value of one code [C_out|1], coding, and code words."""
    raw = f.graph.tensor(node.weight)  # a captured graph holds code words looked up already
    if node.coding.name != "float":
        words = None if node.coding.codebook is None else f.tensor(node.coding.codebook)
        return raw.astype(np.int64), f.tensor(node.scale).reshape(-1), node.coding, words
    bits = f.grid.weight_bits
    limit = 2 ** (bits - 1) - 1
    real = raw.astype(np.float64)
    largest = np.abs(real).reshape(real.shape[0], -1).max(1)
    step = np.where(largest > 0, largest / limit, 1.0)
    codes = np.rint(real / step.reshape(-1, *(1,) * (real.ndim - 1)))
    return codes.astype(np.int64), step, g.Coding("int", bits), None


def fold_conv(f: Folder, node: g.Conv) -> Sym:
    """Integer codes on integers; the scale may differ between groups, the offset must not meet padding."""
    sym = f.inputs(node)[0]
    codes, step, coding, words = weights(f, node)
    padded = any(side for pair in node.padding for side in pair)
    scale = _group_scale(sym, node.groups, codes.shape[0])
    if scale is None or (padded and not sym.no_offset) or (sy.varying(sym.offset) - {0}):
        sym = f.on_grid(sym, f.frac(node), node)
        scale = _group_scale(sym, node.groups, codes.shape[0])
    if scale is None:
        raise PackError(f"{place(node)} reads an edge that could not be brought onto a grid")
    ndim = len(node.edge.shape)
    bias = np.zeros(1) if node.bias is None else f.tensor(node.bias)
    offset = _conv_offset(sym, codes, step, node) + sy.along(bias, 0, ndim)
    op = ConvOp(node, codes, step, coding, words)
    return f.emit(op, node, [sym], node.edge.shape, sym.steps, scale * sy.along(step, 0, ndim), offset)


def _group_scale(sym: Sym, groups: int, outputs: int) -> Array | None:
    """Scale of each output channel when every group reads one scale, as an array over [T, C_out, 1..]."""
    if sy.varying(sym.scale) - {0}:
        return None
    T, channels = sym.scale.shape[:2]
    if channels > 1:
        by_group = sym.scale.reshape(T, groups, channels // groups)
        if not (by_group == by_group[..., :1]).all():
            return None
        return sy.compress(
            np.repeat(by_group[..., 0], outputs // groups, 1).reshape(T, outputs, *sym.scale.shape[2:])
        )
    return sym.scale


def _conv_offset(sym: Sym, codes: Array, step: Array, node: g.Conv) -> Array:
    """What a constant input per channel adds to every output channel (no padding)."""
    ndim = len(node.edge.shape)
    if sym.no_offset:
        return scalar(0, ndim)
    per_input = codes.reshape(*codes.shape[:2], -1).sum(2) * step.reshape(-1, 1)  # [C_out, C_in/groups]
    T = sym.offset.shape[0]
    value = np.broadcast_to(sym.offset.reshape(T, -1), (T, sym.shape[0])).reshape(T, node.groups, -1)
    out = np.einsum("tgi,goi->tgo", value, per_input.reshape(node.groups, -1, per_input.shape[1]))
    return out.reshape(T, codes.shape[0], *(1,) * (ndim - 1))


def fold_linear(f: Folder, node: g.Linear) -> Sym:
    """Like a convolution over the last axis, without padding."""
    sym = f.inputs(node)[0]
    codes, step, coding, words = weights(f, node)
    if sym.scale.shape[-1] > 1:
        sym = f.on_grid(sym, f.frac(node), node)
    ndim = len(node.edge.shape)
    bias = np.zeros(1) if node.bias is None else f.tensor(node.bias)
    last = (*sym.offset.shape[:-1], sym.shape[-1])
    moved = np.broadcast_to(sym.offset, last) @ (codes * step.reshape(-1, 1)).T
    offset = moved + sy.along(bias, ndim - 1, ndim)
    op = LinearOp(codes, step, coding, words)
    return f.emit(
        op, node, [sym], node.edge.shape, sym.steps, sym.scale * sy.along(step, ndim - 1, ndim), offset
    )


def fold_affine(f: Folder, node: g.Affine) -> Sym:
    """Composes with scale and offset; directly behind a byte input it becomes the input's table."""
    sym = f.inputs(node)[0]
    ndim = len(sym.shape)
    gain, bias = f.tensor(node.gain), f.tensor(node.bias)
    first = f.graph[node.inputs[0]]
    if (
        isinstance(first, g.Input)
        and f.grid.input_bytes is not None
        and len(f.graph.consumers(first.name)) == 1
    ):
        f.ops = [op for op in f.ops if op.name != first.name]
        return _byte_input(f, first, gain * f.grid.input_bytes, bias, node.axis % ndim)
    a, b = sy.along(gain, node.axis, ndim), sy.along(bias, node.axis, ndim)
    return sym.with_(scale=sy.compress(sym.scale * a), offset=sy.compress(sym.offset * a + b))


def fold_mix(f: Folder, node: g.TimeMix) -> Sym:
    """Integer matrix; bias and offset become an offset per step."""
    sym = f.inputs(node)[0]
    if sym.scale.shape[0] > 1:
        sym = f.on_grid(sym, f.frac(node), node)
    matrix = f.tensor(node.matrix)
    T, ndim = max(node.edge.steps, 1), len(sym.shape)
    bits = f.grid.mix_bits - min(0, math.floor(math.log2(max(float(np.abs(matrix).max()), 2.0**-20))))
    axis = node.axis % max(ndim, 1)
    before = np.broadcast_to(sym.offset, (T, *sym.offset.shape[1:]))
    if matrix.ndim == 2:
        offset = np.einsum("tj,j...->t...", matrix, before)
    else:
        full = np.broadcast_to(
            before, (T, *(n if i != axis else sym.shape[axis] for i, n in enumerate(before.shape[1:])))
        )
        offset = np.moveaxis(
            np.einsum("ctj,j...c->t...c", matrix, np.moveaxis(full, 1 + axis, -1)), -1, 1 + axis
        )
    if node.bias is not None:
        offset = offset + sy.along(f.tensor(node.bias), axis, ndim)
    op = TimeMixOp(matrix, bits, axis, node.causal)
    return f.emit(op, node, [sym], sym.shape, sym.steps, sym.scale * 2.0**-bits, offset)


TABLE: dict[type[g.Node], Rule] = {
    g.Input: fold_input,
    g.Output: fold_output,
    g.Opaque: fold_opaque,
    g.Scan: fold_scan,
    g.Conv: fold_conv,
    g.Linear: fold_linear,
    g.Affine: fold_affine,
    g.TimeMix: fold_mix,
}
