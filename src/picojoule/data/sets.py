"""The three sorts of data sets: arrays (images, frames, features), event recordings, sound recordings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from picojoule.core.errors import DataError
from picojoule.data.splitting import stratified_split

VAL_FRACTION = 0.1
VAL_SEED = 2024


def check_labels(y: np.ndarray, classes: int, where: str) -> np.ndarray:
    """Labels as int64 [N], each in 0..classes-1.

    Raises:
        DataError: no sample at all, or a label out of range.
    """
    if len(y) == 0:
        raise DataError(f"{where} is empty; a split needs at least one sample")
    y = np.asarray(y).astype(np.int64)
    bad = np.flatnonzero((y < 0) | (y >= classes))
    if bad.size:
        raise DataError(
            f"{where}: label {int(y[bad[0]])} of sample {int(bad[0])} is out of range; "
            f"{classes} classes allow 0..{classes - 1} ({bad.size} labels are wrong)"
        )
    return y


@dataclass(frozen=True)
class Split:
    """Samples and labels of one part.

    Fields: `x` [N, ...] uint8; `y` [N] int64; `max_value` is the raw value that means 1.0; `index` [N] is the
    row in the order of the source, so that a sample keeps its number through every split.
    """

    x: np.ndarray
    y: np.ndarray
    name: str
    max_value: float = 255.0
    index: np.ndarray | None = None

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y):
            raise DataError(f"split {self.name!r} holds {len(self.x)} samples and {len(self.y)} labels")
        if len(self.y) == 0:
            raise DataError(f"split {self.name!r} is empty; a split needs at least one sample")

    def __len__(self) -> int:
        return len(self.y)

    def take(self, rows: np.ndarray, name: str | None = None) -> Split:
        """The chosen rows as a split of their own."""
        rows = np.asarray(rows)
        index = rows if self.index is None else self.index[rows]
        return replace(self, x=self.x[rows], y=self.y[rows], name=name or self.name, index=index)

    def head(self, count: int) -> Split:
        """The first `count` samples (all when there are fewer)."""
        return self.take(np.arange(min(count, len(self))))


class Slices(Sequence[np.ndarray]):
    """Recordings of varied length kept in one flat array: item i is flat[offsets[i]:offsets[i+1]]."""

    def __init__(self, flat: np.ndarray, offsets: np.ndarray) -> None:
        self.flat, self.offsets = flat, offsets

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, i: Any) -> Any:
        return self.flat[self.offsets[i] : self.offsets[i + 1]]


class Files(Sequence[np.ndarray]):
    """Recordings kept in files, each read when it is asked for."""

    def __init__(self, paths: Sequence[Path], read: Callable[[Path], np.ndarray]) -> None:
        self.paths, self.read = list(paths), read

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: Any) -> Any:
        return self.read(self.paths[i])


@dataclass(frozen=True)
class Recordings:
    """Recordings of varied length with their labels: `recordings[i]` is an array, `y` [N] int64."""

    items: Sequence[np.ndarray]
    y: np.ndarray
    name: str
    rows: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))

    def __post_init__(self) -> None:
        if len(self.y) == 0:
            raise DataError(f"split {self.name!r} is empty; a split needs at least one recording")
        if not len(self.rows):
            object.__setattr__(self, "rows", np.arange(len(self.y)))

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, i: int) -> np.ndarray:
        return self.items[int(self.rows[i])]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[i] for i in range(len(self)))

    def take(self, rows: np.ndarray, name: str | None = None) -> Recordings:
        """The chosen recordings as a split of their own."""
        return Recordings(self.items, self.y[rows], name or self.name, self.rows[rows])


class Parts(NamedTuple):
    """What a reader returns: training and test arrays of a set; `x` is [N, ...]."""

    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray


class Records(NamedTuple):
    """What a reader of recordings returns."""

    train: Sequence[np.ndarray]
    train_y: np.ndarray
    test: Sequence[np.ndarray]
    test_y: np.ndarray


S = TypeVar("S", Split, Recordings)


@dataclass(frozen=True)
class DataSet:
    """What every data set says about itself.

    Fields: `part` is the name to print beside any figure (a part is not the whole set); `classes` are the
    names in label order; `shape` is that of one sample; `source` and `licence` as stated by the authors.
    The validation split is a fixed tenth of the training samples, stratified by class; the test split chooses
    nothing.
    """

    name: str
    part: str
    classes: tuple[str, ...]
    shape: tuple[int, ...]
    source: str
    licence: str
    val_fraction: float = field(default=VAL_FRACTION, kw_only=True)

    def _divide(self, whole: S) -> tuple[S, S]:
        kept, held = stratified_split(whole.y, self.val_fraction, VAL_SEED)
        return whole.take(kept, "train"), whole.take(held, "val")

    def _labels(self, y: np.ndarray, split: str) -> np.ndarray:
        return check_labels(y, len(self.classes), f"{self.part}, {split} split")


@dataclass(frozen=True)
class ImageSet(DataSet):
    """Images [N, C, H, W], frames [N, T, 2, H, W] or features [N, T, F], as uint8, read at first use.

    Fields: `read` returns the arrays; `max_value` is the raw value that means 1.0; `steps` is T of a sequence
    and None for a still image.
    """

    read: Callable[[], Parts] = field(repr=False)
    max_value: float = 255.0
    steps: int | None = None

    @cached_property
    def _parts(self) -> tuple[Split, Split]:
        parts = self.read()
        splits = []
        for x, y, name in ((parts.train_x, parts.train_y, "train"), (parts.test_x, parts.test_y, "test")):
            if x.shape[1:] != self.shape:
                raise DataError(f"{self.part}, {name}: samples of shape {x.shape[1:]}, expected {self.shape}")
            split = Split(x, self._labels(y, name), name, self.max_value)
            splits.append(replace(split, index=np.arange(len(split))))
        return splits[0], splits[1]

    @cached_property
    def _divided(self) -> tuple[Split, Split]:
        return self._divide(self.trainval)

    @property
    def trainval(self) -> Split:
        """Training and validation samples together, in the order of the source."""
        return self._parts[0]

    @property
    def train(self) -> Split:
        """Training samples, without the validation part."""
        return self._divided[0]

    @property
    def val(self) -> Split:
        """Validation samples, taken out of the training part."""
        return self._divided[1]

    @property
    def test(self) -> Split:
        """Test samples; they choose nothing."""
        return self._parts[1]

    @cached_property
    def statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and deviation per channel [C] of the training split, in units of x / max_value.

        The channel axis is the first of an image, the second of a sequence; a channel that never changes gets
        deviation 1.
        """
        x = self.train.x
        axis = 1 if self.steps is None else 2
        others = tuple(i for i in range(x.ndim) if i != axis)
        # Counting the 256 values of each channel is exact and needs no floating-point copy of the set.
        channels = np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1)
        counts = np.stack([np.bincount(c, minlength=256) for c in channels]).astype(np.float64)
        values, total = np.arange(counts.shape[1]) / self.max_value, np.prod([x.shape[i] for i in others])
        mean = counts @ values / total
        std = np.sqrt(np.maximum(counts @ values**2 / total - mean**2, 0.0))
        return mean, np.where(std > 0, std, 1.0)


