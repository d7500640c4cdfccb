"""Take parametrizations off again: in place, or on a copy that leaves the original untouched."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn
from torch.nn.utils import parametrize

M = TypeVar("M", bound=nn.Module)


def remove_(model: M) -> M:
    """Replaces every parametrized tensor by its present value, in place.

    Each weight keeps its value bit for bit and becomes an ordinary parameter again; codes are lost. Read
    `codes_of(model)` before when they are needed.

    Returns:
        The same model.
    """
    for module in list(model.modules()):
        if parametrize.is_parametrized(module):
            _bake(module)
    return model


def strip(model: M) -> M:
    """A copy without parametrizations, for tracing; the original keeps its own.

    PyTorch's `remove_parametrizations` on a deep copy would delete the property from a class that the
    original shares. Here the copy goes back to its first class instead, and that class is left alone.
    """
    return remove_(copy.deepcopy(model))


def _bake(module: nn.Module) -> None:
    """Back to the class below the injected one, with values in place of parametrizations."""
    with torch.no_grad():
        values = {name: getattr(module, name).detach().clone() for name in module.parametrizations}  # type: ignore
    unwrap_(module)
    for name, value in values.items():
        getattr(module, name).data = value


def unwrap_(module: nn.Module) -> dict[str, list[nn.Module]]:
    """Takes all parametrizations off, leaving the *latent* tensors; returns them by tensor name.

    The injected class may be shared with the module that this one was copied from; it is left alone.
    """
    lists = dict(module.parametrizations.items())  # type: ignore[union-attr,operator]
    module.__class__ = type(module).__bases__[0]
    del module._modules["parametrizations"]
    for name, parts in lists.items():
        if isinstance(parts.original, nn.Parameter):
            module.register_parameter(
                name, nn.Parameter(parts.original.detach(), parts.original.requires_grad)
            )
        else:
            module.register_buffer(name, parts.original)
    return {name: list(parts) for name, parts in lists.items()}
