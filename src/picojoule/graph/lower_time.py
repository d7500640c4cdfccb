"""Lowering of the `pj::` operators: repeat, fold, readout, neurons, cells and other live modules."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import fx, nn

from picojoule.core import kinds
from picojoule.core.errors import PackError
from picojoule.core.spec import NeuronSpec
from picojoule.graph import nodes as g
from picojoule.graph.builder import Builder
from picojoule.graph.lower_math import over_time
from picojoule.graph.lowering import Args, lowers, packet, sizes
from picojoule.graph.nodes import Edge
from picojoule.graph.rows import Const, Lead, Val, value
from picojoule.neurons import base as neurons


@lowers("pj.repeat")
def repeat(b: Builder, node: fx.Node, a: Args) -> Any:
    """One row a sample to T rows."""
    v, T = b.plain(a["x"]), a["T"]
    if v.edge.steps > 1:
        b.fail(
            f"timeline.repeat(x, T={T}) meets rows that have T={v.edge.steps} steps already; repeat "
            "once, at entry"
        )
    edge = Edge(v.edge.kind, v.edge.shape, T)
    out = b.emit(g.Repeat, "main", [v.node], edge)
    b.like(v, out.node)
    return out


@lowers("pj.fold")
def fold(b: Builder, node: fx.Node, a: Args) -> Any:
    """[B, T, ...] to rows; an input of frames is folded at the border."""
    v = a["x"]
    if "T" in [x for axis in v.axes for x in axis] and v.axes[:2] == (("B",), ("T",)):
        return v.with_(axes=(("N",), *v.axes[2:]))
    v = b.plain(v)
    if not v.edge.shape:
        b.fail("timeline.fold needs [B, T, ...]: an axis of steps after the batch")
    return b.shown(b.row_to_time(v, 0), Lead())


@lowers("pj.readout")
def readout(b: Builder, node: fx.Node, a: Args) -> Any:
    """T rows to one row a sample, or time kept apart ("steps")."""
    v, T, mode = b.plain(a["x"]), a["T"], a["mode"]
    v = timed(b, v, T, "timeline.readout")
    if not v.edge.steps:  # T = 1 without Entry: one row a sample already
        unit = b.move(v, ("view", (1, *v.edge.shape)), shape=(1, *v.edge.shape))
        return unit if mode == "steps" else v
    split = v.with_(axes=(("T",), ("B",), *v.axes[1:]))
    if mode == "steps":
        return v.with_(axes=(("B",), ("T",), *v.axes[1:]))
    return over_time(b, split, 0, mode, "main")


def timed(b: Builder, v: Val, T: int, what: str) -> Val:
    """Rows of T steps; untimed rows (steps = 0) pass where T = 1."""
    if v.edge.steps == T or (v.edge.steps == 0 and T == 1):
        return v
    raise b.error(_untimed(v, T, what))


def _untimed(v: Val, T: int, what: str) -> str:
    given = f"rows of T={v.edge.steps} steps" if v.edge.steps else "one row a sample (no Entry before it)"
    return (
        f"{what} is built for T={T} but gets {given}; call set_steps(model, {max(v.edge.steps, 1)}) or put "
        f"timeline.Entry({T}) at the entry of the model"
    )


# -- live modules ----------------------------------------------------------------------------------------


def live_module(b: Builder, a: Args) -> Any:
    """The module behind an operator: by its key, or the module that was running."""
    for item in a.values():
        if isinstance(item, str) and neurons._leaves.get(item) is not None:
            return neurons.leaf_module(item)
    return b.modules.get(b.module)


def live(b: Builder, node: fx.Node, a: Args) -> Any:
    """Any other `pj::` operator: a neuron, a recurrent cell, or a module that only torch can run."""
    module = live_module(b, a)
    if module is None:
        b.fail(
            f"the operator {packet(node)} has no module behind it; call it from the forward of an nn.Module"
        )
    data = next((x for x in a.values() if isinstance(x, Val)), None)
    if data is None:
        b.fail(f"{type(module).__name__} works on a constant; give it data that comes from an input")
    first = node.meta["val"]
    several = isinstance(first, list | tuple)
    if several and any(user.args[1] != 0 for user in node.users):
        b.fail(
            f"{type(module).__name__}: its state or membrane is used by the model; a graph holds "
            "spikes only, so "
            "use the spikes, or keep the computation inside the neuron"
        )
    T = int(a["T"] if "T" in a else getattr(module, "T", 1))
    if isinstance(module, neurons.Neuron):
        out = neuron(b, node, module, data, T)
    elif hasattr(module, "cell") and hasattr(module, "state_rows"):
        out = scan(b, node, module, data, T)
    else:
        out = called(b, node, module, data)
    return [out] if several else out


def neuron(b: Builder, node: fx.Node, module: Any, data: Val, T: int) -> Val:
    """A Neuron node, after a TimeMix where the neuron mixes time."""
    rows, lead = b.rows(data)
    v = rows if rows.edge.steps == 0 and T == 1 else timed(b, rows, T, type(module).__name__)
    if lead.split and v.edge.steps != T:
        b.fail(f"{type(module).__name__} gets [T, B, ...]; give it rows [T*B, ...]")
    try:
        spec: NeuronSpec | None = module.lower()
    except PackError:
        spec = None
    axis, mixed = channel_axis(b, module, spec, v.edge.shape), v
    if spec is not None and hasattr(module, "time_matrix"):
        mixed = time_mix(b, module, v, axis, T)
    kind = spec.kind if spec is not None else getattr(module, "kind", kinds.binary)
    edge = Edge(kind, v.edge.shape, v.edge.steps)
    name = b.name_for("main")
    fields = neuron_fields(b, name, spec) if spec is not None else {"lowered": False}
    op = module.op_name or type(module).__name__.lower()
    b.add(g.Neuron, "main", [mixed.node], edge, name=name, op=op, axis=axis, **fields)
    b.live[name] = module
    scale = spec.out_scale if spec is not None else float(getattr(module, "out_scale", 1.0))
    if scale != 1.0:
        b.scales[name] = scale
    return b.shown(value(name, edge), lead)


def neuron_fields(b: Builder, name: str, spec: NeuronSpec) -> dict[str, Any]:
    """Fields and constants of a lowered Neuron node."""
    fields: dict[str, Any] = {
        "reset": spec.reset,
        "strict": spec.strict,
        "neg_strict": spec.neg_strict,
        "out_scale": spec.out_scale,
        "v_bits": spec.v_bits or 0,
    }
    arrays = {
        key: getattr(spec, key) for key in ("decay", "gain", "bias", "thresholds", "reset_value", "v_init")
    }
    if spec.neg_threshold is not None:
        arrays["neg_threshold"] = spec.neg_threshold
    if spec.table is not None:
        arrays |= {"breaks": spec.table.breaks, "values": spec.table.values}
    for key, array in arrays.items():
        fields[key] = b.constant(f"{name}.{key}", np.asarray(array, dtype=np.float64))
    return fields


def channel_axis(b: Builder, module: Any, spec: NeuronSpec | None, shape: tuple[int, ...]) -> int:
    """Row axis that carries a neuron's per-channel constants."""
    told = getattr(module, "channel_axis", None)
    if isinstance(told, int):
        return told % max(len(shape), 1) if told < 0 else max(told - 1, 0)
    if spec is None:
        return 0
    planes = [spec.decay, spec.gain, spec.bias, spec.reset_value, spec.v_init, spec.thresholds]
    channels = max(p.shape[-1] for p in planes)
    if channels == 1 or (shape and shape[0] == channels):
        return 0
    fitting = [i for i, s in enumerate(shape) if s == channels]
    if len(fitting) != 1:
        b.fail(
            f"{type(module).__name__} has {channels} channels, but no row axis of {list(shape)} has "
            "that length"
        )
    return fitting[0]


