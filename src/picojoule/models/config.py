"""Neurons by name, so that a recipe can choose them: "lif", {"name": "ilif", "levels": 4}, or a callable."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from picojoule import neurons
from picojoule.core.errors import ConfigError, suggest
from picojoule.neurons import Neuron


def neuron_classes() -> dict[str, type[Neuron]]:
    """All neurons that `picojoule.neurons` exports, by lower-case class name.

    >>> neuron_classes()["lif"].__name__
    'LIF'
    """
    exported = {name: getattr(neurons, name) for name in neurons.__all__}
    return {
        name.lower(): item
        for name, item in exported.items()
        if isinstance(item, type) and issubclass(item, Neuron) and item is not Neuron
    }


@dataclass(frozen=True)
class NeuronConfig:
    """A neuron by name and constructor options; `config(T)` makes one.

    Fields:
        name: lower-case class name, see `neuron_classes`.
        options: keyword arguments of its constructor, T excluded.
        make: a callable T -> Neuron that replaces the name (such a config is not serialisable).
    """

    name: str = "lif"
    options: Mapping[str, Any] = field(default_factory=dict)
    make: Callable[[int], Neuron] | None = None

    def __post_init__(self) -> None:
        if self.make is not None:
            return
        known = neuron_classes()
        key = self.name.lower().replace("_", "").replace("-", "")
        if key not in known:
            raise ConfigError(f"unknown neuron {self.name!r}; {suggest(key, known)}")
        object.__setattr__(self, "name", key)
        allowed = self.allowed()
        for option in self.options:
            if option not in allowed:
                raise ConfigError(f"neuron {key!r} has no option {option!r}; {suggest(option, allowed)}")

    def allowed(self) -> tuple[str, ...]:
        """Names of the constructor options."""
        if self.make is not None:
            return ()
        names = inspect.signature(neuron_classes()[self.name].__init__).parameters
        return tuple(name for name in names if name not in ("self", "T"))

    def with_(self, **options: Any) -> NeuronConfig:
        """A copy with some options changed; options that this neuron lacks raise."""
        return replace(self, options={**self.options, **options})

    def __call__(self, T: int) -> Neuron:
        """A new neuron layer for T steps."""
        if self.make is not None:
            return self.make(T)
        return neuron_classes()[self.name](T=T, **self.options)

    def maker(self, T: int) -> Callable[[], Neuron]:
        """What layers take: a callable without arguments, one new neuron a call."""
        return lambda: self(T)

    def as_dict(self) -> dict[str, Any]:
        """Name and options as written in a recipe."""
        return {"name": self.name, **self.options}


def neuron_config(like: Any) -> NeuronConfig:
    """A NeuronConfig from a name, a mapping with "name", a config or a callable T -> Neuron.

    >>> neuron_config({"name": "lif", "tau": 4.0}).options["tau"]
    4.0
    """
    if isinstance(like, NeuronConfig):
        return like
    if isinstance(like, str):
        return NeuronConfig(like)
    if isinstance(like, Mapping):
        if "name" not in like:
            raise ConfigError(
                f"a neuron needs a name, e.g. {{'name': 'lif', 'tau': 2.0}}; got {dict(like)!r}"
            )
        return NeuronConfig(like["name"], {key: value for key, value in like.items() if key != "name"})
    if isinstance(like, type) and issubclass(like, Neuron):
        return NeuronConfig(like.__name__, make=lambda T: like(T=T))
    if callable(like):
        make: Any = like
        return NeuronConfig(getattr(like, "__name__", "custom"), make=make)
    raise ConfigError(
        f"a neuron is a name, a mapping with 'name', a NeuronConfig or a callable T -> Neuron; got {like!r}"
    )


def half_threshold(config: NeuronConfig) -> NeuronConfig:
    """The same neuron with half its threshold, as attention gates have it; unchanged where it has none."""
    if "v_th" not in config.allowed():
        return config
    return config.with_(v_th=config.options.get("v_th", 1.0) / 2)
