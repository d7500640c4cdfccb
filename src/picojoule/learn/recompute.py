"""Activation checkpointing: keep less between forward and backward, compute it again when it is needed.

block   keeps the input of every block; the inside of one block at a time is computed again
time    splits T into chunks and keeps the neurons' states between them; one chunk at a time is computed
        again, so that memory grows with the chunk, not with T

Inputs that are spikes are kept as bits. Where BatchNorm takes statistics over all T steps, no order of chunks
is exact in one sweep: the gradient that leaves a norm needs two sums over all steps of the gradient that
enters it, so that every chunk must have gone back to that norm before any goes further, norm after norm.
"time" then goes block by block, and what it keeps grows with T by one bit a spike.
"""

from __future__ import annotations

import fnmatch
import functools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _get_current_dispatch_mode

from picojoule import timeline
from picojoule.core.errors import ConfigError
from picojoule.layers.event_bits import AVAILABLE, Bits, pack
from picojoule.neurons import Neuron, leaky_native

MODES = ("none", "block", "time")
_SYNAPSES = (nn.Linear, nn.modules.conv._ConvNd)
_NORMS = (nn.modules.batchnorm._BatchNorm,)
_POOLS = (nn.modules.pooling._MaxPoolNd, nn.modules.pooling._AvgPoolNd)  # torch keeps their whole input
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def checkpoint_(
    model: nn.Module, mode: str = "block", *, blocks: tuple[str, ...] = (), steps: int | None = None
) -> nn.Module:
    """Switch activation checkpointing of `model`, in place; returns the model.

    Outputs, gradients, running statistics of BatchNorm and the generators of random numbers are those of the
    plain model, bit for bit where operators are deterministic ("time": up to the rounding of sums over T).
    Parameters and their names stay as they are. Nothing changes in eval mode without gradients, in streams
    (`timeline.stream`), and under torch.compile, which plans its own recomputation.

    Args:
        mode: "block", "time", or "none", which undoes the others.
        blocks: "block" only: shell patterns of the module paths to recompute, e.g. ("stages.*.*",); empty
            takes those of `blocks_of`.
        steps: "time" only: steps of a chunk, >= 1; None takes ceil(sqrt(T)), where states between
            chunks and the inside of a chunk weigh the same. Without effect while BatchNorm trains: its
            statistics over all T steps no chunk knows, and the blocks are computed again one by one.
    Raises:
        ConfigError: unknown mode; no block found, also by "time" while BatchNorm trains.
        CausalityError: "time" on a module that looks at future steps.
    """
    if mode not in MODES:
        raise ConfigError(f"checkpoint must be one of {', '.join(MODES)}, got {mode!r}")
    if (blocks and mode != "block") or (steps is not None and mode != "time"):
        raise ConfigError('checkpoint_: blocks belong to the mode "block", steps to the mode "time"')
    if steps is not None and steps < 1:
        raise ConfigError(f"checkpoint_: a chunk holds at least 1 step, got steps={steps}")
    chosen: list[nn.Module] = []
    if mode == "block":
        chosen = [m for _, m in (_matching(model, blocks) if blocks else blocks_of(model))]
        if not chosen:
            raise ConfigError(
                "checkpoint_ finds no block: a module of a class of your own that holds a convolution or "
                'linear layer and a neuron; name the modules, e.g. blocks=("layers.*",)'
            )
    elif mode == "time":
        timeline.stream(model)  # refuses modules that look ahead, by name
        if any(isinstance(m, _NORMS) for m in model.modules()):
            chosen = [m for _, m in blocks_of(model)]  # a stream runs them plainly
            if not chosen:
                _refuse_norms(model)
            inside = {m for block in chosen for m in block.modules()}
            chosen += [m for m in model.modules() if isinstance(m, _POOLS) and m not in inside]
    for module in model.modules():
        plain = getattr(type(module), "plain", None)
        if plain is not None and issubclass(type(module), _Checkpointed):
            module.__class__ = plain
    for module in chosen:
        module.__class__ = _subclass(type(module), _BlockMode)
    if mode == "time":
        model.__class__ = _subclass(type(model), _TimeMode)
        model.__dict__["checkpoint_steps"] = steps
    return model


