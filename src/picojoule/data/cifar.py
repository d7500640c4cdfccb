"""CIFAR-10 and CIFAR-100: the authors' binary version, and the balanced parts of the development data.

The authors' Python version (`cifar-10-batches-py`) is pickled: reading it can execute code, so it is refused;
the binary version holds the same images.
"""

from __future__ import annotations

import os
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from picojoule.core.errors import DataError
from picojoule.data.places import Remote, absent, cache_dir, fetch, find, verify
from picojoule.data.sets import ImageSet, Parts

_PIXELS = 3 * 32 * 32


@dataclass(frozen=True, slots=True)
class CifarSet:
    """One of the two sets; files carry their sha256, train files first.

    Fields: `label_bytes` before each image, the last of them is the label used (fine labels of CIFAR-100).
    """

    name: str
    title: str
    folder: str
    pickled: str
    label_bytes: int
    train: tuple[tuple[str, str], ...]
    test: tuple[str, str]
    names_file: str
    archive: Remote
    part: str
    part_file: str
    part_sha256: str


CIFAR10 = CifarSet(
    "cifar10",
    "CIFAR-10",
    "cifar-10-batches-bin",
    "cifar-10-batches-py",
    1,
    (
        ("data_batch_1.bin", "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5"),
        ("data_batch_2.bin", "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed"),
        ("data_batch_3.bin", "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67"),
        ("data_batch_4.bin", "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48"),
        ("data_batch_5.bin", "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add"),
    ),
    ("test_batch.bin", "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b"),
    "batches.meta.txt",
    Remote(
        "cifar-10-binary.tar.gz",
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    ),
    "CIFAR-10 (10k/2k)",
    "img_cifar10_10k.npz",
    "dabee24b2efaf56d328f124d1d6cfa1c76f300841a2e4337723c83fb78e3fc77",
)

CIFAR100 = CifarSet(
    "cifar100",
    "CIFAR-100",
    "cifar-100-binary",
    "cifar-100-python",
    2,
    (("train.bin", "f31298fc616915fa142368359df1c4ca2ae984d6915ca468b998a5ec6aeebf29"),),
    ("test.bin", "d8b1e6b7b3bee4020055f0699b111f60b1af1e262aeb93a0b659061746f8224a"),
    "fine_label_names.txt",
    Remote(
        "cifar-100-binary.tar.gz",
        "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
        "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
    ),
    "CIFAR-100 (20k/5k)",
    "img_cifar100_20k.npz",
    "b289025ef7fdafc53731eced959f2acfddf7f0f6242077d979b27008de6a97cf",
)

_SOURCE = "Krizhevsky: Learning multiple layers of features from tiny images, 2009"
_LICENCE = "none stated by the authors; customary for research"


def read_batch(path: Path, label_bytes: int, sha256: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """One file of the binary version: images [N, 3, 32, 32] uint8 and labels [N] uint8.

    Layout: `label_bytes` label bytes, then 1024 red, 1024 green and 1024 blue bytes, row by row.

    Raises:
        DataError: the size is not a multiple of a record, or the sha256 differs.
    """
    if sha256 is not None:
        verify(path, sha256)
    raw = np.fromfile(path, np.uint8)
    record = label_bytes + _PIXELS
    if raw.size == 0 or raw.size % record:
        raise DataError(f"{path}: {raw.size} bytes are not whole records of {record} bytes")
    rows = raw.reshape(-1, record)
    return rows[:, label_bytes:].reshape(-1, 3, 32, 32), rows[:, label_bytes - 1]


def undo_median(residual: np.ndarray) -> np.ndarray:
    """Exact images [N, 3, H, W] uint8 from the residuals [3, N, H, W] of the packed development files.

    Each pixel was predicted from its left (a), upper (b) and upper-left (c) neighbour as the median of a, b
    and a + b - c; stored is the error modulo 256, with the error of green taken off red and blue.
    """
    error = residual.copy()
    error[0] += error[1]
    error[2] += error[1]
    # Pixel position first, so that one step handles all images at once.
    error = np.ascontiguousarray(error.transpose(2, 3, 1, 0)).astype(np.int16)
    height, width = error.shape[:2]
    pixels = np.zeros_like(error)
    pixels[0, 0] = error[0, 0] & 255
    for j in range(1, width):
        pixels[0, j] = (pixels[0, j - 1] + error[0, j]) & 255
    for i in range(1, height):
        pixels[i, 0] = (pixels[i - 1, 0] + error[i, 0]) & 255
        for j in range(1, width):
            left, upper, corner = pixels[i, j - 1], pixels[i - 1, j], pixels[i - 1, j - 1]
            low, high = np.minimum(left, upper), np.maximum(left, upper)
            pixels[i, j] = (np.clip(left + upper - corner, low, high) + error[i, j]) & 255
    return np.ascontiguousarray(pixels.transpose(2, 3, 0, 1).astype(np.uint8))


def _unpack(what: CifarSet, archive: Path, place: Path) -> Path:
    """Unpack the verified archive of the authors into `place`; the folder appears only when complete."""
    verify(archive, what.archive.sha256)
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place) as scratch, tarfile.open(archive) as file:
        # The filter came with Python 3.11.4; without it the checksum above is what makes the archive safe.
        file.extraction_filter = getattr(tarfile, "data_filter", None)
        file.extractall(scratch)
        (Path(scratch) / what.folder).rename(place / what.folder)
    return place / what.folder


