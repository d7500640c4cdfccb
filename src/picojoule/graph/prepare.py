"""The copy of a model that is traced: eval mode, parametrizations replaced by their values, codes kept."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from picojoule import timeline
from picojoule.compress.base import Codes, get_codes


def prepare(model: nn.Module, steps: int | None = None) -> tuple[nn.Module, dict[str, Codes]]:
    """A copy of `model` ready for tracing, and the codes of its quantized weights by parameter path.

    The original keeps its state dict, training flag, parametrizations and outputs. Parametrizations of
    the copy are dropped by hand, because torch's own removal edits a class that the original shares.
    """
    twin = copy.deepcopy(model)
    twin.eval()
    if steps is not None:
        timeline.set_steps(twin, steps)
    codes: dict[str, Codes] = {}
    for path, module in list(twin.named_modules()):
        if parametrize.is_parametrized(module):
            codes.update(_settle(path, module))
    for parameter in twin.parameters():
        parameter.requires_grad_(False)
    return twin, codes


def _settle(path: str, module: nn.Module) -> dict[str, Codes]:
    """Replace every parametrized tensor of `module` by its present value."""
    found: dict[str, Codes] = {}
    names = list(module.parametrizations)  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for name in names:
        with torch.no_grad():
            values[name] = getattr(module, name).detach().clone()
        codes = get_codes(module, name)
        if codes is not None:
            found[f"{path}.{name}" if path else name] = codes
    module.__class__ = type(module).__bases__[0]  # type: ignore[assignment]
    del module._modules["parametrizations"]
    for name in names:
        module.register_parameter(name, nn.Parameter(values[name], requires_grad=False))
    return found
