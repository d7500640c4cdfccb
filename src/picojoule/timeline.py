"""Time rides in the batch: repeat, fold, unfold, readouts, set_steps and streams.

Between layers every tensor is time-major `[T*B, ...]`, so ordinary PyTorch layers work unchanged.
The public border is batch-first: `[B, ...]` static input or `[B, T, ...]` sequences.
"""

from __future__ import annotations

import contextvars
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from picojoule.core.errors import CausalityError, ShapeError

READOUTS = ("mean", "sum", "last", "max", "steps")


# -- views in eager mode, `pj::` operators while exporting ---------------------------------------------


def _check_rows(x: Tensor, T: int) -> int:
    if T < 1:
        raise ShapeError(f"T must be at least 1, got {T}")
    if x.shape[0] % T:
        raise ShapeError(
            f"the leading axis of {tuple(x.shape)} is not a multiple of T={T}; rows are [T*B, ...], "
            "time-major: fold sequences with timeline.fold or repeat static input with timeline.repeat"
        )
    return x.shape[0] // T


@torch.library.custom_op("pj::repeat", mutates_args=())
def _repeat_op(x: Tensor, T: int) -> Tensor:
    return x.unsqueeze(0).expand(T, *x.shape).reshape(T * x.shape[0], *x.shape[1:]).clone()


@_repeat_op.register_fake
def _(x: Tensor, T: int) -> Tensor:
    return x.new_empty((T * x.shape[0], *x.shape[1:]))


@torch.library.custom_op("pj::fold", mutates_args=())
def _fold_op(x: Tensor) -> Tensor:
    return x.transpose(0, 1).reshape(x.shape[0] * x.shape[1], *x.shape[2:]).clone()


@_fold_op.register_fake
def _(x: Tensor) -> Tensor:
    return x.new_empty((x.shape[0] * x.shape[1], *x.shape[2:]))


@torch.library.custom_op("pj::readout", mutates_args=())
def _readout_op(x: Tensor, T: int, mode: str) -> Tensor:
    return _readout_eager(x, T, mode).clone(memory_format=torch.contiguous_format)


@_readout_op.register_fake
def _(x: Tensor, T: int, mode: str) -> Tensor:
    batch = x.shape[0] // T
    return x.new_empty((batch, T, *x.shape[1:]) if mode == "steps" else (batch, *x.shape[1:]))


def repeat(x: Tensor, T: int) -> Tensor:
    """Static input for T steps: `[B, ...]` -> `[T*B, ...]`, time-major.

    >>> repeat(torch.tensor([[1.0], [2.0]]), 2).flatten().tolist()
    [1.0, 2.0, 1.0, 2.0]
    """
    if T < 1:
        raise ShapeError(f"T must be at least 1, got {T}")
    if torch.compiler.is_exporting():
        return _repeat_op(x, T)
    return x.unsqueeze(0).expand(T, *x.shape).reshape(T * x.shape[0], *x.shape[1:])


def fold(x: Tensor) -> Tensor:
    """A batch-first sequence to rows: `[B, T, ...]` -> `[T*B, ...]`, time-major."""
    if x.dim() < 2:
        raise ShapeError(f"fold needs [B, T, ...], got {tuple(x.shape)}")
    if torch.compiler.is_exporting():
        return _fold_op(x)
    return x.transpose(0, 1).reshape(x.shape[0] * x.shape[1], *x.shape[2:])


def unfold(x: Tensor, T: int) -> Tensor:
    """Rows to a batch-first sequence: `[T*B, ...]` -> `[B, T, ...]`; the inverse of `fold`."""
    return readout(x, T, "steps")


def split(x: Tensor, T: int) -> Tensor:
    """Rows with time apart: `[T*B, ...]` -> `[T, B, ...]`, a view; for modules that mix time."""
    return x.reshape(T, _check_rows(x, T), *x.shape[1:])


def _readout_eager(x: Tensor, T: int, mode: str) -> Tensor:
    steps = split(x, T)
    if mode == "mean":
        return steps.mean(0)
    if mode == "sum":
        return steps.sum(0)
    if mode == "last":
        return steps[-1]
    if mode == "max":
        return steps.amax(0)
    return steps.transpose(0, 1)


def readout(x: Tensor, T: int, mode: str = "mean") -> Tensor:
    """One row a sample from T steps: `[T*B, ...]` -> `[B, ...]`.

    Args:
        x: rows, time-major.
        T: number of steps.
        mode: "mean", "sum", "last", "max" over time, or "steps" for `[B, T, ...]`.
    """
    if mode not in READOUTS:
        raise ValueError(f"unknown readout {mode!r}; choose one of {', '.join(READOUTS)}")
    if torch.compiler.is_exporting():
        return _readout_op(x, T, mode)
    return _readout_eager(x, T, mode)


