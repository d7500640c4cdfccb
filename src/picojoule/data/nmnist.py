"""N-MNIST: digits seen by a moving 34 x 34 event camera; the whole set as files, or 1000 recordings of it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from picojoule.core.errors import DataError
from picojoule.data.event_files import read_nmnist
from picojoule.data.events import make_events
from picojoule.data.places import absent, find, verify
from picojoule.data.sets import EventSet, Files, Records, Slices

_PART = "events_nmnist.npz"
_PART_SHA256 = "8f026c3583dbb25a3aad77f8a8554dfa14b7923351090022e8fcacaa5b240c89"
_HOW = (
    "put the folders Train and Test of the authors' files (garrickorchard.com/datasets/n-mnist) "
    "into the folder 'N-MNIST' of one of these places"
)


def _part(path: Path) -> Records:
    with np.load(verify(path, _PART_SHA256), allow_pickle=False) as file:
        offsets, labels, is_test = file["offsets"], file["label"], file["is_test"]
        # Times restart in each recording; the file keeps their differences.
        total = np.cumsum(file["dt_us"].astype(np.int64))
        before = np.concatenate([[0], total])[offsets[:-1]]
        t = total - np.repeat(before, np.diff(offsets))
        events = make_events(t, file["x"], file["y"], np.unpackbits(file["p_bits"])[: len(t)])
    items = Slices(events, offsets)
    train, test = np.flatnonzero(~is_test), np.flatnonzero(is_test)
    return Records([items[i] for i in train], labels[train], [items[i] for i in test], labels[test])


def _files(folder: Path) -> Records:
    got: list = []
    for split in ("Train", "Test"):
        paths = sorted((folder / split).glob("[0-9]/*.bin"))
        if not paths:
            raise DataError(f"{folder / split} holds no recordings; expected <digit>/<number>.bin below it")
        got += [Files(paths, read_nmnist), np.array([int(path.parent.name) for path in paths])]
    return Records(*got)


def load_nmnist(root: str | os.PathLike[str] | None = None, download: bool = False) -> EventSet:
    """Events of N-MNIST; `.frames(steps)` turns them into frames."""
    folder, part = find(["N-MNIST", "nmnist"], root), find([_PART], root)
    if folder is None and part is None:
        extra = "; it has no address that could be fetched without a browser" if download else ""
        raise absent("nmnist", _HOW + extra, root)

    def read() -> Records:
        return _files(folder) if folder is not None else _part(part)  # type: ignore[arg-type]

    return EventSet(
        "nmnist",
        "N-MNIST" if folder is not None else "N-MNIST (900/100)",
        tuple("0123456789"),
        (34, 34),
        "Orchard, Jayawant, Cohen, Thakor: Converting static image datasets to spiking neuromorphic datasets "
        "using saccades, arXiv:1507.07629",
        "CC BY-SA 4.0",
        read,
    )
