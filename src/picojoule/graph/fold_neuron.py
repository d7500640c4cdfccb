"""How a neuron absorbs the scale and offset of its input. See docs/folding.md, 'Neurons absorb the scale'."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from picojoule.core.errors import PackError
from picojoule.graph import nodes as g
from picojoule.graph import symbolic as sy
from picojoule.graph.folder import Folder, Rule, place
from picojoule.graph.snapped_neuron import NeuronOp, NeuronPlan
from picojoule.graph.symbolic import Array, Sym, scalar

THRESHOLD_BITS = 6  # a threshold of 2^6 accumulator steps or less gets all fraction bits of the grid
PLANES = ("decay", "gain", "bias", "reset_value", "v_init", "neg_threshold")


@dataclass(frozen=True)
class Real:
    """Constants of a captured neuron in real units: planes [T|1, C|1], thresholds [L, T|1, C|1]."""

    decay: Array
    gain: Array
    bias: Array
    reset_value: Array
    v_init: Array
    thresholds: Array
    neg_threshold: Array | None


def fold_neuron(f: Folder, node: g.Neuron) -> Sym:
    """Scale and offset join the constants of the neuron; its spikes have scale `out_scale`."""
    if not node.lowered:
        raise PackError(
            f"{place(node)}: {node.op} trains and measures but has no packed form; use IF, LIF, PLIF, "
            "ILIF, a ternary LIF or a causal PSN where the model is to be packed"
        )
    sym = f.inputs(node)[0]
    if not sym.name:
        raise PackError(f"{place(node)} gets a constant; its spikes never change, so leave it out")
    real = _read(f, node)
    axis = _axis(node, sym, real)
    if axis is None:
        flat, wide = f.flat(sym, node), _per_element(real, node, sym.shape)
        spikes = _emit(f, node, flat, wide, 0, f"{node.name}.flat")
        out = f.unflat(spikes, sym.shape, node, node.name)
    else:
        out = _emit(f, node, sym, real, axis, None)
    return out.with_(scale=scalar(node.out_scale, len(out.shape)))


def _read(f: Folder, node: g.Neuron) -> Real:
    planes = {name: f.tensor(getattr(node, name)) for name in PLANES if getattr(node, name) is not None}
    planes.setdefault("neg_threshold", None)  # type: ignore[arg-type]
    return Real(thresholds=f.tensor(node.thresholds), **planes)


def _axis(node: g.Neuron, sym: Sym, real: Real) -> int | None:
    """Row axis of the channels; None when constants and input change along different axes."""
    ndim = len(sym.shape)
    changing = sy.varying(sym.scale, sym.offset)
    own = any(getattr(real, name).shape[-1] > 1 for name in (*PLANES[:5], "thresholds"))
    if own or (real.neg_threshold is not None and real.neg_threshold.shape[-1] > 1):
        changing = changing | {node.axis % ndim}
    if len(changing) > 1:
        return None
    return min(changing) if changing else (node.axis % ndim if ndim else 0)


def _per_element(real: Real, node: g.Neuron, shape: tuple[int, ...]) -> Real:
    """Constants per channel as constants per element of a flattened row."""
    size, axis = math.prod(shape), node.axis % len(shape)

    def wide(plane: Array) -> Array:
        if plane.shape[-1] == 1:
            return plane
        view = [1] * len(shape)
        view[axis] = plane.shape[-1]
        full = np.broadcast_to(plane.reshape(*plane.shape[:-1], *view), (*plane.shape[:-1], *shape))
        return full.reshape(*plane.shape[:-1], size)

    changed = {k: wide(getattr(real, k)) for k in (*PLANES[:5], "thresholds")}
    neg = None if real.neg_threshold is None else wide(real.neg_threshold)
    return Real(**changed, neg_threshold=neg)


def _emit(f: Folder, node: g.Neuron, sym: Sym, real: Real, axis: int, name: str | None) -> Sym:
    ndim, T = len(sym.shape), max(sym.steps, 1)
    scale, offset = sy.plane(sym.scale, axis), sy.plane(sym.offset, axis)
    if scale is None or offset is None:
        raise PackError(f"{place(node)} reads an edge that changes along several axes")
    real = replace(real, bias=real.bias + real.gain * offset, gain=real.gain * scale)
    memory = bool(real.decay.any()) and (T > 1 or f.grid.stream)
    if not memory:
        real = replace(real, bias=real.bias + real.decay[:1] * real.v_init[:1])
    plan = _plan(f, node, real, axis, memory, max(-sym.low, sym.high))
    op = NeuronOp(plan, T, f.graph.live.get(node.name))
    return f.emit(
        op,
        node,
        [sym],
        sym.shape,
        sym.steps,
        scalar(1, ndim),
        scalar(0, ndim),
        kind=node.edge.kind,
        name=name,
    )


def _plan(f: Folder, node: g.Neuron, real: Real, axis: int, memory: bool, reach: int) -> NeuronPlan:
    """Units, integer gain and integer decay."""
    grid = f.grid
    steady = real.gain.shape[0] == 1 or bool((real.gain == real.gain[:1]).all())
    table = node.breaks is not None
    if steady:
        real = replace(real, gain=real.gain[:1])
    frac = 0 if not memory and steady else f.frac(node)
    if not memory and steady:
        lsb = np.where(real.gain != 0, np.abs(real.gain), 1.0)
        gain = np.sign(real.gain)
    elif steady and not table:
        unit, sign, size = _unit(real, frac, reach)
        frac = _enough(frac, (size / unit)[sign != 0])
        lsb = unit * 2.0**-frac
        gain = sign * 2.0**frac
    else:
        size = np.abs(real.gain[real.gain != 0])
        exponent = math.ceil(-math.log2(size.min())) if size.size else 0
        frac = max(frac + max(exponent, -frac), 0)
        lsb = np.full((1, 1), 2.0**-frac)
        gain = np.floor(real.gain / lsb + 0.5)
    memory_now = memory or not steady
    decay, shift = _decay(real.decay if memory else np.zeros((1, 1)), grid.decay_bits)
    return NeuronPlan(
        kind=node.edge.kind, axis=axis, reset=node.reset if memory else "none", memory=memory_now, frac=frac,
        lsb=lsb, gain=gain, decay=decay, decay_shift=shift, rounding=grid.decay_rounding, bias=real.bias,
        thresholds=real.thresholds, strict=node.strict, neg_threshold=real.neg_threshold,
        neg_strict=node.neg_strict, reset_value=real.reset_value, v_init=real.v_init,
        breaks=f.tensor(node.breaks) if table and memory else None,
        values=f.tensor(node.values) if table and memory else None,
    )  # fmt: skip


def _unit(real: Real, frac: int, reach: int) -> tuple[Array, Array, Array]:
    """Real value of one accumulator step, integer sign of the gain, and size of the threshold; all [1, C|1].

    A channel whose largest input stays below half a step of the grid (a dead BatchNorm slope) has gain 0; its
    constants would need many bits in units of its own scale.
    """
    size = np.maximum(np.abs(real.thresholds).max((0, 1)), np.abs(real.reset_value).max(0))
    size = np.where(size > 0, size, 1.0)[None]
    size, gain = np.broadcast_arrays(size, real.gain)
    alive = np.abs(gain) * max(reach, 1) > size * 2.0 ** -(frac + THRESHOLD_BITS + 1)
    unit = np.where(alive, np.abs(gain), size * 2.0**-THRESHOLD_BITS)
    return unit, np.where(alive, np.sign(gain), 0.0), size


def _enough(frac: int, ratio: Array) -> int:
    """Fraction bits after those that a threshold of many accumulator steps makes needless."""
    spare = math.floor(math.log2(max(float(ratio.min(initial=2.0**40)), 1.0))) - THRESHOLD_BITS
    return max(frac - max(spare, 0), 0)


def _decay(decay: Array, bits: int) -> tuple[Array, int]:
    """Integer decay and its shift; common factors of two are removed."""
    whole = np.floor(decay * 2.0**bits + 0.5).astype(np.int64)
    shift = bits
    while shift and not (whole & 1).any():
        whole, shift = whole >> 1, shift - 1
    return whole.astype(np.float64), shift


TABLE: dict[type[g.Node], Rule] = {g.Neuron: fold_neuron}
