"""`model.py:net`: the module that a file of the user's makes."""

from __future__ import annotations

import importlib.util
import inspect
import sys
import traceback
from pathlib import Path
from typing import Any

from torch import nn

from picojoule.core.errors import ConfigError, suggest


def split_target(target: str) -> tuple[Path, str | None]:
    """("model.py", "net") of "model.py:net"; the name is None where only a file is given.

    Raises:
        ConfigError: no such file, or it is not Python.
    """
    text, colon, name = target.rpartition(":")
    path, wanted = (Path(text), name) if colon and name.isidentifier() else (Path(target), None)
    if path.suffix != ".py":
        raise ConfigError(f"{target!r} names no Python file; write e.g. model.py:net")
    if not path.is_file():
        raise ConfigError(f"no file {path}")
    return path, wanted


def load_model(path: Path, name: str) -> nn.Module:
    """Run the file and take `name` from it: a module, or what makes one without arguments.

    Raises:
        ConfigError: the file or the factory fails (with the line), or `name` is absent or no network.
    """
    spec = importlib.util.spec_from_file_location(f"checked_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path} cannot be loaded as Python")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent.resolve()))  # imports of its neighbours, as when it is run
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ConfigError(f"{path} fails while it is loaded: {_told(error, path)}") from error
    finally:
        sys.path.remove(str(path.parent.resolve()))
    if not hasattr(module, name):
        public = [n for n in vars(module) if not n.startswith("_")]
        raise ConfigError(f"{path} has no {name!r}; {suggest(name, public)}")
    return _made(getattr(module, name), path, name)


def _made(found: Any, path: Path, name: str) -> nn.Module:
    if isinstance(found, nn.Module):
        return found
    if not callable(found):
        raise ConfigError(f"{name} in {path} is a {type(found).__name__}, not a network or what makes one")
    needed = [
        p.name
        for p in inspect.signature(found).parameters.values()
        if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]
    if needed:
        raise ConfigError(
            f"{name} in {path} needs {', '.join(needed)}; write a function without arguments that makes the "
            "network, and name that"
        )
    try:
        model = found()
    except Exception as error:
        raise ConfigError(f"{name}() in {path} fails: {_told(error, path)}") from error
    if not isinstance(model, nn.Module):
        raise ConfigError(f"{name}() in {path} returns a {type(model).__name__}, not an nn.Module")
    return model


def _told(error: Exception, path: Path) -> str:
    """Kind, message and the last line of the user's file on the way to the error."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [f.lineno for f in frames if Path(f.filename).resolve() == path.resolve()]
    if isinstance(error, SyntaxError):
        lines.append(error.lineno)
    place = f" (line {lines[-1]})" if lines else ""
    return f"{type(error).__name__}: {error}{place}"


__all__ = ["load_model", "split_target"]
