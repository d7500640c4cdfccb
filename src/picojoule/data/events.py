"""Event streams as structured arrays, their frames and their augmentation; NumPy only.

An event is (t, x, y, p): t in microseconds, x and y in pixels from the upper left, p = 1 for ON and 0 for
OFF. Every function returns a new array; randomness comes from a `numpy.random.Generator` that the caller
seeds.
"""

from __future__ import annotations

import numpy as np

from picojoule.core.errors import DataError, ShapeError

EVENT = np.dtype([("t", "<i8"), ("x", "<u2"), ("y", "<u2"), ("p", "u1")])


def make_events(t: np.ndarray, x: np.ndarray, y: np.ndarray, p: np.ndarray) -> np.ndarray:
    """A structured array of events [N] from its four columns.

    Raises:
        DataError: a coordinate or a polarity that does not fit, which a cast would silently wrap.
    """
    for name, column, most in (("x", x, 0xFFFF), ("y", y, 0xFFFF), ("p", p, 0xFF)):
        if len(column) and not 0 <= int(column.min()) <= int(column.max()) <= most:
            raise DataError(f"{name} must lie in 0..{most}, got {int(column.min())}..{int(column.max())}")
    events = np.empty(len(t), EVENT)
    events["t"], events["x"], events["y"], events["p"] = t, x, y, p
    return events


def check_events(events: np.ndarray, size: tuple[int, int] | None = None) -> np.ndarray:
    """The events themselves when they are well formed.

    Raises:
        DataError: another dtype, times that run backwards, p outside {0, 1}, or a pixel outside `size` = (H,
        W).
    """
    if events.dtype != EVENT or events.ndim != 1:
        raise DataError(f"events are arrays [N] of dtype {EVENT}, got {events.dtype} with {events.ndim} axes")
    if np.any(np.diff(events["t"]) < 0):
        raise DataError("times run backwards; sort with events[np.argsort(events['t'], kind='stable')]")
    if np.any(events["p"] > 1):
        raise DataError(f"polarity must be 0 or 1, got {int(events['p'].max())}")
    if size is not None:
        check_pixels(events, size)
    return events


def check_pixels(events: np.ndarray, size: tuple[int, ...]) -> None:
    """Raise DataError when an event lies outside a sensor of (H, W) pixels."""
    height, width = size
    if len(events) and (events["x"].max() >= width or events["y"].max() >= height):
        raise DataError(
            f"events reach x={int(events['x'].max())}, y={int(events['y'].max())}, outside "
            f"the sensor of {width} x {height} pixels; crop the events or give the true size (H, W)"
        )


def frames(events: np.ndarray, steps: int, size: tuple[int, ...], *, by: str = "time") -> np.ndarray:
    """Event counts per frame.

        by="time":  frame(e) = floor((t_e - t_0) * steps / (t_last - t_0 + 1))
        by="count": frame(e) = floor(i_e * steps / N), i_e the position of the event in the stream

    Args:
        events: a recording [N], in the order of time.
        steps: number of frames T.
        size: sensor (H, W) in pixels.
        by: "time" for frames of equal duration, "count" for frames of equal numbers of events.
    Returns:
        counts [T, 2, H, W] uint8, OFF events in channel 0, ON events in channel 1; more than 255 count as
        255.
    Raises:
        ShapeError: steps < 1.
        DataError: an event outside the sensor, or an unknown `by`.
    """
    if steps < 1:
        raise ShapeError(f"steps must be at least 1, got {steps}")
    if by not in ("time", "count"):
        raise DataError(f"by must be 'time' or 'count', got {by!r}")
    check_pixels(events, size)
    height, width = size
    if len(events) == 0:
        return np.zeros((steps, 2, height, width), np.uint8)
    if by == "time":
        t = events["t"] - events["t"].min()
        step = t * steps // (t.max() + 1)
    else:
        step = np.arange(len(events)) * steps // len(events)
    cell = ((step * 2 + events["p"]) * height + events["y"]) * width + events["x"]
    counts = np.bincount(cell.astype(np.int64), minlength=steps * 2 * height * width)
    return np.minimum(counts, 255).astype(np.uint8).reshape(steps, 2, height, width)


