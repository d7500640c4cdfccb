"""Errors of picojoule: each says what was given, what is allowed and what to write instead."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PicojouleError(Exception):
    """Base of every error that picojoule raises on purpose."""


class ShapeError(PicojouleError, ValueError):
    """A tensor's shape (or the number of steps T) disagrees with what the operator needs."""


class KindError(PicojouleError, ValueError):
    """Data contradicts the declared spike kind of an edge, or a kind is not allowed here."""


class CausalityError(PicojouleError, ValueError):
    """A module that looks at the future was asked to run as a stream."""


class CaptureError(PicojouleError, ValueError):
    """A model cannot be turned into a graph."""


class PackError(PicojouleError, ValueError):
    """A graph holds something that the packed file cannot hold."""


class FormatError(PicojouleError, ValueError):
    """A packed file is malformed; the message names the field."""


class ConfigError(PicojouleError, ValueError):
    """A setting, recipe or plan is wrong; the message suggests the nearest valid one."""


class DataError(PicojouleError, ValueError):
    """A data set is missing, damaged or empty."""


class CheckpointError(PicojouleError, RuntimeError):
    """A checkpoint does not fit the model, or could not be written."""


class NonFiniteError(PicojouleError, ValueError):
    """NaN or infinity where numbers are needed."""


class MissingExtraError(PicojouleError, ImportError):
    """An optional dependency is absent; the message names the extra to install."""


class BuildError(PicojouleError, RuntimeError):
    """The native module was built from other sources than the Python files beside it."""


def need_extra(package: str, extra: str) -> MissingExtraError:
    """Error for an absent optional package.

    >>> str(need_extra("torch", "train"))
    "this needs the package 'torch': pip install 'picojoule[train]'"
    """
    return MissingExtraError(f"this needs the package {package!r}: pip install 'picojoule[{extra}]'")


def suggest(word: str, known: Iterable[str]) -> str:
    """A hint that names the nearest known word, or lists what there is.

    >>> suggest("lifs", ["lif", "plif"])
    "did you mean 'lif'?"
    >>> suggest("zzz", ["lif", "plif"])
    'known: lif, plif'
    """
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]!r}?"
    shown = ", ".join(names[:20])
    return f"known: {shown}" + (" ..." if len(names) > 20 else "")