def _whole(what: CifarSet, root: str | os.PathLike[str] | None, download: bool) -> Path | None:
    """The folder of the complete binary version, if it is anywhere."""
    folder = find([what.folder], root)
    if folder is None and root is not None and (Path(root) / what.test[0]).is_file():
        folder = Path(root)  # the folder itself was given
    if folder is not None:
        return folder
    archive = find([what.archive.file], root)
    if archive is not None and os.access(archive.parent, os.W_OK):
        return _unpack(what, archive, archive.parent)
    if archive is not None:
        return _unpack(what, archive, cache_dir())
    if download:
        place = Path(root) if root is not None else cache_dir()
        return _unpack(what, fetch(what.archive, place), place)
    return None


def _whole_set(what: CifarSet, folder: Path) -> ImageSet:
    names = folder / what.names_file
    if not names.is_file():
        raise DataError(f"{names} is absent; unpack {what.archive.file} again")
    classes = tuple(line.strip() for line in names.read_text().splitlines() if line.strip())

    def read() -> Parts:
        batches = [read_batch(folder / file, what.label_bytes, digest) for file, digest in what.train]
        test_x, test_y = read_batch(folder / what.test[0], what.label_bytes, what.test[1])
        train_x = np.concatenate([x for x, _ in batches])
        return Parts(train_x, np.concatenate([y for _, y in batches]), test_x, test_y)

    return ImageSet(what.name, what.title, classes, (3, 32, 32), _SOURCE, _LICENCE, read)


def _part_set(what: CifarSet, path: Path) -> ImageSet:
    with np.load(verify(path, what.part_sha256), allow_pickle=False) as file:
        classes = tuple(str(name) for name in file["class_names"])

    def read() -> Parts:
        with np.load(verify(path, what.part_sha256), allow_pickle=False) as file:
            train_x, test_x = undo_median(file["train_x__med"]), undo_median(file["test_x__med"])
            return Parts(train_x, file["train_y"], test_x, file["test_y"])

    return ImageSet(what.name, what.part, classes, (3, 32, 32), _SOURCE, _LICENCE, read)


def load_cifar(
    what: CifarSet,
    root: str | os.PathLike[str] | None = None,
    download: bool = False,
    *,
    only_part: bool = False,
) -> ImageSet:
    """The complete set when it is in any place, else the balanced part of the development data.

    Args:
        only_part: take the balanced part even when the complete set is there.
    """
    folder = None if only_part else _whole(what, root, download=False)
    if folder is not None:
        return _whole_set(what, folder)
    part = find([what.part_file], root)
    if part is not None and (only_part or not download):
        return _part_set(what, part)
    if download and not only_part:
        fetched = _whole(what, root, download=True)
        if fetched is not None:
            return _whole_set(what, fetched)
    how = f"load it with download=True, or unpack {what.archive.file} into one of these places"
    pickled = find([what.pickled], root)
    if pickled is not None:
        how += f" ({pickled} is pickled and is not read, because unpickling can execute code)"
    raise absent(what.name, how, root)
