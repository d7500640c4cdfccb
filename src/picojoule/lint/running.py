"""Checks that run the model: what no reading of the source can know."""

from __future__ import annotations

import copy
import inspect
import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from picojoule import timeline
from picojoule.lint.findings import Finding, ordered
from picojoule.neurons import Neuron

_NORM = nn.modules.batchnorm._BatchNorm


def check_modules(model: nn.Module) -> list[Finding]:
    """What the modules of a network tell without an example: their steps, norms and in-place layers."""
    found = []
    steps: dict[int, list[str]] = {}
    for path, module in model.named_modules():
        count = getattr(module, "T", None)
        if isinstance(count, int) and isinstance(module, timeline.Stepped):
            steps.setdefault(count, []).append(path or type(module).__name__)
    if len(steps) > 1:
        told = "; ".join(f"T={t}: {', '.join(paths[:3])}" for t, paths in sorted(steps.items()))
        found.append(
            Finding("error", "steps", place(model), f"the modules disagree about the steps ({told})")
        )
    before: nn.Module | None = None
    for path, module in model.named_modules():
        if isinstance(before, Neuron) and getattr(module, "inplace", False) is True:
            told = (
                f"{path} ({type(module).__name__}, inplace=True) overwrites the spikes that its neuron saved"
            )
            found.append(Finding("warning", "in-place", place(module), told))
        if not list(module.children()):
            before = module
    return ordered(found)


def check_run(model: nn.Module, shape: tuple[int, ...]) -> list[Finding]:
    """Run a copy of the network on random samples of `shape` (without the batch) and look at what happens.

    Two calls, samples one at a time, later steps changed, one backward pass.
    """
    model = copy.deepcopy(model).float()
    x = 4 * torch.rand(3, *shape, generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad():
            first = _output(model.eval(), x)
    except Exception as error:
        told = f"forward on [3, {', '.join(map(str, shape))}] fails: {type(error).__name__}: {error}"
        return [Finding("error", "fails", place(model), told)]
    found = list(_repeats(model, x, first))
    if not found:  # else every later call answers otherwise
        found += [*_rows(model, x, first), *_order(model, x), *_backward(model, x)]
    return ordered(found)


def _output(model: nn.Module, x: Tensor) -> Tensor:
    torch.manual_seed(0)
    out = model(x)
    while isinstance(out, list | tuple | dict):
        out = next(iter(out.values())) if isinstance(out, dict) else out[0]
    if not isinstance(out, Tensor):
        raise TypeError(f"forward returns {type(out).__name__}, not a tensor")
    return out


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-3, atol=1e-4, equal_nan=True)


@torch.no_grad()
def _repeats(model: nn.Module, x: Tensor, first: Tensor) -> Iterator[Finding]:
    told = "the second call on the same input in eval mode {}: something survives the first"
    try:
        again = _output(model, x)
        _output(model, x[:2])
    except Exception as error:
        reason = f"fails ({type(error).__name__}: {error})"
        yield Finding("error", "hand-state", place(model), told.format(reason))
        return
    if not _same(first, again):
        yield Finding("error", "hand-state", place(model), told.format("answers otherwise"))


@torch.no_grad()
def _rows(model: nn.Module, x: Tensor, first: Tensor) -> Iterator[Finding]:
    if first.dim() == 0 or first.shape[0] != len(x):
        told = f"the output of {len(x)} samples is {tuple(first.shape)}: its leading axis is not the batch"
        yield Finding("error", "rows", place(model), told)
        return
    changed = x.clone()
    changed[1:] = torch.rand_like(changed[1:])
    try:
        other = _output(copy.deepcopy(model), changed)
    except Exception:
        return  # told by the call that failed before
    if not _same(first[:1], other[:1]):
        told = "changing other samples changes the answer to the first, in eval mode"
        yield Finding("error", "rows", place(model), told)


def _order(model: nn.Module, x: Tensor) -> Iterator[Finding]:
    """BatchNorm in the order of execution, and what mixes time behind it."""
    calls: list[tuple[str, nn.Module]] = []
    handles = [
        m.register_forward_hook(lambda m, a, o, path=path: calls.append((path, m)))
        for path, m in model.named_modules()
        if isinstance(m, Neuron | _NORM) or isinstance(getattr(m, "causal", None), bool)
    ]
    try:
        with torch.no_grad():
            _output(model, x)
    finally:
        for handle in handles:
            handle.remove()
    norms = [path for path, m in calls if isinstance(m, _NORM)]
    for (path, norm), (after, mixer) in itertools.pairwise(calls):
        if isinstance(norm, _NORM) and getattr(mixer, "causal", True) is False:
            told = (
                f"BatchNorm {path} stands before {after} ({type(mixer).__name__}), which mixes all steps: "
                "its statistics over time make early steps know late ones even where the mix is masked"
            )
            yield Finding("warning", "norm-before-mix", place(norm), told)
    if norms and any(isinstance(m, Neuron) for _, m in calls):
        told = (
            f"{len(norms)} BatchNorm layers ({', '.join(norms[:3])}{' ...' if len(norms) > 3 else ''}) take "
            "statistics over all steps in training mode, so that early steps see late ones"
        )
        yield Finding("note", "norm-over-time", place(model), told)


def _backward(model: nn.Module, x: Tensor) -> Iterator[Finding]:
    model.train()
    try:
        out = _output(model, x)
        if not out.requires_grad:
            told = "the output knows no gradient at all"
            yield Finding("error", "no-gradient", place(model), told)
            return
        (out.float() * torch.rand_like(out.float())).sum().backward()
    except Exception as error:
        rule = "in-place" if "inplace" in str(error) else "fails"
        text = str(error).partition(" Hint:")[0]
        told = f"training on one batch fails: {type(error).__name__}: {text}"
        yield Finding("error", rule, place(model), told)
        return
    lost = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    if lost:
        more = " ..." if len(lost) > 5 else ""
        told = f"no gradient reaches {', '.join(lost[:5])}{more}"
        yield Finding("warning", "no-gradient", place(model), told)


def place(module: Any) -> str:
    """file:line of a module's class, or its name."""
    try:
        target = type(module).forward
        return f"{inspect.getsourcefile(target)}:{inspect.getsourcelines(target)[1]}"
    except (OSError, TypeError):
        return type(module).__name__


__all__ = ["check_modules", "check_run", "place"]
