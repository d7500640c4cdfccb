"""Read a packed file strictly: every size is checked before it is used, every error names the field."""

from __future__ import annotations

import math
import mmap
import os
import stat
from typing import Any, BinaryIO

import numpy as np

from picojoule.core.errors import CaptureError, FormatError, PackError
from picojoule.deploy import bits as codec
from picojoule.deploy import format as container
from picojoule.deploy.constants import scopes, stored
from picojoule.deploy.mapped import Mapped
from picojoule.deploy.schema import MAX_NODES, read_node
from picojoule.deploy.write import check_card, check_rates
from picojoule.graph import nodes as n
from picojoule.graph.check import check_graph

Array = np.ndarray

# What a file of F bytes may ask for: constants of at most 64 F + 1 MiB once unpacked (looked-up codebooks
# included), and rows of at most 4096 F + 2^24 elements in all edges of one sample together.
UNPACK, UNPACK_FREE = 64, 1 << 20
ROWS, ROWS_FREE = 4096, 1 << 24


def read(path: str | os.PathLike[str]) -> tuple[n.Graph, dict[str, Any]]:
    """The snapped graph and the card of a packed file.

    Raises:
        FormatError: the file is malformed; the message names the field.
        OSError: the file cannot be opened.
    """
    with _opened(path) as handle:
        raw = handle.read(os.fstat(handle.fileno()).st_size)
    return _named(path, raw)


def read_mapped(path: str | os.PathLike[str]) -> tuple[n.Graph, dict[str, Any], Mapped | None]:
    """The same from a mapping of the file: constants that it holds as the graph needs them (everything but
    packed bits below eight) are views of its pages. The mapping is None for a file without bytes.

    Raises:
        FormatError, OSError: as `read`.
    """
    with _opened(path) as handle:
        if not os.fstat(handle.fileno()).st_size:
            return (*_named(path, b""), None)
        mapped = Mapped(handle)
    return (*_named(path, mapped.raw), mapped)


def _opened(path: str | os.PathLike[str]) -> BinaryIO:
    handle = open(path, "rb")  # noqa: SIM115 - the callers close it
    found = os.fstat(handle.fileno())
    if stat.S_ISREG(found.st_mode) and found.st_size <= container.MAX_FILE:
        return handle
    handle.close()
    if not stat.S_ISREG(found.st_mode):
        raise FormatError(f"{os.fspath(path)!r} is not a regular file")
    raise FormatError(f"{os.fspath(path)!r} has {found.st_size} bytes, at most {container.MAX_FILE} are read")


def _named(path: str | os.PathLike[str], raw: bytes | mmap.mmap) -> tuple[n.Graph, dict[str, Any]]:
    try:
        return loads(raw)
    except FormatError as wrong:
        raise FormatError(f"{os.fspath(path)}: {wrong}") from None


def loads(raw: bytes | mmap.mmap) -> tuple[n.Graph, dict[str, Any]]:
    """The snapped graph and the card in the bytes of a packed file.

    Raises:
        FormatError: names the field.
    """
    tensors = container.split(raw)
    text, card = (_text(tensors, name) for name in ("graph", "card"))
    if type(text) is not dict or set(text) != {"stage", "codes", "nodes"}:
        raise FormatError("field 'graph': needs exactly stage, codes and nodes")
    if text["stage"] != "snapped":
        raise FormatError(f"field 'graph.stage': must be 'snapped', got {str(text['stage'])[:40]!r}")
    constants = _constants(tensors, text["codes"], len(raw))
    graph = _Builder(constants).graph(text["nodes"], "")
    _limit(graph, len(raw))
    check_graph(graph, error=FormatError)
    _canonical(graph, tensors, text["codes"])
    checked = check_card(card, FormatError)
    check_rates(checked, graph, FormatError)
    return graph, checked


def _text(tensors: dict[str, Array], name: str) -> Any:
    found = tensors.pop(name, None)
    if found is None or found.dtype != np.uint8 or found.ndim != 1:
        raise FormatError(f"tensor {name!r}: a packed file needs it as U8 text")
    if found.size > container.MAX_JSON:
        raise FormatError(
            f"tensor {name!r}: {found.size} bytes of JSON, at most {container.MAX_JSON} are read"
        )
    return container.parse_json(found.tobytes(), name)


def _constants(tensors: dict[str, Array], codes: Any, size: int) -> dict[str, Array]:
    """Unpacked constants by name."""
    if type(codes) is not dict:
        raise FormatError("field 'graph.codes': must be an object")
    for name in tensors:
        if not name.startswith("const."):
            raise FormatError(f"tensor {name!r}: unknown; constants are named 'const.<name>'")
    room = UNPACK * size + UNPACK_FREE
    todo = []
    for name, row in codes.items():
        code, bits, shape = _code(name, row)
        raw = tensors.get(f"const.{name}")
        if raw is None or raw.dtype != np.uint8 or raw.ndim != 1:
            raise FormatError(f"tensor 'const.{name}': bit-packed constants are U8 with one axis")
        count = math.prod(shape)
        if raw.size != codec.packed_bytes(count, bits):
            raise FormatError(
                f"field 'graph.codes.{name}.shape': {list(shape)} of {bits} bits takes "
                f"{codec.packed_bytes(count, bits)} bytes, the tensor has {raw.size}"
            )
        room -= count * codec.smallest(*codec.limits(code, bits)).itemsize
        todo.append((name, raw, code, bits, shape))
    if room < 0:
        raise FormatError(f"field 'graph.codes': constants unpack to more than {UNPACK} times the file")
    out = {name[6:]: array for name, array in tensors.items()}
    for name, raw, code, bits, shape in todo:
        try:
            values = codec.unpack(raw, math.prod(shape), code, bits)
        except FormatError as wrong:
            raise FormatError(f"tensor 'const.{name}': {wrong}") from None
        out[name] = (values.view(np.bool_) if code == "bool" else values).reshape(shape)
    for name, array in out.items():
        if array.dtype == np.uint8:
            raise FormatError(f"tensor 'const.{name}': bytes without an entry in 'graph.codes'")
        if array.dtype.kind == "f":
            out[name] = array.astype(np.float64)
        out[name].flags.writeable = False  # the engine and other readers of the graph share them
    return out


