"""torch.export with a named dynamic batch, and errors that name the module and the line at fault."""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import os
import re
import types
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from picojoule.core.errors import CaptureError
from picojoule.graph.builder import where

_TORCH = os.path.dirname(torch.__file__)
_OURS = os.path.dirname(os.path.dirname(__file__))
_PLUMBING = tuple(os.path.join(_OURS, *name) for name in (("neurons", "base.py"), ("timeline.py",)))
_FRAME = re.compile(r'File "([^"]+)", line (\d+), in (\S+)')
_ADVICE = {
    "data": "the path through the model depends on the values of a tensor (if, while, item(), "
    "int(tensor), boolean "
    "indexing); use torch.where or a mask, so that every sample runs the same operators",
    "batch": "this fixes or mixes the batch axis; keep the leading axis of every tensor free, e.g. "
    "x.flatten(1) "
    "instead of x.reshape(n, -1), x.new_zeros(x.shape[0], ...) instead of torch.zeros(8, ...), and "
    "split time "
    "with timeline.split(x, T)",
}


@dataclass(frozen=True)
class Traced:
    """An exported program, its example and the modules that it was made from."""

    program: Any
    example: tuple[Any, ...]
    model: nn.Module
    input_names: tuple[str, ...]


def as_example(example: Any) -> tuple[Tensor, ...]:
    """The example inputs with a batch of at least 2, by repeating samples."""
    inputs = tuple(example) if isinstance(example, list | tuple) else (example,)
    if not inputs or not all(isinstance(x, Tensor) and x.dim() for x in inputs):
        raise CaptureError(
            "the example must be a tensor or a tuple of tensors with a leading batch axis, got "
            f"{', '.join(type(x).__name__ for x in inputs) or 'nothing'}"
        )
    batches = {x.shape[0] for x in inputs}
    if len(batches) > 1:
        raise CaptureError(f"the example inputs disagree about the batch: {[tuple(x.shape) for x in inputs]}")
    batch = batches.pop()
    if batch == 0:
        raise CaptureError("the example holds no sample; give at least one, [1, ...]")
    return tuple(x if batch >= 2 else x.repeat(2, *[1] * (x.dim() - 1)) for x in inputs)


def trace(model: nn.Module, example: Any) -> Traced:
    """Export `model` (already prepared) with a named dynamic batch.

    Raises:
        CaptureError: the model fixes or mixes its batch axis, or its path depends on data.
    """
    inputs = as_example(example)
    spec = _shapes(model, inputs)
    try:
        program = _export(model, inputs, spec)
    except Exception as error:
        raise _explained(model, inputs, error) from error
    if any(_mutates_shared(node) for node in program.graph.nodes):
        program = program.run_decompositions({})  # makes every operator pure, at the price of source lines
    names = tuple(n for n in program.graph_signature.user_inputs if isinstance(n, str))
    return Traced(program, inputs, model, names)


def _shapes(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Any, ...]:
    """The named batch for every input, grouped as the signature of forward groups them."""
    batch = torch.export.Dim("batch")
    spec: tuple[Any, ...] = tuple({0: batch} for _ in inputs)
    parameters = list(inspect.signature(model.forward).parameters.values())
    stars = [i for i, p in enumerate(parameters) if p.kind is inspect.Parameter.VAR_POSITIONAL]
    return (*spec[: stars[0]], spec[stars[0] :]) if stars and len(inputs) > stars[0] else spec


def _export(model: nn.Module, inputs: tuple[Tensor, ...], shapes: Any) -> Any:
    quiet = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    level = quiet.level
    quiet.setLevel(logging.CRITICAL)
    try:
        # Where export fails it prints its half-made graph; the CaptureError says what matters.
        with torch.no_grad(), contextlib.redirect_stderr(io.StringIO()):
            return torch.export.export(model, inputs, dynamic_shapes=shapes, strict=False)
    finally:
        quiet.setLevel(level)


# Operators that may return their input or a view of it, beside those whose schema says so.
_VIEWS = {
    "aten.dropout", "aten.contiguous", "aten.to", "aten.reshape", "aten.flatten", "aten.alias", "aten.chunk",
    "aten.view_as", "aten.expand_as", "aten.feature_dropout", "aten.type_as", "aten.unflatten",
}  # fmt: skip


def mutates(node: fx.Node) -> bool:
    """True for operators that write into their first argument."""
    schema = getattr(node.target, "_schema", None)
    return node.op == "call_function" and schema is not None and schema.is_mutable


