"""Event files against real recordings and made ones; event transforms."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import pytest

from picojoule.core.errors import DataError, ShapeError
from picojoule.data import events as ev
from picojoule.data.event_files import read_events
from picojoule.data.event_frames import EventFrames

DEV = os.environ.get("PICOJOULE_DATA")
needs_dev = pytest.mark.skipif(not DEV, reason="PICOJOULE_DATA is not set: the development data are absent")


def _rows(events: np.ndarray) -> np.ndarray:
    return np.stack([events[name].astype(np.int64) for name in ("t", "x", "y", "p")], 1)


@needs_dev
@pytest.mark.parametrize(
    ("file", "kept"),
    [("nmnist_sample.bin", "all"), ("ncars_sample.dat", "all"), ("gen3_vga_evt2.raw", "first")],
)
def test_real_files(file, kept):
    folder = Path(str(DEV)) / "event_formats"
    rows = _rows(read_events(folder / file))
    with np.load(folder / "expected.npz") as expected:
        first = expected[f"{Path(file).stem}__{kept}"]
        digest = expected[f"{Path(file).stem}__digest"]
    assert np.array_equal(rows[: len(first)], first)
    t = rows[:, 0]
    found = [len(rows), t[0], t[-1], *rows[:, 1:].sum(0), (t - t[0]).sum()]
    assert np.array_equal(found, digest)


# -- files made here ---------------------------------------------------------------------------------------


def _evt3(path: Path, words: list[int], header: bytes = b"% evt 3.0\n") -> np.ndarray:
    path.write_bytes(header + struct.pack(f"<{len(words)}H", *words))
    return _rows(read_events(path))


def test_evt3_words_and_vectors(tmp_path):
    rows = _evt3(
        tmp_path / "a.raw",
        [
            0x2000 | 5,  # before any time: left out
            0x8000 | 2,
            0x6000 | 7,
            0x0000 | 30,
            0x2000 | 0x800 | 100,
            0x3000 | 0x800 | 200,
            0x4000 | 0b100000000001,
            0x5000 | 0b10000010,
            0x6000 | 9,
            0x0000 | 31,
            0x4000 | 0b10,
            0xA000,  # trigger
            0x3000 | 10,
            0x5000 | 1,
        ],
    )
    t = 2 * 4096
    assert rows.tolist() == [
        [t + 7, 100, 30, 1],
        [t + 7, 200, 30, 1],
        [t + 7, 211, 30, 1],
        [t + 7, 213, 30, 1],
        [t + 7, 219, 30, 1],
        [t + 9, 221, 31, 1],
        [t + 9, 10, 31, 0],
    ]


def test_evt3_time_restarts_after_2_to_24_us_and_may_step_back(tmp_path):
    rows = _evt3(
        tmp_path / "a.raw",
        [0x8FFF, 0x6FFF, 0x2001, 0x6FF0, 0x2002, 0x8000, 0x6003, 0x2003],
        b"% format EVT3;height=720;width=1280\n% end\n",
    )
    assert rows[:, 0].tolist() == [(1 << 24) - 1, (1 << 24) - 16, (1 << 24) + 3]


def test_evt3_against_a_plain_state_machine(tmp_path):
    rng = np.random.default_rng(0)
    kinds = rng.choice([0, 2, 3, 4, 5, 6, 8, 10], 3000, p=[0.1, 0.2, 0.1, 0.2, 0.2, 0.1, 0.05, 0.05])
    high, words = 0, []
    for kind in kinds:
        value = int(rng.integers(64)) if kind == 5 else int(rng.integers(4096))
        if kind == 3:
            value &= 0x800 | 1023
        if kind == 8:
            high += 1
            value = high & 0xFFF
        words.append(int(kind) << 12 | value)
    expected, low, y, base, p_base, high = [], 0, 0, 0, 0, None
    for word in words:
        kind, value = word >> 12, word & 0xFFF
        if kind == 0:
            y = value & 0x7FF
        elif kind == 3:
            base, p_base = value & 0x7FF, value >> 11
        elif kind == 6:
            low = value
        elif kind == 8:
            high = value
        if kind in (4, 5):
            width = 12 if kind == 4 else 8
            for bit in range(width):
                if value >> bit & 1 and high is not None:
                    expected.append([high << 12 | low, base + bit, y, p_base])
            base += width
        elif kind == 2 and high is not None:
            expected.append([high << 12 | low, value & 0x7FF, y, value >> 11])
    assert _evt3(tmp_path / "a.raw", words).tolist() == expected


def test_evt2_time_restarts(tmp_path):
    high = (1 << 28) - 1
    words = [8 << 28 | high, 1 << 28 | 3 << 22 | 5 << 11 | 6, 8 << 28, 0 << 28 | 1 << 22 | 7 << 11 | 8]
    path = tmp_path / "a.raw"
    path.write_bytes(b"% evt 2.0\n" + struct.pack("<4I", *words))
    assert _rows(read_events(path)).tolist() == [[high * 64 + 3, 5, 6, 1], [(1 << 34) + 1, 7, 8, 0]]


def test_aedat_2(tmp_path):
    path = tmp_path / "a.aedat"
    body = struct.pack(">4I", 1 | 10 << 1 | 20 << 8, 1000, 0 | 127 << 1 | 5 << 8, 2000)
    path.write_bytes(b"#!AER-DAT2.0\r\n# comment\r\n" + body)
    assert _rows(read_events(path)).tolist() == [[1000, 117, 20, 1], [2000, 0, 5, 0]]


def test_aedat_3(tmp_path):
    def packet(kind, overflow, pairs):
        return struct.pack("<2H6I", kind, 1, 8, 4, overflow, len(pairs), len(pairs), len(pairs)) + b"".join(
            struct.pack("<2I", *pair) for pair in pairs
        )

    event = 9 << 17 | 4 << 2 | 1 << 1 | 1
    path = tmp_path / "a.aedat"
    path.write_bytes(
        b"#!AER-DAT3.1\r\n#!END-HEADER\r\n"
        + packet(1, 0, [(event, 50), (event & ~1, 60)])
        + packet(2, 0, [(7, 7)])
        + packet(1, 1, [(event & ~2, 70)])
    )
    assert _rows(read_events(path)).tolist() == [[50, 9, 4, 1], [(1 << 31) + 70, 9, 4, 0]]
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(DataError, match="does not fit"):
        read_events(path)


def test_event_stream_2(tmp_path):
    path = tmp_path / "a.es"
    head = b"Event Stream" + bytes([2, 0, 0, 1]) + struct.pack("<2H", 640, 480)
    path.write_bytes(
        head + struct.pack("<BHH", 3 << 1 | 1, 600, 2) + b"\xfe\xff" + struct.pack("<BHH", 5 << 1, 1, 400)
    )
    assert _rows(read_events(path)).tolist() == [[3, 600, 2, 1], [3 + 254 + 5, 1, 400, 0]]
    path.write_bytes(head + b"\x02\x00")
    with pytest.raises(DataError, match="cut inside"):
        read_events(path)


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("a.bin", b"\x00" * 7, "whole words of 5 bytes"),
        ("a.raw", b"% evt 2.0\n\x00", "whole words of 4 bytes"),
        ("a.raw", b"% evt 2.1\n", "EVT 2.1"),
        ("a.raw", b"% nothing\n", "no EVT version"),
        ("a.dat", b"% x\n\x0c\x04", "8-byte events"),
        ("a.aedat", b"#!AER-DAT4.0\r\n", "not an AEDAT version"),
        ("a.es", b"Event Stream", "not an Event Stream"),
        ("a.txt", b"", "no reader"),
    ],
)
def test_bad_files(tmp_path, name, content, match):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=match):
        read_events(path)


@pytest.mark.parametrize("name", ["a.bin", "a.raw"])
def test_files_without_events(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"% evt 2.0\n" if name == "a.raw" else b"")
    assert len(read_events(path)) == 0


def test_an_absent_file(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read_events(tmp_path / "a.dat")


# -- frames --------------------------------------------------------------------------------------------------

SIZE = (6, 9)


def _some(n: int = 500, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return ev.make_events(
        np.sort(rng.integers(100, 9000, n)),
        rng.integers(9, size=n),
        rng.integers(6, size=n),
        rng.integers(2, size=n),
    )


@pytest.mark.parametrize("by", ["time", "count"])
@pytest.mark.parametrize("steps", [1, 3, 7])
def test_frames_count_every_event_once(by, steps):
    events = _some()
    frames = ev.frames(events, steps, SIZE, by=by)
    assert frames.shape == (steps, 2, *SIZE)
    assert frames.dtype == np.uint8
    expected = np.zeros_like(frames, dtype=int)
    first, last = events["t"][0], events["t"][-1]
    for i, (t, x, y, p) in enumerate(_rows(events)):
        step = (t - first) * steps // (last - first + 1) if by == "time" else i * steps // len(events)
        expected[step, p, y, x] += 1
    assert np.array_equal(frames, expected)
    if by == "count":
        totals = frames.sum((1, 2, 3), dtype=int)
        assert totals.max() - totals.min() <= 1


def test_frames_at_the_edges():
    assert not ev.frames(_some(0), 3, SIZE).any()
    one = ev.make_events(*np.array([[5], [0], [0], [1]]))
    assert ev.frames(one, 4, SIZE).sum() == 1
    many = ev.make_events(*np.zeros((4, 300), int))
    assert ev.frames(many, 1, SIZE).max() == 255  # saturates, does not wrap
    with pytest.raises(DataError, match="outside"):
        ev.frames(_some(), 2, (6, 8))
    with pytest.raises(ShapeError, match="at least 1"):
        ev.frames(_some(), 0, SIZE)
    with pytest.raises(DataError, match="'time' or 'count'"):
        ev.frames(_some(), 2, SIZE, by="events")


def test_windows_have_a_fixed_duration():
    events = _some()
    frames = ev.windows(events, 1000, SIZE)
    t = events["t"] - events["t"][0]
    assert len(frames) == t.max() // 1000 + 1
    assert np.array_equal(frames.sum((1, 2, 3), dtype=int), np.bincount(t // 1000))
    assert ev.windows(_some(0), 1000, SIZE).shape == (0, 2, *SIZE)


# -- transforms ---------------------------------------------------------------------------------------


def test_crop_flip_and_polarity():
    events = _some()
    cut = ev.crop(events, (2, 1, 7, 5))
    inside = (events["x"] >= 2) & (events["x"] < 7) & (events["y"] >= 1) & (events["y"] < 5)
    assert np.array_equal(_rows(cut) + [0, 2, 1, 0], _rows(events[inside]))
    assert np.array_equal(ev.frames(ev.flip(events, 9), 3, SIZE), ev.frames(events, 3, SIZE)[..., ::-1])
    assert np.array_equal(ev.frames(ev.flip_polarity(events), 3, SIZE), ev.frames(events, 3, SIZE)[:, ::-1])
    for twice in (ev.flip(ev.flip(events, 9), 9), ev.flip_polarity(ev.flip_polarity(events))):
        assert np.array_equal(twice, events)
    part = ev.crop_time(events, 1000, 2000)
    assert part["t"].min() >= 0
    assert part["t"].max() < 1000
    assert len(part) == ((events["t"] >= 1000) & (events["t"] < 2000)).sum()


def test_random_crop_covers_every_window():
    events = _some(2000)
    rng = np.random.default_rng(0)
    sums = {len(ev.random_crop(events, SIZE, (5, 8), rng)) for _ in range(60)}
    expected = {len(ev.crop(events, (x, y, x + 8, y + 5))) for x in range(2) for y in range(2)}
    assert sums == expected


def test_noise_has_the_stated_rate_and_keeps_order():
    events = _some(200)
    size, rate = (40, 50), 100.0
    noisy = ev.add_noise(events, size, rate, np.random.default_rng(1))
    mean = rate * 40 * 50 * (events["t"][-1] - events["t"][0] + 1) * 1e-6
    assert abs(len(noisy) - len(events) - mean) < 4 * mean**0.5
    ev.check_events(noisy, size)
    assert np.isin(_rows(events).view("V32"), _rows(noisy).view("V32")).all()


def test_jitter_and_drop():
    events = _some(4000)
    moved = ev.jitter_time(events, 50.0, np.random.default_rng(2))
    ev.check_events(moved, SIZE)
    assert moved["t"].min() >= 0
    assert abs(moved["t"].mean() - events["t"].mean()) < 4 * 50 / 4000**0.5
    assert np.array_equal(ev.jitter_time(events, 0.0, np.random.default_rng(2)), events)
    kept = ev.drop(events, 0.25, np.random.default_rng(3))
    assert abs(len(kept) / 4000 - 0.75) < 4 * (0.1875 / 4000) ** 0.5


@pytest.mark.parametrize(
    "call",
    [
        lambda e, r: ev.random_crop(e, SIZE, (3, 4), r),
        lambda e, r: ev.add_noise(e, SIZE, 1000.0, r),
        lambda e, r: ev.jitter_time(e, 20.0, r),
        lambda e, r: ev.drop(e, 0.5, r),
        lambda e, r: ev.flip(e, 9, r),
        lambda e, r: ev.flip_polarity(e, r),
    ],
)
def test_seeded_transforms_repeat_and_leave_their_input_alone(call):
    events = _some()
    before = events.copy()
    first, again = (call(events, np.random.default_rng(7)) for _ in range(2))
    assert np.array_equal(first, again)
    assert np.array_equal(events, before)
    others = [call(events, np.random.default_rng(seed)) for seed in range(8)]
    assert any(len(o) != len(first) or not np.array_equal(o, first) for o in others)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda e, r: ev.crop(e, (3, 0, 3, 2)), "x0 < x1"),
        (lambda e, r: ev.random_crop(e, SIZE, (7, 2), r), "not larger"),
        (lambda e, r: ev.add_noise(e, SIZE, -1, r), "negative"),
        (lambda e, r: ev.jitter_time(e, -1, r), "negative"),
        (lambda e, r: ev.drop(e, 1.5, r), r"0\.\.1"),
        (lambda e, r: ev.flip(e, 5), "outside"),
        (lambda e, r: ev.windows(e, 0, SIZE), "at least 1"),
        (lambda e, r: ev.check_events(e[::-1]), "backwards"),
        (lambda e, r: ev.check_events(_rows(e)), "dtype"),
        (lambda e, r: ev.check_events(e, (2, 2)), "outside"),
    ],
)
def test_wrong_arguments(call, match):
    with pytest.raises(DataError, match=match):
        call(_some(), np.random.default_rng(0))


def test_wrong_polarity_is_refused():
    with pytest.raises(DataError, match="polarity"):
        ev.check_events(ev.make_events(*np.array([[0], [0], [0], [2]])))


def test_data_that_begin_with_the_header_mark(tmp_path):
    words = [8 << 28 | 0x25, 1 << 28 | 2 << 11 | 3]  # the first byte of the data is '%'
    path = tmp_path / "a.raw"
    path.write_bytes(b"% evt 2.0\n" + struct.pack("<2I", *words) + struct.pack("<I", 0 << 28 | 0x0A))
    assert _rows(read_events(path)).tolist() == [[0x25 * 64, 2, 3, 1], [0x25 * 64, 0, 10, 0]]


def test_event_frames_without_augmentation_are_the_frames():
    events = _some()
    plain = EventFrames(3, SIZE, by="count")(events, np.random.default_rng(0))
    assert np.array_equal(plain, ev.frames(events, 3, SIZE, by="count"))


@pytest.mark.parametrize(
    ("option", "changes_sum"),
    [
        ({"drop": 0.3}, True),
        ({"jitter_us": 500.0}, False),
        ({"noise_hz": 500.0}, True),
        ({"flip": True}, False),
        ({"flip_polarity": True}, False),
        ({"crop": (4, 5)}, True),
    ],
)
def test_each_augmentation_of_event_frames_acts_and_is_seeded(option, changes_sum):
    events, prepare = _some(), EventFrames(3, SIZE, **option)
    made = [prepare(events, np.random.default_rng(seed)) for seed in (0, 0, 1, 2, 3)]
    assert np.array_equal(made[0], made[1])
    assert any(not np.array_equal(made[0], other) for other in made[2:])
    assert made[0].shape == (3, 2, *option.get("crop", SIZE))
    assert (any(m.sum() != len(events) for m in made)) == changes_sum


@pytest.mark.parametrize("option", [{"steps": 0}, {"by": "events"}, {"drop": 1.0}, {"noise_hz": -1.0}])
def test_wrong_event_frames(option):
    with pytest.raises((DataError, ShapeError)):
        EventFrames(**{"steps": 3, "size": SIZE, **option})


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("a.bin", b""),
        ("a.raw", b"% evt 2.0\n"),
        ("a.raw", b"% evt 3.0\n"),
        ("a.raw", b""),
        ("a.dat", b"% x\n\x0c\x08"),
        ("a.dat", b""),
        ("a.aedat", b"#!AER-DAT2.0\r\n"),
        ("a.aedat", b"#!AER-DAT3.1\r\n\x01\x00\x01\x00\x08\x00\x00\x00"),
        ("a.es", b"Event Stream\x02\x00\x00\x01"),
    ],
)
def test_random_bytes_give_events_or_a_data_error(tmp_path, name, head):
    rng = np.random.default_rng(0)
    path, good = tmp_path / name, 0
    for size in range(120):
        path.write_bytes(head + rng.bytes(size))
        try:
            events = read_events(path)
        except DataError:
            continue
        good += 1
        assert events.dtype == ev.EVENT
        assert not len(events) or events["p"].max() <= 1
    assert good or not head or b"3.1" in head


def test_coordinates_that_do_not_fit_are_refused():
    zero = np.zeros(1, np.int64)
    for bad in (zero - 1, zero + 70000):
        with pytest.raises(DataError, match="must lie in"):
            ev.make_events(zero, bad, zero, zero)


def test_evt3_vectors_that_run_off_the_sensor_are_refused(tmp_path):
    with pytest.raises(DataError, match="x must lie in"):
        _evt3(tmp_path / "a.raw", [0x8000, 0x3000] + [0x4FFF] * 6000)
