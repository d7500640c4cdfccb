"""One graph, many readers: capture, fold and snap, reference interpreter, packing. Loads lazily."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

# Public names: name -> (module, attribute). `nodes` needs no torch, the others do.
_NAMES = {
    "Grid": ("grid", "Grid"),
    "PackResult": ("packing", "PackResult"),
    "SnappedModel": ("snapped", "SnappedModel"),
    "capture": ("capturing", "capture"),
    "compare": ("comparing", "compare"),
    "check_kinds": ("checking", "check_kinds"),
    "execute": ("executor", "execute"),
    "pack": ("packing", "pack"),
    "require_packable": ("checking", "require_packable"),
    "snap": ("fold", "snap"),
    "unpackable": ("checking", "unpackable"),
}

__all__ = list(_NAMES)


class _Package(ModuleType):
    def __setattr__(self, name: str, value: Any) -> None:
        # Importing graph/capture.py binds the *module* here, which would hide the function of that name.
        if not (name in _NAMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        module, attribute = _NAMES[name]
        return getattr(importlib.import_module(f"{__name__}.{module}"), attribute)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