def time_mix(b: Builder, module: Any, v: Val, axis: int, T: int) -> Val:
    """The linear mix over time of a parallel spiking neuron."""
    matrix, bias = (_float64(part) for part in module.time_matrix(T))
    name = b.name_for("mix")
    fields: dict[str, Any] = {"matrix": b.constant(f"{name}.matrix", matrix)}
    if bias is not None:
        fields["bias"] = b.constant(
            f"{name}.bias", bias.reshape(bias.shape[0], -1) if bias.ndim else bias.reshape(1, 1)
        )
    causal = bool(np.all(np.triu(matrix, 1) == 0))
    edge = Edge(kinds.real, v.edge.shape, v.edge.steps)
    b.add(g.TimeMix, "mix", [v.node], edge, name=name, axis=axis, causal=causal, **fields)
    return value(name, edge)


def _float64(part: Any) -> Any:
    if part is None:
        return None
    return np.asarray(
        part.detach().cpu().double().numpy() if isinstance(part, torch.Tensor) else part, dtype=np.float64
    )


def scan(b: Builder, node: fx.Node, module: Any, data: Val, T: int) -> Val:
    """A recurrent cell: its one-step graph, captured alone."""
    from picojoule.graph.capturing import capture_cell

    v = timed(b, b.plain(data), T, type(module).__name__)
    shape = tuple(f for f, _ in sizes(node)[1:])
    body = capture_cell(module, v.edge.shape, b.module, v.edge.kind, b.codes)
    inner = next(n for n in body.outputs if n.key == "y")
    edge = Edge(inner.edge.kind, shape, v.edge.steps)
    out = b.emit(g.Scan, "main", [v.node], edge, body=body)
    b.live[out.node] = module
    return out


def called(b: Builder, node: fx.Node, module: nn.Module, data: Val) -> Val:
    """A module that stays what it is: an Opaque node that calls it."""
    v = b.plain(data)
    shape = tuple(f for f, _ in sizes(node)[1:])
    edge = Edge(getattr(module, "kind", kinds.real), shape, v.edge.steps)
    out = b.emit(g.Opaque, "main", [v.node], edge, target=f"module:{type(module).__name__}")
    b.live[out.node] = module
    return out


__all__ = ["Const", "live", "timed"]
