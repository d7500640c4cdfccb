"""What a spiking network costs: counts on the graph, energy models, size, time, reports. Loads lazily."""

from __future__ import annotations

import importlib
from typing import Any

# Public names: name -> module. None of them imports torch before it is used.
_NAMES = {
    "PRESETS": "energy",
    "EnergyModel": "energy",
    "energy_model": "energy",
    "memory_pj": "energy",
    "Counts": "counts",
    "count": "counts",
    "Report": "report",
    "measure_model": "assess",
    "Cost": "cost",
    "measure_cost": "cost",
    "write_html": "html",
    "compare": "compared",
}

__all__ = list(_NAMES)


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(importlib.import_module(f"{__name__}.{_NAMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