def _is_view(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    if node.op != "call_function" or schema is None or schema.is_mutable:
        return node.op == "call_function" and schema is None
    aliased = any(r.alias_info is not None for r in schema.returns)
    return aliased or str(node.target).rsplit(".", 1)[0] in _VIEWS


def _mutates_shared(node: fx.Node) -> bool:
    """True when an operator writes into a tensor that another traced tensor may be a view of."""
    if not mutates(node):
        return False
    target = node.args[0] if node.args else None
    if not isinstance(target, fx.Node) or target.op != "call_function" or _is_view(target):
        return True
    return str(node.target).startswith("aten.copy_") or any(_is_view(user) for user in target.users)


# -- where in the user's code ----------------------------------------------------------------------------


def line_of(frames: Sequence[tuple[str, int]]) -> str:
    """The innermost frame outside torch, preferably outside picojoule: "file:line", or "" (nn.Sequential)."""
    outside = [(f, n) for f, n in frames if not f.startswith(_TORCH)]
    users = [(f, n) for f, n in outside if not f.startswith(_OURS)]
    models = [(f, n) for f, n in outside if f not in _PLUMBING]  # every neuron's call goes through these
    chosen = (users or models or outside)[-1:]
    return "".join(f"{_short(f)}:{n}" for f, n in chosen)


def _short(file: str) -> str:
    """A file as people know it: from the package, or from the folder they are in."""
    if file.startswith(_OURS):
        return os.path.relpath(file, os.path.dirname(_OURS))
    return os.path.relpath(file) if file.startswith(os.getcwd()) else file


def place_of(node: fx.Node) -> tuple[str, str]:
    """Module path and source line of a traced operator."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [path for path, _ in stack.values()]
    frames = [(m[1], int(m[2])) for m in _FRAME.finditer(node.meta.get("stack_trace") or "")]
    return clean_path(paths[-1] if paths else ""), line_of(frames)


def clean_path(path: str) -> str:
    """A module path without the marks that repeated calls get ("fc@1" -> "fc")."""
    return re.sub(r"@\d+", "", path)


def _explained(model: nn.Module, inputs: tuple[Tensor, ...], error: Exception) -> CaptureError:
    """A CaptureError for whatever export said, with the place found."""
    text = str(error)
    if isinstance(error, CaptureError):
        return error
    if "Constraints violated" in text or "specialized" in text:
        module, source = _fixing_operator(model, inputs)
        return CaptureError(f"{where(module, source)}: {_ADVICE['batch']}")
    module, source = _traceback_place(model, error.__traceback__)
    if "data-dependent" in text or "DataDependent" in type(error).__name__:
        found = _FRAME.findall(text)
        lines = [(f, int(n)) for f, n, _ in found]
        return CaptureError(f"{where(module, line_of(lines) or source)}: {_ADVICE['data']}")
    first = text.strip().splitlines()[0] if text.strip() else type(error).__name__
    return CaptureError(
        f"{where(module, source)}: torch.export failed with {type(error).__name__}: {first}; check that the "
        "model runs on the example in eval mode and takes only tensors"
    )


def _traceback_place(model: nn.Module, tb: types.TracebackType | None) -> tuple[str, str]:
    """The innermost module call and user line of a traceback."""
    paths = {id(m): path for path, m in model.named_modules()}
    module, frames = "", []
    while tb is not None:
        owner = tb.tb_frame.f_locals.get("self")
        if id(owner) in paths:
            module = paths[id(owner)]
        frames.append((tb.tb_frame.f_code.co_filename, tb.tb_lineno))
        tb = tb.tb_next
    return module, line_of(frames)


def _fixing_operator(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[str, str]:
    """The first operator whose result does not grow with the batch: two static exports are compared."""
    programs = []
    for batch in (2, 6):
        sample = tuple(x[:1].repeat(batch, *[1] * (x.dim() - 1)) for x in inputs)
        try:
            programs.append(_export(model, sample, None))
        except Exception as error:
            return _traceback_place(model, error.__traceback__)
    nodes = [[n for n in p.graph.nodes if n.op == "call_function"] for p in programs]
    users = {name for name in programs[0].graph_signature.user_inputs if isinstance(name, str)}
    tainted = {n.name for n in programs[0].graph.nodes if n.name in users}
    for small, large in zip(*nodes):
        sources = [(a, b) for a, b in zip(small.all_input_nodes, large.all_input_nodes) if a.name in tainted]
        if not sources:
            continue
        tainted.add(small.name)
        before, after = (getattr(n.meta.get("val"), "shape", None) for n in (small, large))
        if before is not None and after is not None:
            whole = before.numel() * 3 == after.numel() and len(before) == len(after)
            if not whole or _cuts_samples(sources[0], (before, after)):
                return place_of(small)
    return place_of(nodes[0][-1]) if nodes[0] else ("", "")


def _cuts_samples(source: tuple[fx.Node, fx.Node], out: tuple[Any, Any]) -> bool:
    """True when an axis in front of the batch axis was cut out of the samples (batches 2 and 6)."""
    spans = []
    for before, after in (tuple(n.meta["val"].shape for n in source), out):
        grown = [i for i, (a, b) in enumerate(zip(before, after)) if a != b]
        if len(grown) != 1 or len(before) != len(after):
            return False
        front = 1
        for size in before[: grown[0]]:
            front *= size
        spans.append((front, before[grown[0]] // 2))
    (front, factor), (out_front, _) = spans
    return (front * factor) % max(out_front, 1) != 0
