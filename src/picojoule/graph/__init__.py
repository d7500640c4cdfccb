"""One graph, many readers: capture, fold and snap, reference interpreter, packing. Loads lazily."""

from __future__ import annotations

import importlib
from typing import Any

# Public names: name -> (module, attribute). `nodes` needs no torch, the others do.
_NAMES = {
    "Grid": ("grid", "Grid"),
    "PackResult": ("packing", "PackResult"),
    "SnappedModel": ("snapped", "SnappedModel"),
    "capture": ("capture", "capture"),
    "compare": ("packing", "compare"),
    "execute": ("execute", "execute"),
    "pack": ("packing", "pack"),
    "snap": ("snap", "snap"),
}

__all__ = list(_NAMES)


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        module, attribute = _NAMES[name]
        return getattr(importlib.import_module(f"{__name__}.{module}"), attribute)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
