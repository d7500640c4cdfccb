"""picojoule: define, train, compress, measure, pack and run spike-driven neural networks.

Importing the package is cheap: submodules load on first use, and the runtime
(`picojoule.deploy`) never imports torch.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_SUBMODULES = (
    "cli",
    "compress",
    "core",
    "data",
    "deploy",
    "encode",
    "graph",
    "layers",
    "learn",
    "measure",
    "models",
    "neurons",
    "timeline",
)

# Public shortcuts: name -> (module, attribute).
_SHORTCUTS = {
    "create_model": ("models", "create_model"),
    "list_models": ("models", "list_models"),
    "capture": ("graph", "capture"),
    "snap": ("graph", "snap"),
    "pack": ("graph", "pack"),
    "spike_aware_": ("layers", "spike_aware_"),
    "stream": ("timeline", "stream"),
    "set_steps": ("timeline", "set_steps"),
    "compress_": ("compress", "compress_"),
    "measure_model": ("measure", "measure_model"),
    "tune": ("core.tune", "tune"),
    "fuse_norm_": ("layers", "fuse_norm_"),
}

__all__ = ["__version__", *_SHORTCUTS, *_SUBMODULES]


def __getattr__(name: str) -> Any:
    if name in _SHORTCUTS:
        module, attribute = _SHORTCUTS[name]
        return getattr(importlib.import_module(f"{__name__}.{module}"), attribute)
    if name in _SUBMODULES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module 'picojoule' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