def windows(events: np.ndarray, window_us: int, size: tuple[int, int]) -> np.ndarray:
    """Frames of a fixed duration [T, 2, H, W], T = floor((t_last - t_0) / window_us) + 1."""
    if window_us < 1:
        raise DataError(f"window_us must be at least 1 microsecond, got {window_us}")
    if len(events) == 0:
        return np.zeros((0, 2, *size), np.uint8)
    check_pixels(events, size)
    step = (events["t"] - events["t"].min()) // window_us
    total, height, width = int(step.max()) + 1, *size
    cell = ((step * 2 + events["p"]) * height + events["y"]) * width + events["x"]
    counts = np.bincount(cell, minlength=total * 2 * height * width)
    return np.minimum(counts, 255).astype(np.uint8).reshape(total, 2, height, width)


def crop(events: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    """Events inside `box` = (x0, y0, x1, y1), ends excluded, with coordinates counted from its corner."""
    x0, y0, x1, y1 = box
    if not (0 <= x0 < x1 and 0 <= y0 < y1):
        raise DataError(f"a box is (x0, y0, x1, y1) with 0 <= x0 < x1 and 0 <= y0 < y1, got {box}")
    inside = (events["x"] >= x0) & (events["x"] < x1) & (events["y"] >= y0) & (events["y"] < y1)
    kept = events[inside]
    kept["x"] -= x0
    kept["y"] -= y0
    return kept


def random_crop(
    events: np.ndarray, size: tuple[int, int], target: tuple[int, int], rng: np.random.Generator
) -> np.ndarray:
    """A random window of (H, W) = `target` pixels out of a sensor of `size`."""
    if target[0] > size[0] or target[1] > size[1]:
        raise DataError(f"cannot crop {target} out of a sensor of {size}; give a target that is not larger")
    y0 = int(rng.integers(size[0] - target[0] + 1))
    x0 = int(rng.integers(size[1] - target[1] + 1))
    return crop(events, (x0, y0, x0 + target[1], y0 + target[0]))


def crop_time(events: np.ndarray, start_us: int, stop_us: int) -> np.ndarray:
    """Events with start_us <= t < stop_us, with times counted from start_us."""
    kept = events[(events["t"] >= start_us) & (events["t"] < stop_us)]
    kept["t"] -= start_us
    return kept


def flip(
    events: np.ndarray, width: int, rng: np.random.Generator | None = None, p: float = 0.5
) -> np.ndarray:
    """Mirror left and right: x -> width - 1 - x; with a generator only with probability `p`."""
    if rng is not None and rng.random() >= p:
        return events.copy()
    check_pixels(events, (1 << 16, width))
    flipped = events.copy()
    flipped["x"] = width - 1 - events["x"]
    return flipped


def flip_polarity(events: np.ndarray, rng: np.random.Generator | None = None, p: float = 0.5) -> np.ndarray:
    """Exchange ON and OFF: p -> 1 - p; with a generator only with probability `p`."""
    flipped = events.copy()
    if rng is None or rng.random() < p:
        flipped["p"] = 1 - events["p"]
    return flipped


def add_noise(
    events: np.ndarray, size: tuple[int, int], rate_hz: float, rng: np.random.Generator
) -> np.ndarray:
    """Add background activity: a Poisson process of `rate_hz` events a second in every pixel.

    N ~ Poisson(rate_hz * H * W * duration), each event uniform in time, pixel and polarity
    """
    if rate_hz < 0:
        raise DataError(f"rate_hz must not be negative, got {rate_hz}")
    if len(events) == 0:
        return events.copy()
    first, last = int(events["t"].min()), int(events["t"].max())
    count = int(rng.poisson(rate_hz * size[0] * size[1] * (last - first + 1) * 1e-6))
    noise = make_events(
        rng.integers(first, last + 1, count),
        rng.integers(size[1], size=count),
        rng.integers(size[0], size=count),
        rng.integers(2, size=count),
    )
    return _sorted(np.concatenate([events, noise]))


def drop(events: np.ndarray, probability: float, rng: np.random.Generator) -> np.ndarray:
    """Drop each event with a probability in [0, 1]."""
    if not 0.0 <= probability <= 1.0:
        raise DataError(f"probability must lie in 0..1, got {probability}")
    return events[rng.random(len(events)) >= probability]


def jitter_time(events: np.ndarray, std_us: float, rng: np.random.Generator) -> np.ndarray:
    """Shift each time by a normal deviate of `std_us` microseconds, never below 0, and restore the order."""
    if std_us < 0:
        raise DataError(f"std_us must not be negative, got {std_us}")
    moved = events.copy()
    moved["t"] = np.maximum(0, events["t"] + np.rint(rng.normal(0.0, std_us, len(events))).astype(np.int64))
    return _sorted(moved)


def _sorted(events: np.ndarray) -> np.ndarray:
    return events[np.argsort(events["t"], kind="stable")]
