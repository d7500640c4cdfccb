"""Which channels of a model hang together: one forward pass with every channel labelled.

Each output channel of a layer gets a number. The numbers follow the tensors through the forward pass:
elementwise operations make the channels of their operands one class, concatenation joins the lists,
flattening repeats them. A class can be removed when every operation that touched it is understood; whatever
else sees a channel (a reshape into heads, a product of matrices, the model's output) freezes it, with the
reason kept for the error message.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from picojoule.compress.plan import LAYERS
from picojoule.neurons.base import Neuron

Labels = np.ndarray
FROZEN = 0
_LEAVES = (*LAYERS, _BatchNorm, Neuron)
_ELEMENTWISE = {
    "add", "sub", "rsub", "mul", "div", "true_divide", "truediv", "neg", "relu", "relu6", "clamp",
    "clamp_min", "clamp_max", "clip", "abs", "sigmoid", "tanh", "exp", "contiguous", "clone", "to",
    "float", "double", "half", "detach", "dropout", "maximum", "minimum", "where", "pow", "floor", "round",
    "sign", "square", "sqrt", "ge", "gt", "le", "lt", "eq", "ne", "logical_and", "logical_or",
    "logical_not", "type_as", "radd", "rmul", "iadd", "imul", "isub", "hardtanh", "leaky_relu", "gelu",
    "silu",
}  # fmt: skip
_RESHAPES = {"reshape", "view", "flatten", "unflatten", "squeeze", "unsqueeze", "view_as", "reshape_as"}
_REDUCTIONS = {"mean", "sum", "amax", "amin", "prod", "std", "var"}
_POOLS = frozenset(
    f"{kind}{n}d"
    for kind in ("max_pool", "avg_pool", "adaptive_avg_pool", "adaptive_max_pool")
    for n in (1, 2, 3)
) | {"interpolate", "upsample"}


@dataclass
class Channels:
    """Labels of every place where channels live.

    Fields:
        rows: layer path -> label of each output channel.
        cols: layer path -> label of each input channel.
        norms: BatchNorm path -> labels.
        vectors: (module path, parameter) -> (axis, labels) of parameters used elementwise.
        neurons: neuron path -> labels.
    Labels are roots; 0 is frozen.
    """

    rows: dict[str, Labels] = field(default_factory=dict)
    cols: dict[str, Labels] = field(default_factory=dict)
    norms: dict[str, Labels] = field(default_factory=dict)
    vectors: dict[tuple[str, str], tuple[int, Labels]] = field(default_factory=dict)
    neurons: dict[str, Labels] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)


def trace_channels(model: nn.Module, example: Tensor) -> Channels:
    """Labels of all channels, from one run of `model(example)` in eval mode; the model is unchanged."""
    tracer = _Tracer(model)
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad(), parametrize.cached():
            tracer.name_parameters()
            with tracer:
                out = model(example)
    finally:
        tracer.close()
        for module, mode in training.items():
            module.training = mode
    for leaf in tree_leaves(out):
        if isinstance(leaf, Tensor):
            tracer.freeze([leaf], "they are outputs of the model")
    return tracer.result()


class _Tracer(TorchFunctionMode):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.parent: list[int] = [FROZEN]
        self.why: dict[int, str] = {}
        self.tags: dict[int, tuple[Tensor, int, Labels]] = {}
        self.parameters: dict[int, tuple[Tensor, str, str]] = {}
        self.found = Channels()
        self.quiet = 0
        self.handles: list[Any] = []
        for path, module in model.named_modules():
            if isinstance(module, _LEAVES):
                self.handles.append(module.register_forward_pre_hook(self._enter))
                self.handles.append(module.register_forward_hook(self._leave(path)))

    def name_parameters(self) -> None:
        """Remembers which tensor is which parameter; parametrized ones by their cached value."""
        for path, module in self.model.named_modules():
            if isinstance(module, _LEAVES) or ".parametrizations" in f".{path}":
                continue
            names = list(module._parameters)
            if parametrize.is_parametrized(module):
                names += list(module.parametrizations)  # type: ignore[arg-type]
            for name in names:
                value = getattr(module, name)
                if isinstance(value, Tensor):
                    self.parameters[id(value)] = (value, path, name)

    def close(self) -> None:
        """Takes the hooks off."""
        for handle in self.handles:
            handle.remove()

    # -- labels -------------------------------------------------------------------------------------------

    def fresh(self, count: int) -> Labels:
        """New labels."""
        start = len(self.parent)
        self.parent.extend(range(start, start + count))
        return np.arange(start, start + count)

    def root(self, label: int) -> int:
        """Representative of a label's class; 0 wins over all others."""
        while self.parent[label] != label:
            self.parent[label] = self.parent[self.parent[label]]
            label = self.parent[label]
        return label

    def union(self, a: Labels, b: Labels) -> None:
        """Makes the classes of two lists of labels one, pair by pair."""
        for x, y in zip(a.tolist(), b.tolist(), strict=True):
            low, high = sorted((self.root(x), self.root(y)))
            self.parent[high] = low

    def tag(self, x: Any) -> tuple[int, Labels] | None:
        """(channel axis, labels) of a tensor, or None."""
        entry = self.tags.get(id(x))
        return None if entry is None else entry[1:]

    def put(self, x: Tensor, axis: int, labels: Labels) -> None:
        """Labels a tensor; the reference kept here makes its id stay its own."""
        self.tags[id(x)] = (x, axis, labels)

    def freeze_labels(self, labels: Labels, why: str) -> None:
        """These channels cannot be removed."""
        for label in labels.tolist():
            self.why.setdefault(label, why)
        self.union(labels, np.zeros_like(labels))

    def freeze(self, tensors: list[Any], why: str) -> None:
        """The channels of these tensors cannot be removed."""
        for x in tensors:
            tag = self.tag(x)
            if tag is not None:
                self.freeze_labels(tag[1], why)

    def result(self) -> Channels:
        """The labels as roots."""

        def roots(labels: Labels) -> Labels:
            return np.array([self.root(x) for x in labels.tolist()], dtype=np.int64)

        found = self.found
        for path, labels in found.rows.items():
            found.reasons[path] = next(
                (self.why[x] for x in labels.tolist() if x in self.why),
                "they are tied to channels that must stay",
            )
        for table in (found.rows, found.cols, found.norms, found.neurons):
            for path in table:
                table[path] = roots(table[path])
        for key, (axis, labels) in found.vectors.items():
            found.vectors[key] = (axis, roots(labels))
        return found

    # -- modules ------------------------------------------------------------------------------------------

    def _enter(self, module: nn.Module, args: Any) -> None:
        self.quiet += 1

    def _leave(self, path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, out: Any) -> None:
            self.quiet -= 1
            if self.quiet == 0 and args and isinstance(out, Tensor):
                self.module_rule(path, module, args[0], out)

        return hook

    def module_rule(self, path: str, module: nn.Module, x: Tensor, out: Tensor) -> None:
        """Labels behind a layer, a BatchNorm or a neuron."""
        tag = self.tag(x)
        if isinstance(module, LAYERS):
            self.layer_rule(path, module, tag, x, out)
            return
        if tag is None:
            return
        axis, labels = tag
        if isinstance(module, _BatchNorm):
            if axis != 1 or not module.affine:
                self.freeze_labels(labels, f"of BatchNorm {path!r} without affine channels")
            self.record(self.found.norms, path, labels)
        else:
            self.record(self.found.neurons, path, labels)
        self.put(out, axis, labels)

    def layer_rule(self, path: str, module: Any, tag: Any, x: Tensor, out: Tensor) -> None:
        """Convolution or linear layer: new labels for its rows, or its input's for a depthwise one."""
        linear = isinstance(module, nn.Linear)
        x_axis, out_axis = (x.ndim - 1, out.ndim - 1) if linear else (1, 1)
        if tag is not None and tag[0] != x_axis:
            self.freeze_labels(tag[1], f"layer {path!r} works along another axis")
            tag = None
        count = out.shape[out_axis]
        groups = 1 if linear else module.groups
        known = path in self.found.rows
        if groups > 1 and groups == module.in_channels == module.out_channels and tag is not None:
            labels = tag[1]
            self.record(self.found.rows, path, labels)
        else:
            labels = self.found.rows[path] if known else self.fresh(count)
            self.found.rows[path] = labels
            if groups > 1:
                self.freeze_labels(labels, f"layer {path!r} has {groups} groups")
                if tag is not None:
                    self.freeze_labels(tag[1], f"layer {path!r} has {groups} groups")
            elif tag is not None:
                self.record(self.found.cols, path, tag[1])
        self.put(out, out_axis, labels)

    def record(self, table: dict[str, Labels], path: str, labels: Labels) -> None:
        """Files labels of a module; a second call ties them to those of the first."""
        if path in table:
            self.union(table[path], labels)
        table[path] = labels

    # -- functions ----------------------------------------------------------------------------------------

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if self.quiet == 0:
            name = getattr(func, "__name__", str(func)).strip("_")
            tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
            tagged = [x for x in tensors if id(x) in self.tags]
            if tagged and any(isinstance(y, Tensor) for y in tree_leaves(out)):
                self.function_rule(name, args, kwargs, tensors, tagged, out)
            elif tagged and name in ("setitem", "copy"):
                self.freeze(tagged, f"they go through {name}")
        return out

    def function_rule(self, name: str, args: Any, kwargs: Any, tensors: Any, tagged: Any, out: Any) -> None:
        """Labels behind a function; an unknown one freezes."""
        x = tagged[0]
        axis, labels = self.tags[id(x)][1:]
        done = False
        if name in _ELEMENTWISE and isinstance(out, Tensor):
            done = self.elementwise(tensors, tagged, out)
        elif name in _RESHAPES:
            done = self.reshaped(x, axis, labels, out)
        elif name == "expand":
            moved = axis + out.ndim - x.ndim
            done = out.shape[moved] == len(labels) and self.done(out, moved, labels)
        elif name in _REDUCTIONS and isinstance(out, Tensor):
            done = self.reduced(x, axis, labels, args, kwargs, out)
        elif name in _POOLS and isinstance(out, Tensor):
            done = axis == 1 and self.done(out, 1, labels)
        elif name in ("transpose", "swapaxes", "permute", "movedim"):
            done = self.permuted(name, x, axis, labels, args, kwargs, out)
        elif name in ("cat", "concat", "concatenate"):
            done = self.concatenated(args, kwargs, out)
        elif name in ("chunk", "split", "unbind", "tensor_split", "narrow", "select", "getitem"):
            done = self.sliced(x, axis, labels, out)
        elif name == "pad":
            widths = kwargs.get("pad", args[1] if len(args) > 1 else ())
            done = len(widths) <= 2 * (x.ndim - 1 - axis) and self.done(out, axis, labels)
        if not done:
            self.freeze(tagged, f"they go through {name}, which pruning does not follow")

    def done(self, out: Tensor, axis: int, labels: Labels) -> bool:
        """Labels the output; always True."""
        self.put(out, axis, labels)
        return True

    def elementwise(self, tensors: list[Tensor], tagged: list[Tensor], out: Tensor) -> bool:
        """Operands meet channel by channel; untagged ones must be per-channel parameters or broadcast."""
        places = {self.tags[id(x)][1] - x.ndim for x in tagged}
        sizes = {len(self.tags[id(x)][2]) for x in tagged}
        if len(places) != 1 or len(sizes) != 1:
            return False
        place, size = places.pop(), sizes.pop()
        labels = self.tags[id(tagged[0])][2]
        for other in tagged[1:]:
            self.union(labels, self.tags[id(other)][2])
        for other in tensors:
            if id(other) in self.tags or other.ndim < -place or other.shape[place] == 1:
                continue
            if id(other) not in self.parameters or other.shape[place] != size:
                return False
            _, path, name = self.parameters[id(other)]
            key = (path, name)
            if key in self.found.vectors:
                self.union(self.found.vectors[key][1], labels)
            self.found.vectors[key] = (other.ndim + place, labels)
        return self.done(out, out.ndim + place, labels)

    def reshaped(self, x: Tensor, axis: int, labels: Labels, out: Tensor) -> bool:
        """The axis survives, or swallows the axes behind it (flatten)."""
        before = math.prod(x.shape[:axis])
        after = math.prod(x.shape[axis + 1 :])
        for place, size in enumerate(out.shape):
            if math.prod(out.shape[:place]) != before or size == 0 or size % len(labels):
                continue
            repeat = size // len(labels)
            if repeat * math.prod(out.shape[place + 1 :]) == after:
                return self.done(out, place, np.repeat(labels, repeat))
        return False

    def reduced(self, x: Tensor, axis: int, labels: Labels, args: Any, kwargs: Any, out: Tensor) -> bool:
        """Reduction over other axes than the channel's."""
        dims = kwargs.get("dim", args[1] if len(args) > 1 else None)
        if dims is None:
            return False
        places = {d % x.ndim for d in ([dims] if isinstance(dims, int) else list(dims))}
        if axis in places:
            return False
        kept = out.ndim == x.ndim
        return self.done(out, axis if kept else axis - sum(p < axis for p in places), labels)

    def permuted(
        self, name: str, x: Any, axis: int, labels: Labels, args: Any, kwargs: Any, out: Any
    ) -> bool:
        """Follows the axis by moving a tensor of axis numbers in the same way."""
        shape = tuple(range(2, x.ndim + 2))  # sizes that tell the axes apart
        probe = torch.empty(shape, device="meta")
        moved = getattr(probe, name)(*args[1:], **kwargs)
        return self.done(out, list(moved.shape).index(axis + 2), labels)

    def concatenated(self, args: Any, kwargs: Any, out: Tensor) -> bool:
        """Along the channels the lists join; along another axis channels meet."""
        parts = list(kwargs.get("tensors", args[0] if args else ()))
        dim = kwargs.get("dim", kwargs.get("axis", args[1] if len(args) > 1 else 0)) % out.ndim
        tags = [self.tag(x) for x in parts]
        axes = {t[0] for t in tags if t is not None}
        if len(axes) != 1:
            return False
        axis = axes.pop()
        if dim == axis:
            lists = [
                np.zeros(x.shape[axis], dtype=np.int64) if t is None else t[1] for x, t in zip(parts, tags)
            ]
            return self.done(out, axis, np.concatenate(lists))
        first = tags[0]
        if first is None or any(t is None for t in tags):
            return False
        for t in tags[1:]:
            self.union(first[1], t[1])  # type: ignore[index]
        return self.done(out, axis, first[1])

    def sliced(self, x: Tensor, axis: int, labels: Labels, out: Any) -> bool:
        """Views of x: the channel axis is found by its stride, the part of it by the offset."""
        parts = [y for y in tree_leaves(out) if isinstance(y, Tensor)]
        if not x.is_contiguous():
            return False
        stride = x.stride(axis)
        for y in parts:
            same = y.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()
            places = [p for p in range(y.ndim) if y.stride(p) == stride and y.shape[p] <= len(labels)]
            if not same or stride == 0 or len(places) != 1 or y.shape[places[0]] == 1:
                return False
            start = int((y.storage_offset() - x.storage_offset()) // stride) % len(labels)
            if start + y.shape[places[0]] > len(labels):
                return False
            self.put(y, places[0], labels[start : start + y.shape[places[0]]])
        return bool(parts)
