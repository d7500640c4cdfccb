"""Names the layer in which NaN or infinity is born, forward or backward."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from picojoule.core.errors import NonFiniteError


@contextmanager
def named_anomalies(model: nn.Module, *, backward: bool = True) -> Iterator[None]:
    """Run a block in which the first NaN or infinity stops the run with the qualified name of its origin.

    Looked at, in this order: the model's input; every module's output, the innermost module first, and where
    it is not finite the module's own weights and buffers; the gradient of every module's output and of every
    parameter. Costs a pass over every activation and its gradient.

    Args:
        model: an ordinary module; wrap it for several processes afterwards or before, both work.
        backward: also look at gradients; off where a loss scaler makes them overflow on purpose (fp16).
    Raises:
        NonFiniteError: inside the block; names the layer, what is wrong there and what to do.
    """
    watch = _Watch(model, backward)
    try:
        yield
    finally:
        watch.remove()


class _Watch:
    def __init__(self, model: nn.Module, backward: bool) -> None:
        self.backward = backward
        self.names = {id(m): name or "the model" for name, m in model.named_modules()}
        # Output tensor by id -> (itself, layers that took it as input); ids are reused, hence the reference.
        self.outputs: dict[int, tuple[weakref.ref[Tensor], list[str]]] = {}
        self.handles: list[Any] = [model.register_forward_pre_hook(self._input)]
        for module in model.modules():
            self.handles.append(module.register_forward_pre_hook(self._reads))
            self.handles.append(module.register_forward_hook(self._made))
        if backward:
            for name, p in model.named_parameters():
                if p.requires_grad:
                    self.handles.append(p.register_hook(self._weight_gradient(name)))

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()

    def _label(self, module: nn.Module) -> str:
        return f"{self.names[id(module)]} ({_plain_name(module)})"

    def _input(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self.outputs.clear()
        for x in _tensors(args):
            if not _finite(x):
                rows = (~torch.isfinite(x.flatten(1))).any(1) if x.dim() > 1 else ~torch.isfinite(x)
                found = rows.nonzero().flatten().tolist()[:8]
                raise NonFiniteError(
                    f"the input of the model holds {_what(x)} in rows {found} of {tuple(x.shape)}, before "
                    "any layer; look at the data and its normalisation (a channel whose deviation is 0)"
                )

    def _reads(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        name = self.names[id(module)]
        for x in _tensors(args):
            made, readers = self.outputs.get(id(x), (None, []))
            if made is not None and made() is x:  # inner layers take the place of those that hold them
                readers[:] = [r for r in readers if not name.startswith(f"{r}.") and r != "the model"] + [
                    name
                ]

    def _made(self, module: nn.Module, args: tuple[Any, ...], out: Any) -> None:
        for y in _tensors(out):
            if not _finite(y):
                raise NonFiniteError(self._birth(module, args, y))
            if self.backward and y.requires_grad:
                known, readers = self.outputs.get(id(y), (None, []))
                if known is None or known() is not y:
                    readers = []
                    self.outputs[id(y)] = weakref.ref(y), readers
                    y.register_hook(self._gradient(self._label(module), readers))

    def _birth(self, module: nn.Module, args: tuple[Any, ...], out: Tensor) -> str:
        told = f"layer {self._label(module)} made {_what(out)} in its output {tuple(out.shape)}"
        own = [*module.named_parameters(), *module.named_buffers()]
        wrong = [f"{name} holds {_what(value)}" for name, value in own if not _finite(value)]
        if wrong:
            return (
                f"{told}: its {', '.join(wrong[:3])}; load other weights, lower train.lr or set train.clip=1"
            )
        sizes = [x.detach().abs().max().item() for x in _tensors(args) if x.numel()]
        largest = f"the largest input is {max(sizes):.3g}" if sizes else "it has no input"
        return (
            f"{told} from finite input and weights ({largest}); look for a division by zero, a logarithm, a "
            "root, or a range that the precision does not hold (train.precision=no)"
        )

    def _gradient(self, label: str, readers: list[str]) -> Callable[[Tensor], None]:
        def look(g: Tensor) -> None:
            if not _finite(g):
                origin = " or ".join(readers) if readers else "what follows it, or the loss"
                raise NonFiniteError(
                    f"the backward pass made {_what(g)} in the gradient of the output of layer {label}; it "
                    f"was born in {origin}: look for a root or division at zero there, or set train.clip=1"
                )

        return look

    def _weight_gradient(self, name: str) -> Callable[[Tensor], None]:
        def look(g: Tensor) -> None:
            if not _finite(g):
                raise NonFiniteError(
                    f"the gradient of the weight {name} holds {_what(g)}, that of its layer's output does "
                    "not; lower train.lr or the scale of the loss"
                )

        return look


def _tensors(value: Any) -> Iterator[Tensor]:
    """Tensors of real or complex numbers in nested values."""
    if isinstance(value, Tensor):
        if value.is_floating_point() or value.is_complex():
            yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def _local(x: Tensor) -> Tensor:
    """This process's part of a sharded tensor."""
    part: Any = getattr(x, "to_local", None)
    return x if part is None else part()


def _finite(x: Tensor) -> bool:
    return not x.is_floating_point() or bool(torch.isfinite(_local(x)).all())


def _what(x: Tensor) -> str:
    return "NaN" if bool(torch.isnan(_local(x)).any()) else "infinity"


def _plain_name(module: nn.Module) -> str:
    """The class as written: wrappers of this package and of torch put a word before it."""
    return (
        type(module).__name__.removeprefix("FSDP").removeprefix("Checkpointed").removeprefix("Parametrized")
    )


__all__ = ["named_anomalies"]
