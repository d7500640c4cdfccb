"""The native module, proven to be built from the sources that the Python files beside it expect. No torch."""

from __future__ import annotations

import importlib
from typing import Any

from picojoule.core.errors import BuildError

BINDING = 8  # kBinding in native/include/picojoule/version.h; raise both when a bound signature changes


def native() -> Any:
    """`picojoule._native`.

    Raises:
        ImportError: there is no build.
        BuildError: the build is of other sources, so that calls would go wrong; it says how to build anew.
    """
    module = importlib.import_module("picojoule._native")
    found = getattr(module, "__binding__", 0)
    if found != BINDING:
        raise BuildError(
            f"{getattr(module, '__file__', 'picojoule._native')} has binding {found}, these Python files "
            f"need {BINDING}: it was built from other sources; build it again with "
            "`pip install --no-build-isolation -e .` (or reinstall picojoule)"
        )
    return module


__all__ = ["BINDING", "native"]
