"""Bit packing: the layout of docs/format.md, round trips, and patterns that are refused."""

from __future__ import annotations

import numpy as np
import pytest

from picojoule.core.errors import FormatError, PackError
from picojoule.deploy import bits

CASES = [
    ("sign", 1),
    ("bool", 1),
    ("ternary", 2),
    *(("int", b) for b in range(1, 33)),
    *(("index", b) for b in range(1, 33)),
]


def draw(code: str, width: int, count: int) -> np.ndarray:
    rng = np.random.default_rng(width)
    if code == "sign":
        return rng.choice(np.array([-1, 1]), count)
    low, high = bits.limits(code, width)
    values = rng.integers(low, high, count, endpoint=True)
    values[: min(2, count)] = [low, high][: min(2, count)]
    return values


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 31, 257])
@pytest.mark.parametrize(("code", "width"), CASES)
def test_round_trip_and_layout(code: str, width: int, count: int) -> None:
    values = draw(code, width, count)
    raw = bits.pack(values, code, width)
    assert raw.dtype == np.uint8
    assert raw.size == bits.packed_bytes(count, width) == -(-count * width // 8)
    # value i is bits i*b .. i*b+b-1 of the little-endian stream
    stream = int.from_bytes(raw.tobytes(), "little")
    for i in (0, count // 2, count - 1):
        field = (stream >> (i * width)) & ((1 << width) - 1)
        expected = int(values[i] > 0) if code == "sign" else int(values[i]) % (1 << width)
        assert field == expected
    np.testing.assert_array_equal(bits.unpack(raw, count, code, width), values)


def test_chunks_join() -> None:
    """Longer than one chunk of the unpacker, at a width that does not divide a byte."""
    values = np.random.default_rng(0).integers(-4, 4, (1 << 18) + 5)
    np.testing.assert_array_equal(bits.unpack(bits.pack(values, "int", 3), values.size, "int", 3), values)


@pytest.mark.parametrize(("code", "width"), [c for c in CASES if c[1] <= 8])
def test_narrow_type(code: str, width: int) -> None:
    values = bits.unpack(bits.pack(draw(code, width, 9), code, width), 9, code, width)
    assert values.dtype == (np.int16 if (code, width) == ("index", 8) else np.int8)


@pytest.mark.parametrize(
    ("values", "code", "width"),
    [([0], "sign", 1), ([2], "ternary", 2), ([2], "bool", 1), ([4], "int", 3), ([-1], "index", 3)],
)
def test_values_that_are_no_codes(values: list[int], code: str, width: int) -> None:
    with pytest.raises(PackError, match=f"{width}-bit {code}"):
        bits.pack(np.array(values), code, width)


def test_refused_patterns() -> None:
    with pytest.raises(FormatError, match="10 is no ternary"):
        bits.unpack(np.array([0b10], np.uint8), 1, "ternary", 2)
    with pytest.raises(FormatError, match="unused bits"):
        bits.unpack(np.array([0b1000], np.uint8), 3, "sign", 1)
    with pytest.raises(FormatError, match="take 2 bytes, got 1"):
        bits.unpack(np.zeros(1, np.uint8), 9, "sign", 1)
