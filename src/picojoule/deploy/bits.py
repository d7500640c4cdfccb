"""Integers of a few bits packed into bytes.

Value number i occupies bits i*b .. i*b + b - 1 of the stream; bit j of the stream is bit j % 8 of byte
j // 8. There is no padding between values and rows; the unused bits of the last byte are zero.

    sign     1 bit    -1 -> 0, +1 -> 1
    bool     1 bit     0 -> 0,  1 -> 1
    ternary  2 bits   two's complement of -1, 0, 1 (10 is refused)
    int      b bits   two's complement
    index    b bits   unsigned
"""

from __future__ import annotations

import numpy as np

from picojoule.core.errors import FormatError, PackError

Array = np.ndarray
CODES = ("sign", "bool", "ternary", "int", "index")
MAX_BITS = 32
_CHUNK = 1 << 18  # values unpacked at once, so that temporary memory stays small


def packed_bytes(count: int, bits: int) -> int:
    """Bytes of `count` values: ceil(count * bits / 8).

    >>> packed_bytes(9, 1), packed_bytes(5, 3)
    (2, 2)
    """
    return (count * bits + 7) // 8


def limits(code: str, bits: int) -> tuple[int, int]:
    """Smallest and largest value of a code."""
    if code in ("sign", "ternary"):
        return -1, 1
    if code in ("bool", "index"):
        return 0, (1 << bits) - 1
    return -(1 << (bits - 1)), (1 << (bits - 1)) - 1


def smallest(low: int, high: int) -> np.dtype:
    """Narrowest signed integer type that holds low..high.

    >>> smallest(-1, 200)
    dtype('int16')
    """
    for name in ("i1", "i2", "i4"):
        info = np.iinfo(name)
        if info.min <= low and high <= info.max:
            return np.dtype(name)
    return np.dtype("i8")


def pack(values: Array, code: str, bits: int) -> Array:
    """Bytes of the values in C order.

    Raises:
        PackError: a value is not one of the code's.
    """
    flat = np.ascontiguousarray(values).reshape(-1).astype(np.int64)
    low, high = limits(code, bits)
    if flat.size and (int(flat.min()) < low or int(flat.max()) > high or (code == "sign" and not flat.all())):
        raise PackError(f"values {flat.min()}..{flat.max()} are no {bits}-bit {code} codes")
    unsigned = (flat > 0).astype(np.uint8) if code == "sign" else flat & ((1 << bits) - 1)
    planes = ((unsigned[:, None] >> np.arange(bits)) & 1).astype(np.uint8)
    return np.packbits(planes.reshape(-1), bitorder="little")


def unpack(raw: Array, count: int, code: str, bits: int) -> Array:
    """The `count` values of a packed stream, in the narrowest integer type of the code.

    Raises:
        FormatError: wrong length, unused bits set, or a bit pattern that is no code.
    """
    if raw.size != packed_bytes(count, bits):
        raise FormatError(
            f"{count} values of {bits} bits take {packed_bytes(count, bits)} bytes, got {raw.size}"
        )
    rest = count * bits % 8
    if rest and int(raw[-1]) >> rest:
        raise FormatError("unused bits of the last byte must be zero")
    if bits == 1 and code != "int":
        values = np.unpackbits(raw, count=count, bitorder="little").view(np.int8)
        return values * np.int8(2) - np.int8(1) if code == "sign" else values
    if bits == 8 and code == "int":
        return raw.view(np.int8)
    out = np.empty(count, smallest(*limits(code, bits)))
    for start in range(0, count, _CHUNK):  # a chunk starts on a byte: _CHUNK is a multiple of 8
        stop = min(count, start + _CHUNK)
        piece = raw[start * bits // 8 : packed_bytes(stop, bits)]
        out[start:stop] = _values(piece, stop - start, bits, signed=code in ("int", "ternary"))
    if code == "ternary" and out.size and int(out.min()) < -1:
        raise FormatError("the bit pattern 10 is no ternary code")
    return out


def _values(piece: Array, count: int, bits: int, *, signed: bool) -> Array:
    """Values of one chunk: the sum of its bit planes, the top one negative when signed."""
    planes = np.unpackbits(piece, count=count * bits, bitorder="little").reshape(count, bits)
    wide = np.int16 if bits <= 8 else np.int64
    value = planes[:, bits - 1].astype(wide)
    if signed:
        value = -value
    for plane in range(bits - 2, -1, -1):
        value = (value << 1) | planes[:, plane]
    return value