# -- streams -------------------------------------------------------------------------------------------

_current: contextvars.ContextVar[Stream | None] = contextvars.ContextVar("picojoule_stream", default=None)


def current_stream() -> Stream | None:
    """The stream that is running the model now, or None. Compiled code has none: streams run eagerly."""
    return None if torch.compiler.is_compiling() else _current.get()


@runtime_checkable
class Stepped(Protocol):
    """A module with a number of steps that `set_steps` may change."""

    T: int

    def set_steps(self, T: int) -> None: ...


class Stream:
    """Runs a model chunk by chunk; state is keyed by module path and call number.

        y = stream(chunk)          # [B, t, ...] sequences, any t >= 1
        y = stream(image, T=1)     # static input for some more steps

    The outputs of readouts are running ones (mean so far, last so far). `detach_()` cuts the graph of
    autograd between chunks, `reset()` starts a new sequence, `step` is the absolute step. Several streams
    of one model are independent. Modules that look at the future are refused by name.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.step = 0
        self.T = 0
        self._paths = {id(module): path for path, module in model.named_modules()}
        self._calls: dict[str, int] = {}
        self._state: dict[tuple[str, int], Any] = {}
        for path, module in model.named_modules():
            if getattr(module, "causal", True) is False:
                raise CausalityError(
                    f"module {path or type(module).__name__!r} ({type(module).__name__}) looks at "
                    "future steps "
                    "and cannot be streamed; use a causal one (masked or sliding PSN, a causal mix) instead"
                )

    def __call__(self, *chunk: Any, T: int | None = None, **kwargs: Any) -> Any:
        if T is None:
            T = self._steps_of(chunk)
        if T < 1:
            raise ShapeError(f"a chunk holds at least one step, got T={T}")
        self.T = T
        self._calls = {}
        before = dict(self._state)
        token = _current.set(self)
        try:
            with _eagerly():
                out = self.model(*chunk, **kwargs)
        except BaseException:
            self._state = before  # a failed chunk has not happened
            raise
        finally:
            _current.reset(token)
        self.step += T
        return out

    def _steps_of(self, chunk: tuple[Any, ...]) -> int:
        """T of a chunk from its entry modules: shape[1] of sequences, else the entries' own T."""
        entries = [m for m in self.model.modules() if isinstance(m, Entry)]
        modes = {entry.mode for entry in entries}
        if "frames" in modes:
            found = {c.shape[1] for c in chunk if isinstance(c, Tensor) and c.dim() > 1}
        else:
            found = {entry.T for entry in entries} or {1}
        if len(modes) > 1 or len(found) != 1:
            raise ShapeError(
                f"the steps of this chunk are ambiguous ({len(entries)} entry modules, modes "
                f"{sorted(modes)}, "
                f"T in {sorted(found)}); say them: stream(..., T=n)"
            )
        return found.pop()

    def slot(self, module: nn.Module) -> tuple[str, int]:
        """Key of this call of `module`: its path and how often it ran in this chunk."""
        path = self._paths.get(id(module), f"<{type(module).__name__} at {id(module)}>")
        number = self._calls.get(path, 0)
        self._calls[path] = number + 1
        return path, number

    def get(self, key: tuple[str, int]) -> Any:
        """State left by the previous chunk, or None."""
        return self._state.get(key)

    def put(self, key: tuple[str, int], state: Any) -> None:
        """Keep state for the next chunk."""
        self._state[key] = state

    def states(self) -> dict[tuple[str, int], Any]:
        """All states by (module path, call number)."""
        return dict(self._state)

    def detach_(self) -> Stream:
        """Cut the autograd graph: keep values, forget history."""
        self._state = {key: _detached(state) for key, state in self._state.items()}
        return self

    def reset(self) -> None:
        """Forget everything: the next chunk starts a new sequence."""
        self._state.clear()
        self.step = 0


