"""From an nn.Module to a captured graph: `capture(model, example)`."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from picojoule import timeline
from picojoule.compress.base import Codes
from picojoule.core import kinds
from picojoule.core.errors import CaptureError
from picojoule.core.kinds import Kind
from picojoule.graph import lower_dense, lower_math, lower_pool, lower_shape, lower_time, trace
from picojoule.graph import nodes as g
from picojoule.graph.builder import TO_ROW, TO_TIME, Builder
from picojoule.graph.lowering import LOWERINGS, arguments, evaluated, extent, opaque, packet, tensors_in
from picojoule.graph.nodes import Edge, Graph
from picojoule.graph.prepare import prepare
from picojoule.graph.rows import Const, Val, value
from picojoule.graph.tidy import tidy
from picojoule.neurons.base import Neuron

TABLES = (lower_dense, lower_math, lower_pool, lower_shape, lower_time)  # imported for their registrations
Kinds = Mapping[str, Kind | str] | Sequence[Kind | str] | Kind | str | None


def capture(model: nn.Module, example: Any, *, steps: int | None = None, input_kinds: Kinds = None) -> Graph:
    """The graph of `model` in eval mode; the model itself is not touched.

    Args:
        model: any module whose leading axis is the batch; time rides in rows (timeline.Entry, Readout).
        example: a tensor or a tuple of tensors, batch-first; values do not matter, shapes after the batch do.
        steps: T to capture with, if it differs from the model's own.
        input_kinds: kind of each input ("real" by default), by name, in order, or one for all.
    Returns:
        A Graph of stage "captured", with float constants, sources and live modules.
    Raises:
        CaptureError: the model fixes or mixes its batch, or depends on data; the message names the module
            path, the source line and what to write instead.
    """
    if not isinstance(model, nn.Module):
        raise CaptureError(
            f"capture takes an nn.Module, got {type(model).__name__}; wrap a function in a module"
        )
    twin, codes = prepare(model, steps)
    traced = trace.trace(twin, example)
    walk = _Walk(traced, codes, input_kinds)
    walk.run()
    return tidy(walk.finish())


class _Walk:
    """Reads an exported program from top to bottom."""

    def __init__(self, traced: trace.Traced, codes: dict[str, Codes], input_kinds: Kinds) -> None:
        self.traced = traced
        self.b = Builder(codes)
        self.b.modules = dict(traced.model.named_modules())
        self.env: dict[fx.Node, Any] = {}
        self.kinds = _input_kinds(traced.input_names, input_kinds)
        self.outputs: list[Any] = []

    def run(self) -> None:
        """Lower every operator."""
        for node in self.traced.program.graph.nodes:
            if node.op == "placeholder":
                self.env[node] = self.placeholder(node)
            elif node.op == "get_attr":
                self.env[node] = Const(_attribute(self.traced.program.graph_module, str(node.target)))
            elif node.op == "call_function":
                self.env[node] = self.call(node)
                if trace.mutates(node) and isinstance(node.args[0], fx.Node):
                    self.env[node.args[0]] = self.env[node]  # later readers see what was written
            elif node.op == "output":
                self.outputs = [self.env.get(n, n) if isinstance(n, fx.Node) else n for n in node.args[0]]

    def placeholder(self, node: fx.Node) -> Any:
        """A parameter, buffer, constant or input."""
        program, signature = self.traced.program, self.traced.program.graph_signature
        for table in (signature.inputs_to_parameters, signature.inputs_to_buffers):
            if node.name in table:
                path = table[node.name]
                held = program.state_dict if path in program.state_dict else program.constants
                return Const(held[path], path)
        constants = signature.inputs_to_lifted_tensor_constants
        if node.name in constants:
            return Const(program.constants[constants[node.name]], constants[node.name])
        if node.name not in self.traced.input_names:
            return None
        val = node.meta["val"]
        if any(not isinstance(s, int) for s in val.shape[1:]):
            raise CaptureError(
                f"input {node.name!r}: only the batch axis may vary, got shape {tuple(val.shape)}"
            )
        users = list(node.users)
        folded = bool(users) and all(
            packet(u) in ("pj.fold", "aten.sym_size") for u in users if u.op == "call_function"
        )
        folded = folded and any(packet(u) == "pj.fold" for u in users)
        shape = tuple(int(s) for s in val.shape[1:])
        edge = (
            Edge(self.kinds[node.name], shape[1:], shape[0])
            if folded
            else Edge(self.kinds[node.name], shape, 0)
        )
        out = self.b.add(g.Input, "input", [], edge, name=self.b.fresh(node.name))
        v = value(out.name, edge)
        return v.with_(axes=(("B",), ("T",), *v.axes[1:])) if folded else v

    def lookup(self, item: Any) -> Any:
        """Arguments with traced nodes replaced by what they stand for."""
        if isinstance(item, fx.Node):
            return self.env[item]
        if isinstance(item, list | tuple):
            return type(item)(self.lookup(part) for part in item)
        return item

    def call(self, node: fx.Node) -> Any:
        """Lower one operator, whose place errors will name."""
        b = self.b
        b.module, b.source = trace.place_of(node)
        owner = b.modules.get(b.module)
        b.op = packet(node).split(".")[-1] if hasattr(node.target, "_schema") else "op"
        b.hint = b.module if owner is not None and b.module and _is_library(owner) else ""
        try:
            return self._call(node)
        except CaptureError as error:
            if str(error).startswith(("module ", "the model")):
                raise
            b.fail(str(error))

    def _call(self, node: fx.Node) -> Any:
        if node.target is operator.getitem:
            return self.env[node.args[0]][node.args[1]]  # type: ignore[index]
        if isinstance(node.meta.get("val"), int | float | torch.SymInt) or packet(node) == "aten.sym_size":
            return extent(node.meta["val"])
        if not hasattr(node.target, "_schema"):
            name = getattr(node.target, "__name__", node.target)
            self.b.fail(
                f"the traced program calls {name}, which no graph holds; write it with tensor operators"
            )
        args = arguments(node, self.lookup)
        name = packet(node)
        if not tensors_in(args):
            if name.startswith("pj."):
                return args.get("x")
            if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
                self.b.fail(
                    f"{name} draws random numbers, which a graph cannot repeat; use a constant or a buffer"
                )
            return evaluated(node, args) if node.meta.get("val") is not None else None
        if name.endswith(("_like",)) or name in ("aten.new_zeros", "aten.new_ones", "aten.new_full"):
            return self.filled(node)
        if name in LOWERINGS:
            return LOWERINGS[name](self.b, node, args)
        if name.startswith("pj."):
            return lower_time.live(self.b, node, args)
        return opaque(self.b, node, args)

    def filled(self, node: fx.Node) -> Const:
        """zeros_like and friends: a constant, of length 1 along the batch."""
        name = packet(node)
        shape = [s if isinstance(s, int) else 1 for s in map(extent, node.meta["val"].shape)]
        if "full" in name:
            level = next(a for a in reversed(node.args) if isinstance(a, int | float))
        elif "zeros" in name or "ones" in name:
            level = float("ones" in name)
        else:
            self.b.fail(f"{name} is random or undefined, so a graph cannot repeat it; use a constant")
        return Const(torch.full(shape, float(level), dtype=torch.float64))

    def finish(self) -> Graph:
        """Outputs by name, and the graph."""
        b = self.b
        for key, v in zip(self.keys(), self.outputs):
            b.module = b.source = b.hint = ""
            if not isinstance(v, Val):
                raise CaptureError(
                    f"output {key!r} does not depend on the input; return tensors made from it"
                )
            rows = self._bordered(v)
            b.add(g.Output, key, [rows.node], rows.edge, name=b.fresh(key), key=key)
        return Graph(tuple(b.nodes), b.tensors, "captured", b.live)

    def _bordered(self, v: Val) -> Val:
        """Rows as they leave: canonical, or with time after the batch."""
        b = self.b
        plain = tuple((i,) for i in range(len(v.edge.shape)))
        if v.axes == (("B",), ("T",), *plain):
            return v
        rows, lead = b.rows(v)
        if lead.split or lead.extra or rows.edge.steps:
            raise CaptureError(
                f"an output leaves as rows of T={rows.edge.steps} steps (row "
                f"{list(rows.edge.shape)}); outputs are "
                "batch-first: end with timeline.readout(x, T, mode) or timeline.unfold(x, T)"
            )
        return rows

    def keys(self) -> list[str]:
        """Names of the outputs: dictionary keys, fields, or positions."""
        spec = self.traced.program.call_spec.out_spec
        blank = pytree.tree_unflatten(list(range(len(self.outputs))), spec)
        if isinstance(blank, int):
            return ["out"]
        names: dict[int, str] = {}
        for path, leaf in pytree.tree_flatten_with_path(blank)[0]:
            names[leaf] = ".".join(_step(p) for p in path)
        found = [names[i] for i in range(len(self.outputs))]
        return [f"out{name}" if name[:1].isdigit() else name for name in found]


def _step(part: Any) -> str:
    for field in ("key", "name", "idx"):
        if hasattr(part, field):
            return str(getattr(part, field))
    return str(part)


def _attribute(module: Any, path: str) -> Tensor:
    for part in path.split("."):
        module = getattr(module, part)
    return module


def _is_library(module: nn.Module) -> bool:
    """A module that is one operator: its node takes its path as name."""
    if isinstance(module, Neuron | timeline.Entry | timeline.Readout) or hasattr(module, "state_rows"):
        return True
    return type(module).__module__.startswith("torch.nn.") and not list(module.children())


def _input_kinds(names: Sequence[str], given: Kinds) -> dict[str, Kind]:
    def kind(item: Kind | str) -> Kind:
        return kinds.parse(item) if isinstance(item, str) else item

    if given is None:
        return dict.fromkeys(names, kinds.real)
    if isinstance(given, Kind | str):
        return dict.fromkeys(names, kind(given))
    if isinstance(given, Mapping):
        unknown = set(given) - set(names)
        if unknown:
            raise CaptureError(f"input_kinds names {sorted(unknown)}; the model's inputs are {list(names)}")
        return {name: kind(given.get(name, kinds.real)) for name in names}
    if len(given) != len(names):
        raise CaptureError(f"input_kinds has {len(given)} entries for the inputs {list(names)}")
    return {name: kind(item) for name, item in zip(names, given)}


def capture_cell(
    module: Any, shape: tuple[int, ...], path: str, kind: Kind, codes: dict[str, Codes]
) -> Graph:
    """One step of a recurrent cell: inputs x, state0, ..; outputs y, state0, .. .

    Args:
        module: has `cell`, `state_rows(shape)` and `state_kinds` (neurons.Recurrent).
        path: module path inside the model; codes: quantized weights of the whole model by path.
    """
    states = module.state_rows(shape)
    dtype = next((p.dtype for p in module.cell.parameters()), torch.float32)
    example = tuple(torch.zeros(2, *s, dtype=dtype) for s in (shape, *states))
    traced = trace.trace(_CellStep(module.cell), example)
    inside = f"{path}." if path else ""
    own = {name[len(inside) :]: item for name, item in codes.items() if name.startswith(inside)}
    walk = _Walk(traced, own, [kind, *module.state_kinds])
    walk.run()
    names = ["x", *(f"state{i}" for i in range(len(states)))]
    graph = _renamed(walk.finish(), dict(zip(traced.input_names, names)), ["y", *names[1:]], path)
    return tidy(graph)


class _CellStep(nn.Module):
    """(x, *state) -> (y, *state) as flat tensors."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        y, new = self.cell(x, state)
        return (y, *new)


def _renamed(graph: Graph, inputs: dict[str, str], keys: list[str], path: str) -> Graph:
    """A body graph with the names that Scan promises, and module paths of the outer model."""
    key_of = {node.name: key for node, key in zip(graph.outputs, keys)}
    names = {node.name: f"{path}.{node.name}" if path else node.name for node in graph.nodes}
    names |= inputs | {name: f"{key}.out" for name, key in key_of.items()}
    done: list[g.Node] = []
    for node in graph.nodes:
        module = f"{path}.{node.module}" if path and node.module else node.module or path
        changed: dict[str, Any] = {"key": key_of[node.name]} if node.name in key_of else {}
        read = tuple(names[i] for i in node.inputs)
        done.append(dataclasses.replace(node, name=names[node.name], inputs=read, module=module, **changed))
    live = {names[name]: item for name, item in graph.live.items()}
    return Graph(tuple(done), graph.tensors, graph.stage, live)


__all__ = ["TABLES", "TO_ROW", "TO_TIME", "capture"]