def _code(name: str, row: Any) -> tuple[str, int, tuple[int, ...]]:
    where = f"graph.codes.{name}"
    if type(row) is not dict or set(row) != {"code", "bits", "shape"}:
        raise FormatError(f"field {where!r}: needs exactly code, bits and shape")
    code, bits, shape = row["code"], row["bits"], row["shape"]
    if code not in codec.CODES:
        raise FormatError(
            f"field '{where}.code': must be one of {', '.join(codec.CODES)}, got {str(code)[:40]!r}"
        )
    least, most = {"sign": (1, 1), "bool": (1, 1), "ternary": (2, 2)}.get(code, (1, codec.MAX_BITS))
    if type(bits) is not int or not least <= bits <= most:
        raise FormatError(f"field '{where}.bits': {code} takes {least}..{most} bits, got {str(bits)[:40]}")
    whole = type(shape) is list and all(type(v) is int and 0 < v <= container.MAX_FILE for v in shape)
    if not whole or len(shape) > container.MAX_RANK:
        raise FormatError(f"field '{where}.shape': must be at most {container.MAX_RANK} positive sizes")
    return code, bits, tuple(shape)


class _Builder:
    """Makes graphs from rows and gives each its constants."""

    def __init__(self, constants: dict[str, Array]) -> None:
        self.constants = constants
        self.nodes = 0

    def graph(self, rows: Any, prefix: str) -> n.Graph:
        where = f"{prefix}nodes"
        if type(rows) is not list:
            raise FormatError(f"field 'graph.{where}': must be a list")
        self.nodes += len(rows)
        if self.nodes > MAX_NODES:
            raise FormatError(f"field 'graph.{where}': more than {MAX_NODES} nodes")
        made: list[n.Node] = []
        for i, row in enumerate(rows):
            made.append(
                read_node(row, f"{where}[{i}]", lambda inner, name: self.graph(inner, f"{prefix}{name}/"))
            )
        tensors: dict[str, Array] = {}
        for node in made:
            for field, name in n.tensor_fields(node).items():
                if prefix + name not in self.constants:
                    raise FormatError(
                        f"node {node.name!r}, field {field!r}: names the constant {prefix + name!r}, "
                        "which does not exist"
                    )
                tensors[name] = self.constants[prefix + name]
        try:
            return n.Graph(tuple(made), tensors, stage="snapped")
        except CaptureError as wrong:
            raise FormatError(f"field 'graph.{where}': {wrong}") from None


def _limit(graph: n.Graph, size: int) -> None:
    """Refuse rows and codebooks that would need memory out of proportion to the file."""
    rows, words = 0, 0
    for _, scope in scopes(graph):
        for node in scope.nodes:
            rows += math.prod(max(1, extent) for extent in node.edge.shape) * max(1, node.edge.steps)
            coding = getattr(node, "coding", None)
            if coding is not None and coding.codebook is not None:
                book = scope.tensors[coding.codebook]
                indices, first = scope.tensors[node.weight].size, book.shape[0] if book.ndim else 1  # type: ignore[attr-defined]
                words += indices * book.size // max(1, first) * book.itemsize
    if rows > ROWS * size + ROWS_FREE:
        raise FormatError(
            f"field 'graph.nodes.shape': one sample takes {rows} elements, a file of {size} bytes may ask "
            f"for {ROWS * size + ROWS_FREE}"
        )
    if words > UNPACK * size + UNPACK_FREE:
        raise FormatError(f"field 'coding.codebook': code words expand to more than {UNPACK} times the file")


def _canonical(graph: n.Graph, tensors: dict[str, Array], codes: dict[str, Any]) -> None:
    """The file must hold each constant as the writer would store it, and nothing else."""
    try:
        plan = stored(graph)
    except PackError as wrong:
        raise FormatError(str(wrong)) from None
    unused = {name[6:] for name in tensors} - set(plan)
    if unused:
        raise FormatError(f"tensor 'const.{min(unused)}': no node reads it")
    for name, constant in plan.items():
        row = codes.get(name)
        found = (row["code"], row["bits"]) if row else (None, tensors[f"const.{name}"].dtype.itemsize * 8)
        wanted = (constant.code if constant.packed else None, constant.bits)
        if found != wanted:
            raise FormatError(
                f"tensor 'const.{name}': {constant.role} must be stored as {constant.bits}-bit "
                f"{constant.code}, got {found[1]}-bit {found[0] or 'plain'}"
            )