def _eagerly() -> AbstractContextManager[Any]:
    """Compiled modules run uncompiled inside a stream: their graphs know nothing of its state."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


def _detached(state: Any) -> Any:
    if isinstance(state, Tensor):
        return state.detach()
    if isinstance(state, tuple) and hasattr(state, "_fields"):
        return type(state)(*(_detached(item) for item in state))
    if isinstance(state, list | tuple):
        return type(state)(_detached(item) for item in state)
    if isinstance(state, dict):
        return {key: _detached(item) for key, item in state.items()}
    return state


def stream(model: nn.Module) -> Stream:
    """A stream over `model`: state is carried from chunk to chunk.

    Raises:
        CausalityError: a module of the model looks at the future; the message names its path.
    """
    return Stream(model)


@contextmanager
def streaming(active: Stream | None) -> Iterator[None]:
    """Run a block inside another stream, or outside any (None)."""
    token = _current.set(active)
    try:
        yield
    finally:
        _current.reset(token)


# -- places in a model ---------------------------------------------------------------------------------


def module_path(module: nn.Module) -> str:
    """Path of `module` inside the outermost model that is being called now, for error messages."""
    frame = sys._getframe(1)
    found = type(module).__name__
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, nn.Module) and owner is not module:
            for path, child in owner.named_modules():
                if child is module:
                    found = f"{path} ({type(module).__name__})"
        frame = frame.f_back
    return found


# -- entry and readout modules -------------------------------------------------------------------------


class Entry(nn.Module):
    """First module of a model: batch-first input to time-major rows.

    Args:
        T: steps of the model.
        mode: "static" repeats `[B, ...]`; "frames" folds `[B, T, ...]` and compares the data's T.
    """

    def __init__(self, T: int, mode: str = "static") -> None:
        super().__init__()
        if mode not in ("static", "frames"):
            raise ValueError(f"mode must be 'static' or 'frames', got {mode!r}")
        self.T = T
        self.mode = mode

    def forward(self, x: Tensor) -> Tensor:
        """`[B, ...]` or `[B, T, ...]` -> `[T*B, ...]`."""
        active = current_stream()
        steps = active.T if active is not None else self.T
        if self.mode == "static":
            return repeat(x, steps)
        if x.dim() < 2 or x.shape[1] != steps:
            raise ShapeError(
                f"{module_path(self)}: the data has T={x.shape[1] if x.dim() > 1 else None} steps (shape "
                f"{tuple(x.shape)}), the model was built for T={steps}; pass [B, {steps}, ...] or call "
                "set_steps(model, T)"
            )
        return fold(x)

    def set_steps(self, T: int) -> None:
        """Change T."""
        self.T = T

    def extra_repr(self) -> str:
        return f"T={self.T}, mode={self.mode!r}"


class Readout(nn.Module):
    """Last module of a model: rows to one output a sample (see `readout`); running in a stream."""

    def __init__(self, T: int, mode: str = "mean") -> None:
        super().__init__()
        if mode not in READOUTS:
            raise ValueError(f"unknown readout {mode!r}; choose one of {', '.join(READOUTS)}")
        self.T = T
        self.mode = mode

    def forward(self, x: Tensor) -> Tensor:
        """`[T*B, ...]` -> `[B, ...]` or `[B, T, ...]`."""
        active = current_stream()
        if active is None:
            return readout(x, self.T, self.mode)
        if self.mode in ("last", "steps"):
            return readout(x, active.T, self.mode)
        key = active.slot(self)
        part = readout(x, active.T, "max" if self.mode == "max" else "sum")
        before = active.get(key)
        if before is not None:
            part = torch.maximum(before, part) if self.mode == "max" else before + part
        active.put(key, part)
        return part / (active.step + active.T) if self.mode == "mean" else part

    def set_steps(self, T: int) -> None:
        """Change T."""
        self.T = T

    def extra_repr(self) -> str:
        return f"T={self.T}, mode={self.mode!r}"


def set_steps(model: nn.Module, T: int) -> nn.Module:
    """Change the number of steps of every module that has one; returns the model.

    Raises:
        ShapeError: a module holds T-shaped parameters (it says so by `fixed_steps`); nothing is changed then.
    """
    if T < 1:
        raise ShapeError(f"T must be at least 1, got {T}")
    stepped: list[tuple[Any, int]] = []
    for path, module in model.named_modules():
        old = getattr(module, "T", None)
        if not isinstance(old, int) or not isinstance(module, Stepped):
            continue
        if getattr(module, "fixed_steps", False) and old != T:
            raise ShapeError(
                f"module {path or 'itself'!r} ({type(module).__name__}) holds parameters shaped by "
                f"T={old}; build "
                f"the model anew with T={T}"
            )
        stepped.append((module, old))
    for done, (module, _) in enumerate(stepped):
        try:
            module.set_steps(T)
        except Exception:
            for earlier, old in stepped[:done]:
                earlier.set_steps(old)
            raise
    return model
