"""A small name-to-factory registry with wildcards and nearest-name errors."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from picojoule.core.errors import ConfigError, suggest

F = TypeVar("F", bound=Callable[..., Any])


class Registry(Generic[F]):
    """Named factories of one sort.

    >>> neurons = Registry("neuron")
    >>> @neurons.register()
    ... def lif(): return 1
    >>> neurons.names("l*")
    ['lif']
    """

    def __init__(self, sort: str) -> None:
        self.sort = sort
        self._entries: dict[str, F] = {}
        self._tags: dict[str, dict[str, Any]] = {}

    def register(self, name: str | None = None, **tags: Any) -> Callable[[F], F]:
        """Decorator that files a factory under `name` (default: its own name) with free tags."""

        def add(factory: F) -> F:
            key = name or getattr(factory, "__name__", "")
            if key in self._entries:
                raise ConfigError(f"{self.sort} {key!r} is registered twice; choose another name")
            self._entries[key] = factory
            self._tags[key] = tags
            return factory

        return add

    def get(self, name: str) -> F:
        """The factory of that name; an unknown name raises with the nearest known one."""
        if name not in self._entries:
            raise ConfigError(f"unknown {self.sort} {name!r}; {suggest(name, self._entries)}")
        return self._entries[name]

    def tags(self, name: str) -> dict[str, Any]:
        """The tags given at registration."""
        self.get(name)
        return dict(self._tags[name])

    def names(self, pattern: str = "*", **tags: Any) -> list[str]:
        """Sorted names that match a shell pattern and carry the given tags."""
        return sorted(
            key
            for key in self._entries
            if fnmatch.fnmatch(key, pattern) and all(self._tags[key].get(k) == v for k, v in tags.items())
        )

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        return len(self._entries)