@dataclass(frozen=True)
class RecordingSet(DataSet):
    """Base of sets whose samples are recordings of varied length."""

    read: Callable[[], Records] = field(repr=False)

    @cached_property
    def _parts(self) -> tuple[Recordings, Recordings]:
        got = self.read()
        return (
            Recordings(got.train, self._labels(got.train_y, "train"), "train"),
            Recordings(got.test, self._labels(got.test_y, "test"), "test"),
        )

    @cached_property
    def _divided(self) -> tuple[Recordings, Recordings]:
        return self._divide(self.trainval)

    @property
    def trainval(self) -> Recordings:
        """Training and validation recordings together."""
        return self._parts[0]

    @property
    def train(self) -> Recordings:
        """Training recordings, without the validation part."""
        return self._divided[0]

    @property
    def val(self) -> Recordings:
        """Validation recordings, taken out of the training part."""
        return self._divided[1]

    @property
    def test(self) -> Recordings:
        """Test recordings; they choose nothing."""
        return self._parts[1]

    def _as_arrays(self, one: Callable[[np.ndarray], np.ndarray]) -> Parts:
        """Apply a function to every recording and stack the results."""
        train, test = self._parts
        return Parts(np.stack([one(r) for r in train]), train.y, np.stack([one(r) for r in test]), test.y)


@dataclass(frozen=True)
class EventSet(RecordingSet):
    """Event-camera recordings: structured arrays (t in us, x, y, p in {0, 1}); `shape` is (H, W)."""

    def frames(self, steps: int, by: str = "time") -> ImageSet:
        """Event counts per frame [N, steps, 2, H, W] uint8 (at most 255), OFF events first.

        Args:
            steps: frames a recording, T.
            by: "time" cuts a recording into equal times, "count" into equal numbers of events.
        """
        from picojoule.data.events import frames

        def read() -> Parts:
            return self._as_arrays(lambda events: frames(events, steps, self.shape, by=by))

        return ImageSet(
            self.name,
            f"{self.part}, {steps} frames by {by}",
            self.classes,
            (steps, 2, *self.shape),
            self.source,
            self.licence,
            read,
            max_value=1.0,
            steps=steps,
            val_fraction=self.val_fraction,
        )


@dataclass(frozen=True)
class AudioSet(RecordingSet):
    """Sound recordings: int16 samples at `rate_hz`; `shape` is () because lengths vary."""

    rate_hz: int = 8000

    def features(self, steps: int = 12, bands: int = 24) -> ImageSet:
        """Log band energies [N, steps, bands] uint8; each band's range comes from the training split.

        See `picojoule.data.audio.log_bands`.
        """
        from picojoule.data.audio import log_bands, quantise_bands

        def read() -> Parts:
            raw = self._as_arrays(lambda sound: log_bands(sound, self.rate_hz, steps, bands))
            kept, _ = stratified_split(raw.train_y, self.val_fraction, VAL_SEED)
            fitted = raw.train_x[kept]
            return raw._replace(
                train_x=quantise_bands(raw.train_x, fitted), test_x=quantise_bands(raw.test_x, fitted)
            )

        return ImageSet(
            self.name,
            f"{self.part}, {bands} log bands x {steps} steps",
            self.classes,
            (steps, bands),
            self.source,
            self.licence,
            read,
            steps=steps,
            val_fraction=self.val_fraction,
        )
