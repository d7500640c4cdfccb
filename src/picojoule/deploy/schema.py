"""Nodes as JSON and back, field by field. A field this file does not know is an error, never a guess."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from picojoule.core import kinds
from picojoule.core.errors import FormatError, KindError, PackError, suggest
from picojoule.deploy.format import printable
from picojoule.graph import nodes as n
from picojoule.graph.shapes import RULES

MAX_NODES = 1 << 16
MAX_LIST = 1024  # entries of a list of integers
MAX_LEVELS = 1 << 16  # of a neuron
MAX_AXES = 8
MAX_TEXT = 512
WHOLE = 1 << 62
_COMMON = {"type", "name", "inputs", "kind", "shape", "steps", "module"}


def _text(value: Any) -> str:
    if type(value) is not str or len(value) > MAX_TEXT or not printable(value):
        raise ValueError(f"must be at most {MAX_TEXT} printable characters, got {str(value)[:40]!r}")
    return value


def _name(value: Any) -> str:
    if not _text(value):
        raise ValueError("must not be empty")
    return value


def _optional(value: Any) -> str | None:
    return None if value is None else _name(value)


def _whole(value: Any) -> int:
    if type(value) is not int or not -WHOLE < value < WHOLE:
        raise ValueError(f"must be an integer below 2^62, got {str(value)[:40]!r}")
    return value


def _flag(value: Any) -> bool:
    if type(value) is not bool:
        raise ValueError(f"must be true or false, got {str(value)[:40]!r}")
    return value


def _number(value: Any) -> float:
    if type(value) not in (int, float):
        raise ValueError(f"must be a number, got {str(value)[:40]!r}")
    return float(_whole(value)) if type(value) is int else value


def _many(item: Callable[[Any], Any], most: int = MAX_LIST) -> Callable[[Any], tuple[Any, ...]]:
    def read(value: Any) -> tuple[Any, ...]:
        if type(value) is not list or len(value) > most:
            raise ValueError(f"must be a list of at most {most} entries, got {str(value)[:40]!r}")
        return tuple(item(entry) for entry in value)

    return read


def _pair(value: Any) -> tuple[int, int]:
    numbers = _many(_whole)(value)
    if len(numbers) != 2:
        raise ValueError(f"must be pairs (before, after), got {len(numbers)} numbers")
    return numbers[0], numbers[1]


def _move(value: Any) -> tuple[Any, ...]:
    if type(value) is not list or not value:
        raise ValueError("must be lists that begin with a name")
    name, *args = value
    if _name(name) == "pad":
        return (name, *(_many(_pair, MAX_AXES)(arg) for arg in args))
    return (name, *(_many(_whole, MAX_AXES)(arg) if type(arg) is list else _whole(arg) for arg in args))


def _coding(value: Any) -> n.Coding:
    if type(value) is not dict or set(value) - {"name", "bits", "codebook"}:
        raise ValueError("must hold name, bits and codebook only")
    return n.Coding(_text(value.get("name")), _whole(value.get("bits")), _optional(value.get("codebook")))


# How each type annotation of a node's field is read from JSON. `Scan.body` is handled by the caller.
_READERS: dict[str, Callable[[Any], Any]] = {
    "str": _text,
    "str | None": _optional,
    "int": _whole,
    "bool": _flag,
    "float": _number,
    "tuple[int, ...]": _many(_whole),
    "tuple[bool, ...]": _many(_flag, MAX_LEVELS),
    "tuple[tuple[int, int], ...]": _many(_pair),
    "tuple[tuple[Any, ...], ...]": _many(_move),
    "Coding": _coding,
}


def _fields(cls: type[n.Node]) -> dict[str, dataclasses.Field[Any]]:
    common = {f.name for f in dataclasses.fields(n.Node)}
    return {f.name: f for f in dataclasses.fields(cls) if f.name not in common}


FIELDS: dict[str, dict[str, dataclasses.Field[Any]]] = {name: _fields(n.NODE_TYPES[name]) for name in RULES}


def _plain(value: Any) -> Any:
    if isinstance(value, n.Coding):
        return {"name": value.name, "bits": value.bits} | (
            {"codebook": value.codebook} if value.codebook else {}
        )
    if isinstance(value, tuple | list):
        return [_plain(entry) for entry in value]
    if isinstance(value, bool | str | float) or value is None:
        return value
    return int(value)


def write_node(node: n.Node) -> dict[str, Any]:
    """A node as JSON; fields that hold their default are left out, and so is `source`."""
    kind = type(node).__name__
    if kind not in FIELDS:
        raise PackError(f"node {node.name!r} ({kind}) has no integer form and cannot be packed")
    row: dict[str, Any] = {
        "type": kind,
        "name": node.name,
        "inputs": list(node.inputs),
        "kind": str(node.edge.kind),
        "shape": [int(size) for size in node.edge.shape],
        "steps": int(node.edge.steps),
    }
    if node.module:
        row["module"] = node.module
    for name, field in FIELDS[kind].items():
        value = getattr(node, name)
        if name == "body":
            row[name] = [write_node(inner) for inner in value.nodes]
        elif value != field.default:
            row[name] = _plain(value)
    return row


def read_node(row: Any, where: str, body: Callable[[list[Any], str], n.Graph]) -> n.Node:
    """A node from JSON.

    Args:
        row: what `write_node` gave.
        where: place in the file, for errors.
        body: makes the graph of a Scan from its rows and its name.
    Raises:
        FormatError: names the node and the field.
    """
    if type(row) is not dict:
        raise FormatError(f"field {where!r}: must be an object")
    kind = row.get("type")
    if type(kind) is not str or kind not in FIELDS:
        raise FormatError(
            f"field '{where}.type': unknown node {str(kind)[:40]!r}; known: {', '.join(sorted(FIELDS))}"
        )
    known, field = FIELDS[kind], "name"
    try:
        name = _name(row.get("name"))
        where = f"{where} {name!r} ({kind})"
        for field in row:
            if field not in _COMMON and field not in known:
                raise ValueError(f"is unknown; {suggest(field, _COMMON | set(known))}")
        values: dict[str, Any] = {}
        for field, reader in (
            ("inputs", _many(_name)),
            ("shape", _many(_whole, MAX_AXES)),
            ("steps", _whole),
            ("kind", _kind),
        ):
            if field not in row:
                raise ValueError("is missing")
            values[field] = reader(row[field])
        field = "module"
        module = _text(row.get("module", ""))
        own: dict[str, Any] = {}
        for field, declared in known.items():
            if field in row:
                own[field] = (
                    body(row[field], name) if field == "body" else _READERS[str(declared.type)](row[field])
                )
            elif declared.default is dataclasses.MISSING:
                raise ValueError("is missing")
    except (ValueError, KindError) as wrong:
        if isinstance(wrong, FormatError):
            raise
        raise FormatError(f"{where}, field {field!r}: {wrong}") from None
    edge = n.Edge(values["kind"], values["shape"], values["steps"])
    return n.NODE_TYPES[kind](name=name, inputs=values["inputs"], edge=edge, module=module, **own)


def _kind(value: Any) -> kinds.Kind:
    kind = kinds.parse(_text(value))
    if str(kind) != value:
        raise ValueError(f"must be written {str(kind)!r}, got {value!r}")
    return kind


__all__ = ["FIELDS", "MAX_NODES", "read_node", "write_node"]
