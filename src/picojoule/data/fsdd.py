"""Free Spoken Digit Dataset: ten spoken digits at 8 kHz."""

from __future__ import annotations

import os
import wave
from pathlib import Path

import numpy as np

from picojoule.core.errors import DataError
from picojoule.data.places import absent, find, verify
from picojoule.data.sets import AudioSet, Files, Records, Slices

_PART = "audio_fsdd5_8k.npz"
_PART_SHA256 = "f32997c0ddea3121287f7a1f21289c22b51289629c66430bea15422320485718"
_HOW = (
    "clone github.com/Jakobovski/free-spoken-digit-dataset into the folder "
    "'free-spoken-digit-dataset' of one of these places"
)
_TEST_TAKES = 5


def read_wav(path: Path) -> np.ndarray:
    """Samples [n] int16 of a mono 16-bit PCM file.

    Raises:
        DataError: not such a file.
    """
    try:
        with wave.open(str(path), "rb") as file:
            if file.getnchannels() != 1 or file.getsampwidth() != 2:
                raise DataError(
                    f"{path}: {file.getnchannels()} channels of {8 * file.getsampwidth()} bits; "
                    "expected mono 16-bit PCM"
                )
            return np.frombuffer(file.readframes(file.getnframes()), "<i2")
    except (wave.Error, EOFError) as error:
        raise DataError(f"{path}: not a readable WAV file ({error})") from error


def _part(path: Path) -> Records:
    with np.load(verify(path, _PART_SHA256), allow_pickle=False) as file:
        items = Slices(file["audio"], file["offsets"])
        digit, is_test = file["digit"], file["is_test"]
    train, test = np.flatnonzero(~is_test), np.flatnonzero(is_test)
    return Records([items[i] for i in train], digit[train], [items[i] for i in test], digit[test])


def _files(folder: Path) -> Records:
    """Official split: takes 0 to 4 of every speaker and digit are the test part."""
    paths = sorted((folder / "recordings").glob("[0-9]_*_*.wav"))
    if not paths:
        raise DataError(f"{folder / 'recordings'} holds no <digit>_<speaker>_<take>.wav")
    test = [int(path.stem.rsplit("_", 1)[1]) < _TEST_TAKES for path in paths]
    got: list = []
    for wanted in (False, True):
        chosen = [path for path, is_test in zip(paths, test) if is_test == wanted]
        got += [Files(chosen, read_wav), np.array([int(path.name[0]) for path in chosen])]
    return Records(*got)


def load_fsdd(root: str | os.PathLike[str] | None = None, download: bool = False) -> AudioSet:
    """Sound of the spoken digits; `.features(steps, bands)` turns it into log band energies."""
    folder, part = find(["free-spoken-digit-dataset", "fsdd"], root), find([_PART], root)
    if folder is None and part is None:
        extra = "; it is a repository and not one file that could be fetched and checked" if download else ""
        raise absent("fsdd", _HOW + extra, root)

    def read() -> Records:
        return _files(folder) if folder is not None else _part(part)  # type: ignore[arg-type]

    return AudioSet(
        "fsdd",
        "FSDD" if folder is not None else "FSDD (5 speakers, 2250/250)",
        tuple("0123456789"),
        (),
        "Jackson et al.: Free Spoken Digit Dataset",
        "CC BY-SA 4.0",
        read,
    )