def blocks_of(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Paths and modules that are worth recomputing, or sharding, as a whole.

    A block holds a synaptic layer and a neuron and is no container; a module that keeps several blocks in
    containers of its own is looked into instead.
    """
    return list(_blocks(model, "", root=True))


def _blocks(module: nn.Module, path: str, root: bool = False) -> Iterator[tuple[str, nn.Module]]:
    if not root and not isinstance(module, _CONTAINERS):
        if not _is_block(module):
            return
        inside = [c for c in module.children() if isinstance(c, _CONTAINERS)]
        if not any(sum(1 for _ in _blocks(c, "")) > 1 for c in inside):
            yield path, module
            return
    for name, child in module.named_children():
        yield from _blocks(child, f"{path}.{name}" if path else name)


def _is_block(module: nn.Module) -> bool:
    inside = list(module.modules())
    return any(isinstance(m, _SYNAPSES) for m in inside) and any(isinstance(m, Neuron) for m in inside)


def _matching(model: nn.Module, patterns: tuple[str, ...]) -> Iterator[tuple[str, nn.Module]]:
    found = {
        p: [(n, m) for n, m in model.named_modules() if n and fnmatch.fnmatchcase(n, p)] for p in patterns
    }
    for pattern, hits in found.items():
        if not hits:
            raise ConfigError(f"checkpoint_: no module matches {pattern!r}; patterns are paths with * and ?")
    names = {n for hits in found.values() for n, _ in hits}
    for hits in found.values():
        for name, module in hits:  # a module inside another one that is recomputed needs nothing of its own
            if not any(name.startswith(f"{other}.") for other in names):
                yield name, module


def _refuse_norms(model: nn.Module) -> None:
    norms = [n for n, m in model.named_modules() if isinstance(m, _NORMS) and m.training]
    if norms:
        more = " ..." if len(norms) > 3 else ""
        raise ConfigError(
            f'checkpoint "time": BatchNorm ({", ".join(norms[:3])}{more}) takes its statistics over all T '
            "steps in training mode, so that blocks are computed again instead of chunks, and this model has "
            "none (modules of classes of your own with a synaptic layer and a neuron); use LayerNorm or "
            "GroupNorm, or put these modules in eval mode"
        )


# -- classes that take the place of a module's own ------------------------------------------------------


class _Checkpointed:
    """Marks a module whose class was exchanged; `plain` is the class as written."""

    plain: type[nn.Module]


@functools.cache
def _subclass(cls: type[nn.Module], mode: type) -> type[nn.Module]:
    return type(f"Checkpointed{cls.__name__}", (mode, cls), {"plain": cls, "__module__": cls.__module__})


def _plainly() -> bool:
    """No gradients wanted, compiled, or state carried by a stream: nothing is recomputed."""
    return (
        not torch.is_grad_enabled() or torch.compiler.is_compiling() or timeline.current_stream() is not None
    )


class _BlockMode(_Checkpointed):
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        plain = super().forward  # type: ignore[misc]
        if _plainly():
            return plain(*args, **kwargs)
        return _recomputed(self, lambda a, k: plain(*a, **k), args, kwargs)  # type: ignore[arg-type]

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _rebuild, (self.plain, _BlockMode, self.__dict__)


class _TimeMode(_Checkpointed):
    def forward(self, *args: Any) -> Any:
        if _plainly():
            return super().forward(*args)  # type: ignore[misc]
        if any(isinstance(m, _NORMS) and m.training for m in self.modules()):  # type: ignore[attr-defined]
            if not any(isinstance(m, _BlockMode) for m in self.modules()):  # type: ignore[attr-defined]
                _refuse_norms(self)  # type: ignore[arg-type]
            return super().forward(*args)  # type: ignore[misc]
        return _by_time(self, args, self.__dict__["checkpoint_steps"])  # type: ignore[arg-type]

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _rebuild, (self.plain, _TimeMode, self.__dict__)


def _rebuild(cls: type[nn.Module], mode: type, state: dict[str, Any]) -> nn.Module:
    """A copy or a pickle of a checkpointed module; the class itself is made at run time."""
    made = cls.__new__(cls)
    made.__setstate__(state)
    made.__class__ = _subclass(cls, mode)
    return made


# -- one recomputed piece -------------------------------------------------------------------------------


def _recomputed(module: nn.Module, run: Callable[..., Any], *given: Any) -> Any:
    """run(*given), keeping the tensors of `given` and nothing from inside; weights are `module`'s."""
    leaves, spec = pytree.tree_flatten(given)
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
    weights = [p for p in module.parameters() if p.requires_grad]
    call = _Call(module, run, leaves, spec, places)
    out = _Recompute.apply(call, *(leaves[i] for i in places), *weights)
    call.leaves = [
        None if isinstance(leaf, Tensor) else leaf for leaf in leaves
    ]  # autograd keeps the tensors
    flat = list(call.others)
    for place, value in zip(call.outputs, out):  # type: ignore[arg-type]
        flat[place] = value
    return pytree.tree_unflatten(flat, call.spec)


class _Call:
    """What a piece needs to run again, beside the tensors that autograd saves."""

    def __init__(self, module: nn.Module, run: Any, leaves: list[Any], spec: Any, places: list[int]) -> None:
        self.module, self.run, self.leaves, self.given_spec, self.places = module, run, leaves, spec, places
        self.outputs: list[int] = []
        self.others: list[Any] = []
        self.spec: Any = None
        device = next((leaves[i].device for i in places if leaves[i].device.type != "cpu"), None)
        self.devices = [device] if device is not None else []
        kind = "cpu" if device is None else device.type
        self.autocast = {
            "device_type": kind,
            "enabled": torch.is_autocast_enabled(kind),
            "dtype": torch.get_autocast_dtype(kind),
            "cache_enabled": torch.is_autocast_cache_enabled(),
        }
        self.random = [torch.get_rng_state(), *(torch.cuda.get_rng_state(d) for d in self.devices)]

    def __call__(self, tensors: Any) -> list[Tensor]:
        """The tensors of the result; fills in where they belong."""
        leaves = list(self.leaves)
        for place, tensor in zip(self.places, tensors):
            leaves[place] = tensor
        flat, self.spec = pytree.tree_flatten(self.run(*pytree.tree_unflatten(leaves, self.given_spec)))
        self.outputs = [i for i, leaf in enumerate(flat) if isinstance(leaf, Tensor)]
        self.others = [None if isinstance(leaf, Tensor) else leaf for leaf in flat]
        return [flat[i] for i in self.outputs]

    @contextmanager
    def again(self) -> Iterator[None]:
        """Random numbers and precision of the first time; statistics that were taken then stay untouched."""
        norms = [m for m in self.module.modules() if isinstance(m, _NORMS) and m.track_running_stats]
        with torch.random.fork_rng(self.devices), torch.autocast(**self.autocast), torch.enable_grad():
            torch.set_rng_state(self.random[0])
            for device, state in zip(self.devices, self.random[1:]):
                torch.cuda.set_rng_state(state, device)
            for norm in norms:
                norm.track_running_stats = False
            try:
                yield
            finally:
                for norm in norms:
                    norm.track_running_stats = True


class _Kept:
    """An input between the passes: spikes as bits, anything else as it is; both come back bit for bit."""

    LEAST = 4096  # values worth packing

    def __init__(self, data: Tensor | None, bits: Bits | None = None, like: Any = None) -> None:
        self.data, self.bits, self.like = data, bits, like

    @classmethod
    def of(cls, x: Tensor) -> _Kept:
        """x, packed where it is float32 on the CPU, large, without holes, and holds spikes."""
        flat = x.detach()
        if not AVAILABLE or type(x) is not Tensor or x.dtype != torch.float32 or x.device.type != "cpu":
            return cls(x)
        if x.numel() < cls.LEAST or not leaky_native._dense(flat) or _get_current_dispatch_mode() is not None:
            return cls(x)
        width = 64 if x.numel() % 64 == 0 else x.numel()
        bits = pack(flat.as_strided((x.numel() // width, width, 1, 1), (width, 1, 1, 1)))
        if bits is None or bits.data.numel() > x.numel():
            return cls(x)
        return cls(bits.data, replace(bits, data=bits.data[:0]), (x.shape, x.stride()))

    def back(self, data: Tensor) -> Tensor:
        """The input again, from what autograd kept."""
        if self.bits is None:
            return data
        flat = replace(self.bits, data=data).unpack()
        return flat.as_strided(*self.like)


class _Recompute(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: _Call, *tensors: Tensor) -> Any:
        ctx.call, ctx.count = call, len(call.places)
        inputs = tensors[: ctx.count]
        ctx.kept = [_Kept.of(t) for t in inputs]
        ctx.save_for_backward(*(k.data for k in ctx.kept))
        for k in ctx.kept:
            k.data = None  # autograd keeps it
        ctx.wants = ctx.needs_input_grad[1 : 1 + ctx.count]
        out = call(inputs)
        # An output that is an input unchanged would lose its own history.
        out = [o.view_as(o) if any(o is i for i in inputs) else o for o in out]
        ctx.mark_non_differentiable(*(o for o in out if not o.is_floating_point()))
        ctx.set_materialize_grads(False)
        return tuple(out)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        call = ctx.call
        inputs = [
            kept.back(t).detach().requires_grad_(w)
            for kept, t, w in zip(ctx.kept, ctx.saved_tensors, ctx.wants)
        ]
        with call.again():
            out = call(inputs)
        pairs = [(o, g) for o, g in zip(out, grads) if g is not None and o.requires_grad]
        # The weights of now: sharding may have given the module new tensors since the forward pass.
        weights = [p for p in call.module.parameters() if p.requires_grad]
        sources = [t for t in inputs if t.requires_grad] + weights
        found: Any = iter([None] * len(sources))
        if pairs and sources:
            outs, seeds = zip(*pairs)
            found = iter(torch.autograd.grad(outs, sources, seeds, allow_unused=True))
        of_inputs = [next(found) if t.requires_grad else None for t in inputs]
        return None, *of_inputs, *found


# -- by time ---------------------------------------------------------------------------------------------


def _by_time(model: nn.Module, args: tuple[Any, ...], steps: int | None) -> Any:
    """The model in chunks of `steps`; the state at the border of two chunks is all that is kept of it."""
    stream = timeline.Stream(model)
    total, frames = _steps_of(model, args)
    size = steps or math.isqrt(max(total - 1, 0)) + 1
    state: dict[Any, Any] = {}
    parts = []
    for begin in range(0, total, size):
        count = min(size, total - begin)

        def run(chunk: Any, before: Any, begin: int = begin, count: int = count) -> Any:
            stream._state, stream.step = dict(before), begin
            return stream(*chunk, T=count), stream.states()

        chunk = tuple(_cut(a, begin, count) if frames else a for a in args)
        out, state = _recomputed(model, run, chunk, state)
        parts.append(out)
    return _joined(model, parts)


def _steps_of(model: nn.Module, args: tuple[Any, ...]) -> tuple[int, bool]:
    entries = [m for m in model.modules() if isinstance(m, timeline.Entry)]
    modes, counts = {e.mode for e in entries}, {e.T for e in entries}
    if len(modes) != 1 or len(counts) != 1:
        raise ConfigError(
            f'checkpoint "time" finds {len(entries)} timeline.Entry modules with modes {sorted(modes)} and T '
            f"{sorted(counts)}; begin the model with one timeline.Entry(T, mode)"
        )
    return counts.pop(), modes == {"frames"}


def _cut(value: Any, begin: int, count: int) -> Any:
    return value[:, begin : begin + count] if isinstance(value, Tensor) and value.dim() > 1 else value


def _joined(model: nn.Module, parts: list[Any]) -> Any:
    """Running readouts end with the last chunk's; those of all steps are put together."""
    modes = {m.mode for m in model.modules() if isinstance(m, timeline.Readout)}
    if not modes or "max" in modes or (len(modes) > 1 and "steps" in modes):
        raise ConfigError(
            f'checkpoint "time" cannot join the outputs of readouts {sorted(modes)}; end the model with '
            'timeline.Readout in the mode mean, sum, last or steps ("max" divides the gradient of equal '
            "values otherwise in chunks)"
        )
    if modes != {"steps"}:
        return parts[-1]
    flat = [pytree.tree_flatten(part) for part in parts]
    joined = [torch.cat(same, 1) for same in zip(*(leaves for leaves, _ in flat))]
    return pytree.tree_unflatten(joined, flat[0][1])


__all__ = ["MODES", "blocks_of", "checkpoint_"]
