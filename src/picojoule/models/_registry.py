"""Models by name: `create_model`, `list_models`, `register_model`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from picojoule.core.errors import ConfigError, suggest
from picojoule.core.registry import Registry

MODELS: Registry[Callable[..., nn.Module]] = Registry("model")


def register_model(
    name: str | None = None, *, family: str, tiny: bool = False, image: tuple[int, int, int] = (3, 224, 224)
) -> Callable[[Callable[..., nn.Module]], Callable[..., nn.Module]]:
    """Decorator that files a model entry point.

    Args:
        name: name to file it under; default the function's.
        family: family it belongs to, e.g. "sdt_v3".
        tiny: True for the small entry of a family on which all free tests run.
        image: channels, height and width it is meant for.
    """
    return MODELS.register(name, family=family, tiny=tiny, image=image)


def create_model(name: str, **overrides: Any) -> nn.Module:
    """Build a registered model.

    Args:
        name: see `list_models`.
        overrides: constructor arguments to change: num_classes, in_channels, T, neuron, ... .
    Raises:
        ConfigError: unknown name or argument; the message suggests the nearest one.
    """
    entry = MODELS.get(name)
    return entry(**overrides)


def list_models(pattern: str = "*", **tags: Any) -> list[str]:
    """Sorted names that match a shell pattern; `tiny=True` or `family="sdt_v1"` select by tag.

    >>> list_models("spiking_vgg_t*")
    ['spiking_vgg_tiny']
    """
    return MODELS.names(pattern, **tags)


def model_info(name: str) -> dict[str, Any]:
    """Tags of a model: family, tiny, image; and the first line of its documentation."""
    doc = inspect.getdoc(MODELS.get(name)) or ""
    return {**MODELS.tags(name), "doc": doc.partition("\n")[0]}


def build(cls: type[nn.Module], overrides: dict[str, Any], **defaults: Any) -> nn.Module:
    """`cls(**defaults, **overrides)` after a check that `cls` knows every argument."""
    known = [n for n in inspect.signature(cls.__init__).parameters if n != "self"]
    for key in overrides:
        if key not in known:
            raise ConfigError(f"{cls.__name__} has no argument {key!r}; {suggest(key, known)}")
    return cls(**{**defaults, **overrides})
