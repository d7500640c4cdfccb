"""From a recording to augmented frames: the `prepare` of a loader over event recordings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from picojoule.core.errors import DataError, ShapeError
from picojoule.data import events as ev


@dataclass(frozen=True)
class EventFrames:
    """Augments a recording and counts it into frames; call it with (events, generator).

        loader(events.train, 32, train=True, prepare=EventFrames(4, events.shape, flip=False, noise_hz=1.0))

    Fields, in the order in which they act:
        steps, size: frames T, and the sensor (H, W).
        by: "time" or "count"; see `events.frames`.
        drop: probability with which each event is lost.
        jitter_us: deviation of the time jitter, in microseconds.
        noise_hz: background events a second and pixel.
        flip: mirror half of the recordings left and right.
        flip_polarity: exchange ON and OFF in half of the recordings.
        crop: (H, W) of a random window; None keeps the sensor.
    """

    steps: int
    size: tuple[int, ...]
    by: str = "time"
    drop: float = 0.0
    jitter_us: float = 0.0
    noise_hz: float = 0.0
    flip: bool = False
    flip_polarity: bool = False
    crop: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.steps < 1 or len(self.size) != 2:
            raise ShapeError(f"steps >= 1 and size (H, W) are needed, got {self.steps} and {self.size}")
        if self.by not in ("time", "count"):
            raise DataError(f"by must be 'time' or 'count', got {self.by!r}")
        if not 0.0 <= self.drop < 1.0 or self.jitter_us < 0 or self.noise_hz < 0:
            raise DataError("drop lies in [0, 1); jitter_us and noise_hz are not negative")

    def __call__(self, events: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Events [N] -> counts [T, 2, H, W] uint8."""
        size = (self.size[0], self.size[1])
        if self.drop:
            events = ev.drop(events, self.drop, rng)
        if self.jitter_us:
            events = ev.jitter_time(events, self.jitter_us, rng)
        if self.noise_hz:
            events = ev.add_noise(events, size, self.noise_hz, rng)
        if self.flip:
            events = ev.flip(events, size[1], rng)
        if self.flip_polarity:
            events = ev.flip_polarity(events, rng)
        if self.crop is not None:
            events, size = ev.random_crop(events, size, self.crop, rng), self.crop
        return ev.frames(events, self.steps, size, by=self.by)
