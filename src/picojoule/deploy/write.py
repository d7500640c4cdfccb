"""Write a packed file: checked, canonical, and either whole or not at all."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from picojoule.core.errors import FormatError, PackError
from picojoule.deploy import bits as codec
from picojoule.deploy import format as container
from picojoule.deploy.constants import Stored, stored
from picojoule.deploy.schema import write_node
from picojoule.graph.check import check_graph
from picojoule.graph.nodes import Graph
from picojoule.graph.rates import planes_of, spike_edges


def write(path: str | os.PathLike[str], graph: Graph, card: dict[str, Any] | None = None) -> Path:
    """Write a snapped graph and its card to `path`.

    The bytes go to a temporary name in the same folder, reach the disk, and only then take the name: a full
    disk or a kill leaves an older file whole.

    Args:
        path: usually ends in .pj.
        graph: stage "snapped".
        card: plain JSON about the model: recipe, T, grids, rounding, agreement, accuracy, classes; see
            docs/format.md.
    Returns:
        The path.
    Raises:
        PackError: the graph or the card cannot be packed; the node and the field are named.
        OSError: the file could not be written; an older one is untouched.
    """
    return write_bytes(Path(path), dumps(graph, card), "the packed file")


def write_bytes(target: Path, data: bytes, what: str) -> Path:
    """Write a file whole or not at all.

    Args:
        target: its path.
        data: its bytes.
        what: its name in errors.
    Raises:
        OSError: it could not be written; an older one is untouched.
    """
    temporary = target.with_name(f".{target.name}.{os.urandom(6).hex()}.tmp")
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            _write_all(handle, data)
            os.fsync(handle)
        finally:
            os.close(handle)
        os.replace(temporary, target)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            text = f"could not write {what}: {error.strerror}; an older one is untouched"
            raise OSError(error.errno, text, str(target)) from error
        raise
    _sync_folder(target.parent)
    return target


def dumps(graph: Graph, card: dict[str, Any] | None = None) -> bytes:
    """The bytes of a packed file; the same graph and card give the same bytes."""
    check_graph(graph)
    tensors: dict[str, np.ndarray] = {}
    codes: dict[str, dict[str, Any]] = {}
    for name, constant in stored(graph).items():
        tensors[f"const.{name}"] = _bytes_of(name, constant)
        if constant.packed:
            shape = [int(size) for size in constant.array.shape]
            codes[name] = {"code": constant.code, "bits": constant.bits, "shape": shape}
    text = {"stage": graph.stage, "codes": codes, "nodes": [write_node(node) for node in graph.nodes]}
    tensors["graph"] = _json(text, "graph")
    checked = check_card({} if card is None else card, PackError)
    check_rates(checked, graph, PackError)
    tensors["card"] = _json(checked, "card")
    return container.join(tensors)


def _bytes_of(name: str, constant: Stored) -> np.ndarray:
    array = constant.array
    if constant.code == "float":
        return array.astype(f"f{constant.bits // 8}")
    if constant.code == "plain":
        return array.astype(f"i{constant.bits // 8}")
    try:
        return codec.pack(array, constant.code, constant.bits)
    except PackError as wrong:
        raise PackError(f"constant {name!r}: {wrong}") from None


def _json(value: Any, field: str) -> np.ndarray:
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    if len(text) > container.MAX_JSON:
        raise PackError(f"field {field!r}: {len(text)} bytes of JSON, at most {container.MAX_JSON} fit")
    return np.frombuffer(text, np.uint8)


def check_card(card: Any, error: type[PackError] | type[FormatError]) -> dict[str, Any]:
    """A card is a JSON object of plain values; `classes`, when present, lists names.

    Raises:
        error: names the field.
    """
    if type(card) is not dict:
        raise error(f"field 'card': must be a JSON object, got {type(card).__name__}")
    stack: list[tuple[str, Any, int]] = [("card", card, 1)]
    while stack:
        where, value, depth = stack.pop()
        if depth > container.MAX_DEPTH - 1:
            raise error(f"field {where!r}: nested deeper than {container.MAX_DEPTH - 1}")
        if type(value) is dict:
            if not all(type(key) is str for key in value):
                raise error(f"field {where!r}: keys must be text")
            stack += [(f"{where}.{key}", entry, depth + 1) for key, entry in value.items()]
        elif type(value) is list:
            stack += [(f"{where}[{i}]", entry, depth + 1) for i, entry in enumerate(value)]
        elif type(value) is float and not math.isfinite(value):
            raise error(f"field {where!r}: {value} is not finite; leave it out")
        elif value is not None and type(value) not in (str, int, float, bool):
            raise error(f"field {where!r}: {type(value).__name__} is not plain JSON; convert it first")
    classes = card.get("classes")
    if classes is not None and not (type(classes) is list and all(type(name) is str for name in classes)):
        raise error("field 'card.classes': must be a list of names")
    return card


def check_rates(card: dict[str, Any], graph: Graph, error: type[PackError] | type[FormatError]) -> None:
    """`rates`, when present, gives spike edges one number in 0..1 a bit-plane.

    Raises:
        error: names the field.
    """
    found = card.get("rates")
    if found is None:
        return
    if type(found) is not dict:
        raise error(f"field 'card.rates': must be an object by node name, got {type(found).__name__}")
    edges = spike_edges(graph)
    for name, row in found.items():
        if name not in edges:
            raise error(f"field 'card.rates': {name[:40]!r} is no node of this graph that gives spikes")
        wanted = planes_of(edges[name].edge.kind)
        share = type(row) is list and all(type(r) in (int, float) and 0 <= r <= 1 for r in row)
        if not share or len(row) != wanted:
            raise error(
                f"field 'card.rates.{name}': needs {wanted} numbers in 0..1, one a bit-plane, "
                f"got {str(row)[:40]}"
            )


def _write_all(handle: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]


def _sync_folder(folder: Path) -> None:
    """Make the new name itself durable, where folders can be opened."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
