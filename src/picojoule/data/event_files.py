"""Readers of event-camera files: N-MNIST, EVT 2.0, EVT 3.0, DAT, AEDAT 2.0 and 3.1, Event Stream 2.

Every reader returns events (t in microseconds, x, y, p) in the order of the file, times unwrapped.
All numbers are little-endian unless a reader says otherwise.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from picojoule.core.errors import DataError, suggest
from picojoule.data.events import make_events

PathLike = str | os.PathLike[str]


def _words(raw: bytes, dtype: str, path: PathLike) -> np.ndarray:
    """The bytes as whole numbers; a cut file is an error and not a silently shorter recording."""
    size = np.dtype(dtype).itemsize
    if len(raw) % size:
        raise DataError(
            f"{path}: {len(raw)} bytes of events are not whole words of {size} bytes; the file is cut"
        )
    return np.frombuffer(raw, dtype)


def _header(raw: bytes, mark: bytes) -> tuple[list[str], int]:
    """Text lines that start with `mark`, and where the data begins."""
    lines, at = [], 0
    while raw[at : at + 1] == mark:
        end = raw.find(b"\n", at)
        # Data may begin with the mark by chance; a header line holds printable characters only.
        if end < 0 or not raw[at:end].strip().decode("latin-1").isprintable():
            break
        lines.append(raw[at:end].decode("latin-1").strip())
        at = end + 1
        if lines[-1] == "% end":
            break
    return lines, at


def _last(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """For each position the value at the last position where `known` holds; 0 before the first."""
    position = np.where(known, np.arange(len(values)), -1)
    last = np.maximum.accumulate(position)
    return np.where(last >= 0, values[np.maximum(last, 0)], 0)


def _unwrap(counter: np.ndarray, period: int) -> np.ndarray:
    """A counter that restarts at `period`, made to go on; a fall by more than half a period is a restart."""
    counter = counter.astype(np.int64)
    restarts = np.diff(counter, prepend=counter[:1]) < -(period // 2)
    return counter + np.cumsum(restarts) * period


def read_nmnist(path: PathLike) -> np.ndarray:
    """N-MNIST and N-Caltech101: 5 bytes an event: x, y, 1 bit p, 23 bits of time in us, big-endian."""
    rows = _words(Path(path).read_bytes(), "V5", path).view(np.uint8).reshape(-1, 5).astype(np.int64)
    t = ((rows[:, 2] & 0x7F) << 16) | (rows[:, 3] << 8) | rows[:, 4]
    return make_events(t, rows[:, 0], rows[:, 1], rows[:, 2] >> 7)


def read_evt2(path: PathLike) -> np.ndarray:
    """EVT 2.0: `%` lines, then 32-bit words.

    Bits 31-28 are the type: 0 / 1 = event OFF / ON with low time in bits 27-22, x in 21-11 and y in 10-0;
    8 = high time in bits 27-0, in units of 64 us. Events before the first high time have no time and are left
    out.
    """
    raw = Path(path).read_bytes()
    words = _words(raw[_header(raw, b"%")[1] :], "<u4", path)
    kind = words >> 28
    is_high = kind == 8
    high = np.zeros(len(words), np.int64)
    high[is_high] = _unwrap((words[is_high] & 0xFFFFFFF).astype(np.int64), 1 << 28)
    high = _last(high, is_high)
    event = (kind <= 1) & np.logical_or.accumulate(is_high)
    chosen = words[event]
    t = (high[event] << 6) | ((chosen >> 22) & 63)
    return make_events(t, (chosen >> 11) & 2047, chosen & 2047, kind[event])


def read_evt3(path: PathLike) -> np.ndarray:
    """EVT 3.0: `%` lines, then 16-bit words with the type in bits 15-12.

    0 = row y; 2 = one event at x with p in bit 11; 3 = base x with p in bit 11; 4 / 5 = 12 / 8 validity bits
    from base x, which then advances by 12 / 8; 6 = low 12 bits of time; 8 = high 12 bits. Time is high * 4096
    + low microseconds and restarts every 2^24 us. Files may repeat a low time slightly out of order; it is
    kept. Events before the first high time are left out.
    """
    raw = Path(path).read_bytes()
    words = _words(raw[_header(raw, b"%")[1] :], "<u2", path).astype(np.int64)
    kind, value = words >> 12, words & 0xFFF
    is_high = kind == 8
    high = np.zeros(len(words), np.int64)
    high[is_high] = _unwrap(value[is_high], 1 << 12)
    t = (_last(high, is_high) << 12) + _last(value, kind == 6)
    y = _last(value & 0x7FF, kind == 0)
    # Base x of a vector word: the last base plus what the vector words since then have advanced.
    advance = np.where(kind == 4, 12, 0) + np.where(kind == 5, 8, 0)
    before = np.cumsum(advance) - advance
    base = _last(value & 0x7FF, kind == 3) + before - _last(before, kind == 3)
    p_base = _last(value >> 11, kind == 3)
    timed = np.logical_or.accumulate(is_high)
    single = np.flatnonzero((kind == 2) & timed)
    vector = np.flatnonzero(((kind == 4) | (kind == 5)) & timed)
    mask = np.where(kind[vector] == 4, value[vector], value[vector] & 0xFF)
    row, bit = np.nonzero((mask[:, None] >> np.arange(12)) & 1)
    word = np.concatenate([single, vector[row]])
    x = np.concatenate([value[single] & 0x7FF, base[vector[row]] + bit])
    p = np.concatenate([value[single] >> 11, p_base[vector[row]]])
    order = np.argsort(word, kind="stable")
    word = word[order]
    return make_events(t[word], x[order], y[word], p[order])


def read_dat(path: PathLike) -> np.ndarray:
    """DAT: `%` lines, a byte event type, a byte event size (8), then pairs of 32-bit words.

    First word: time in us. Second: x in bits 13-0, y in 27-14, p in 28.
    """
    raw = Path(path).read_bytes()
    start = _header(raw, b"%")[1]
    if len(raw) < start + 2 or raw[start + 1] != 8:
        raise DataError(f"{path}: not a DAT file of 8-byte events")
    pairs = _words(raw[start + 2 :], "V8", path).view("<u4").reshape(-1, 2)
    word = pairs[:, 1]
    p = (word >> 28) & 1
    return make_events(_unwrap(pairs[:, 0], 1 << 32), word & 0x3FFF, (word >> 14) & 0x3FFF, p)


def read_aedat2(path: PathLike) -> np.ndarray:
    """AEDAT 2.0 of a DVS128: `#` lines, then big-endian pairs of 32-bit words, address and time in us.

    Address: p in bit 0 as stored, x in bits 7-1 counted from the right (mirrored here), y in bits 14-8.
    The layout is the published one; it was checked on files made for the tests only.
    """
    raw = Path(path).read_bytes()
    pairs = _words(raw[_header(raw, b"#")[1] :], "V8", path).view(">u4").reshape(-1, 2).astype(np.int64)
    address = pairs[:, 0]
    t = _unwrap(pairs[:, 1], 1 << 32)
    return make_events(t, 127 - ((address >> 1) & 127), (address >> 8) & 127, address & 1)


def read_aedat3(path: PathLike) -> np.ndarray:
    """AEDAT 3.1: `#` lines, then packets of one event type; polarity packets (type 1) are read.

    Packet header, 28 bytes: u16 type, u16 source; u32 event size, time offset, overflow, capacity, count,
    valid. Polarity event: u32 with x in bits 31-17, y in 16-2, p in 1, valid in 0; u32 time in us, to which
    the overflow counter adds 2^31. Invalid events are left out.
    The layout is the published one; it was checked on files made for the tests only.
    """
    raw = Path(path).read_bytes()
    lines, at = _header(raw, b"#")
    if not lines or "AER-DAT3" not in lines[0]:
        raise DataError(f"{path}: not an AEDAT 3 file (its first line is {lines[:1]})")
    packets = []
    while at < len(raw):
        if at + 28 > len(raw):
            raise DataError(f"{path}: cut inside the packet header at byte {at}")
        kind = int.from_bytes(raw[at : at + 2], "little")
        size, _, overflow, _, count, _ = (int(n) for n in np.frombuffer(raw, "<u4", 6, at + 4))
        stop = at + 28 + size * count
        if stop > len(raw) or (kind == 1 and size != 8):
            raise DataError(
                f"{path}: packet at byte {at} of {count} events of {size} bytes does not fit the file"
            )
        if kind == 1:
            pairs = np.frombuffer(raw, "<u4", 2 * count, at + 28).reshape(-1, 2).astype(np.int64)
            pairs = pairs[(pairs[:, 0] & 1) == 1]
            word = pairs[:, 0]
            t = pairs[:, 1] + (overflow << 31)
            packets.append(make_events(t, word >> 17, (word >> 2) & 0x7FFF, (word >> 1) & 1))
        at = stop
    return np.concatenate(packets) if packets else make_events(*np.zeros((4, 0), np.int64))


def read_es(path: PathLike) -> np.ndarray:
    """Event Stream 2 of a DVS: an event is one byte (time step << 1 | p), u16 x, u16 y.

    Header: `Event Stream`, three version bytes, a type byte (1 = DVS), u16 width, u16 height.
    A byte 0xFE or 0xFF stands alone and adds 127 us.
    """
    raw = Path(path).read_bytes()
    if raw[:12] != b"Event Stream" or len(raw) < 20 or raw[15] != 1:
        raise DataError(f"{path}: not an Event Stream 2 file of DVS events")
    at, t, rows = 20, 0, []
    while at < len(raw):
        first = raw[at]
        if first >= 0xFE:
            t, at = t + 127, at + 1
            continue
        if at + 5 > len(raw):
            raise DataError(f"{path}: cut inside the event at byte {at}")
        t += first >> 1
        rows.append((t, raw[at + 1] | raw[at + 2] << 8, raw[at + 3] | raw[at + 4] << 8, first & 1))
        at += 5
    return make_events(*np.array(rows, np.int64).reshape(-1, 4).T)


def _read_raw(path: PathLike) -> np.ndarray:
    """A .raw file by the version that its header names."""
    with Path(path).open("rb") as file:
        text = " ".join(_header(file.read(1 << 16), b"%")[0]).lower()
    if "evt 3" in text or "format evt3" in text:
        return read_evt3(path)
    if "evt 2.1" in text or "format evt21" in text:
        raise DataError(f"{path}: EVT 2.1 is not read; convert it to EVT 2.0, EVT 3.0 or DAT")
    if "evt 2" in text or "format evt2" in text:
        return read_evt2(path)
    raise DataError(f"{path}: the header names no EVT version; call read_evt2 or read_evt3 yourself")


def _read_aedat(path: PathLike) -> np.ndarray:
    with Path(path).open("rb") as file:
        first = file.readline(64).decode("latin-1")
    if "AER-DAT2" in first:
        return read_aedat2(path)
    if "AER-DAT3" in first:
        return read_aedat3(path)
    raise DataError(f"{path}: {first.strip()!r} is not an AEDAT version that is read (2.0 and 3.1 are)")


READERS: dict[str, Callable[[PathLike], np.ndarray]] = {
    ".bin": read_nmnist,
    ".raw": _read_raw,
    ".dat": read_dat,
    ".aedat": _read_aedat,
    ".es": read_es,
}


def read_events(path: PathLike) -> np.ndarray:
    """Events [N] of a file, by its suffix and header.

    Raises:
        DataError: absent, unknown suffix, or damaged.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in READERS:
        raise DataError(f"{path}: no reader for {suffix!r}; {suggest(suffix, READERS)}")
    if not Path(path).is_file():
        raise DataError(f"{path} does not exist")
    return READERS[suffix](path)
