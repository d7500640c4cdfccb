"""The container of a packed file: a strict reader and writer of the safetensors layout.

    8 bytes   N, little-endian; N <= 4 MiB, a multiple of 8
    N bytes   JSON: name -> {"dtype", "shape", "data_offsets"}, and "__metadata__"; padded with spaces
    the rest  tensor data, without holes or overlaps, in the order of the header

`docs/format.md` is the full description. Nothing is allocated from a number in the file before that
number was checked against the size of the file.
"""

from __future__ import annotations

import json
import math
import mmap
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from picojoule.core.errors import FormatError

Array = np.ndarray
FORMAT, VERSION = "picojoule", "1"
METADATA = {"format": FORMAT, "version": VERSION}
MAX_FILE = 1 << 32
MAX_HEADER = 1 << 22
MAX_JSON = 1 << 24  # of the tensors `graph` and `card`
MAX_DEPTH = 32
MAX_RANK = 8
DTYPES = {
    "U8": np.dtype("u1"),
    "I8": np.dtype("i1"),
    "I16": np.dtype("<i2"),
    "I32": np.dtype("<i4"),
    "I64": np.dtype("<i8"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
}
_NAMES = {dtype.str: name for name, dtype in DTYPES.items()}
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
# Characters that control, break or hide text; the same list is in native/src/file_json.cpp. Not
# str.isprintable, which changes with Python's version of Unicode.
_HIDDEN = re.compile(
    "[\\0-\\x1f\\x7f-\\xa0\\xad\\u061c\\u1680\\u180e\\u2000-\\u200f\\u2028-\\u202f\\u205f-\\u206f\\u3000\\ud800-\\uf8ff"
    "\\ufeff\\ufff0-\\ufffb\\ufffe\\uffff\\U000e0000-\\U000e00ff\\U000e01f0-\\U0010ffff]"
)
_CLOSE = bytes.maketrans(b"[]", b"{}")


class Entry(NamedTuple):
    """A tensor of the container."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def printable(text: str) -> bool:
    """Whether no character of a name controls, breaks or hides text.

    >>> printable("größe 2"), printable("a\\nb")
    (True, False)
    """
    return _HIDDEN.search(text) is None


def parse_json(raw: bytes, field: str) -> Any:
    """Strict JSON: UTF-8, no NaN or infinity, no repeated key, nested at most 32 deep.

    Raises:
        FormatError: names `field`.
    """
    if _depth(raw) > MAX_DEPTH:
        raise FormatError(f"field {field!r}: JSON is nested deeper than {MAX_DEPTH}")
    try:
        return json.loads(
            raw.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_constant, parse_float=_float
        )
    except (ValueError, RecursionError) as wrong:
        raise FormatError(f"field {field!r}: {wrong}") from None


def _depth(raw: bytes) -> int:
    if raw.count(b"[") + raw.count(b"{") <= MAX_DEPTH:
        return 0
    marks = np.frombuffer(_STRING.sub(b"", raw).translate(_CLOSE), np.uint8)
    return int(np.cumsum((marks == 0x7B).astype(np.int32) - (marks == 0x7D)).max(initial=0))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        seen: set[str] = set()
        raise ValueError(f"the key {next(k for k, _ in pairs if k in seen or seen.add(k))!r} appears twice")
    return out


def _constant(text: str) -> float:
    raise ValueError(f"{text} is not allowed")


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a finite number")
    return value


def read_header(raw: bytes, size: int) -> list[Entry]:
    """Entries of a header, in the order of their data.

    Args:
        raw: the JSON bytes that follow the length.
        size: bytes of the whole file.
    Raises:
        FormatError: names the field.
    """
    header = parse_json(raw, "header")
    if not isinstance(header, dict) or raw[:1] != b"{":
        raise FormatError("field 'header': must be a JSON object")
    _check_metadata(header.pop("__metadata__", None))
    entries, at, room = [], 0, size - 8 - len(raw)
    for name, row in header.items():
        entry = _entry(name, row)
        if entry.begin != at or entry.end < at:
            raise FormatError(
                f"tensor {name!r}, field 'data_offsets': must begin at {at}, got {row['data_offsets']}"
            )
        expected = math.prod(entry.shape) * DTYPES[entry.dtype].itemsize
        if entry.end - at != expected:
            raise FormatError(
                f"tensor {name!r}, field 'data_offsets': {entry.dtype} {list(entry.shape)} takes {expected} "
                f"bytes, got {entry.end - at}"
            )
        at = entry.end
        if at > room:
            raise FormatError(
                f"tensor {name!r}, field 'data_offsets': ends at {at}, the file holds {room} bytes of data; "
                "it is truncated: copy or fetch it again"
            )
        entries.append(entry)
    if at != room:
        raise FormatError(
            f"field 'data_offsets': tensors take {at} bytes, the file holds {room}; copy or fetch it again"
        )
    return entries


def _check_metadata(found: Any) -> None:
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise FormatError(
            "field '__metadata__.format': not a packed picojoule file; write one with picojoule.pack"
        )
    if found.get("version") != VERSION:
        raise FormatError(
            f"field '__metadata__.version': this reader knows version {VERSION}, got "
            f"{found.get('version')!r}; use the picojoule that wrote the file"
        )
    if set(found) != set(METADATA):
        raise FormatError(f"field '__metadata__': unknown keys {sorted(set(found) - set(METADATA))}")


def _entry(name: str, row: Any) -> Entry:
    if not name or len(name) > 512 or not printable(name):
        raise FormatError(f"tensor {name[:40]!r}: names are 1 to 512 printable characters")
    if not isinstance(row, dict) or set(row) != {"dtype", "shape", "data_offsets"}:
        raise FormatError(f"tensor {name!r}: needs exactly the fields dtype, shape, data_offsets")
    if not isinstance(row["dtype"], str) or row["dtype"] not in DTYPES:
        raise FormatError(
            f"tensor {name!r}, field 'dtype': must be one of {', '.join(DTYPES)}, got {row['dtype']!r}"
        )
    for field, most in (("shape", MAX_RANK), ("data_offsets", 2)):
        values = row[field]
        whole = isinstance(values, list) and all(type(v) is int and 0 <= v <= MAX_FILE for v in values)
        if not whole or len(values) > most or (field == "data_offsets" and len(values) != 2):
            raise FormatError(
                f"tensor {name!r}, field {field!r}: must be at most {most} integers in 0..2^32, got "
                f"{str(values)[:40]}"
            )
    return Entry(name, row["dtype"], tuple(row["shape"]), *row["data_offsets"])


def split(raw: bytes | mmap.mmap) -> dict[str, Array]:
    """Tensors of a whole file as read-only views of its bytes.

    Raises:
        FormatError: names the field.
    """
    size = len(raw)
    if size < 8 or size > MAX_FILE:
        raise FormatError(f"field 'header length': a file of {size} bytes is no packed file")
    length = int.from_bytes(raw[:8], "little")
    if length % 8 or not 2 <= length <= min(MAX_HEADER, size - 8):
        raise FormatError(
            f"field 'header length': must be a multiple of 8, at most {MAX_HEADER} and inside the file of "
            f"{size} bytes, got {length}; this is no packed file, or a damaged one"
        )
    out: dict[str, Array] = {}
    for entry in read_header(raw[8 : 8 + length], size):
        dtype = DTYPES[entry.dtype]
        count = math.prod(entry.shape)
        flat = np.frombuffer(raw, dtype, count, 8 + length + entry.begin) if count else np.empty(0, dtype)
        out[entry.name] = flat.astype(dtype.newbyteorder("="), copy=False).reshape(entry.shape)
    return out


def join(tensors: Mapping[str, Array]) -> bytes:
    """Bytes of a file that holds the tensors; wider types first, so that each is aligned."""
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    header: dict[str, Any] = {"__metadata__": METADATA}
    at, parts = 0, []
    for name in order:
        array = tensors[name]
        dtype = array.dtype.newbyteorder("<")
        data = np.ascontiguousarray(array).astype(dtype, copy=False).tobytes()
        header[name] = {
            "dtype": _NAMES[dtype.str],
            "shape": list(array.shape),
            "data_offsets": [at, at + len(data)],
        }
        at += len(data)
        parts.append(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join((len(text).to_bytes(8, "little"), text, *parts))
