"""MNIST and Fashion-MNIST: IDX files, plain or gzip-compressed by anyone."""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from picojoule.core.errors import DataError
from picojoule.data.places import Remote, absent, cache_dir, fetch, find, verify
from picojoule.data.sets import ImageSet, Parts

FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


@dataclass(frozen=True, slots=True)
class IdxSet:
    """One set of four IDX files.

    Fields: `folder` in each place; `url` of the folder of .gz files; `raw_sha256` of the files' contents,
    which every compression shares; `gz_sha256` of the authors' compressed files, checked after a download.
    """

    name: str
    part: str
    folder: str
    url: str
    classes: tuple[str, ...]
    source: str
    licence: str
    how: str
    raw_sha256: tuple[str, ...]
    gz_sha256: tuple[str, ...]


MNIST = IdxSet(
    "mnist",
    "MNIST",
    "mnist",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    tuple("0123456789"),
    "LeCun, Cortes, Burges: The MNIST database of handwritten digits",
    "CC BY-SA 3.0",
    "load it with download=True, or put its four IDX files into the folder 'mnist' of one of these places",
    (
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
    (
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    ),
)

FASHION = IdxSet(
    "fashion-mnist",
    "Fashion-MNIST",
    "fashion-mnist",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
    "Xiao, Rasul, Vollgraf: Fashion-MNIST, arXiv:1708.07747",
    "MIT",
    "install it with 'apt-get install dataset-fashion-mnist' (Debian, Ubuntu) or load it with download=True",
    (
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
    (
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    ),
)

# MNIST as one packed file of the development data.
_MNIST_NPZ = "img_mnist.npz"
_MNIST_NPZ_SHA256 = "283182687cf55c3beb12130da69080a084a87ca19355686fc0534d05f4c86163"


def read_idx(path: Path, sha256: str | None = None) -> np.ndarray:
    """An IDX file of bytes as an array [N] or [N, H, W] uint8; gzip is recognised by its first bytes.

    Layout, big-endian: u16 zero, u8 type (8 = unsigned byte), u8 number of axes, u32 size of each axis, data.

    Raises:
        DataError: not an IDX file of bytes, cut short, or with another sha256 (of the uncompressed bytes).
    """
    raw = path.read_bytes()
    if raw[:2] == b"\x1f\x8b":
        try:
            raw = gzip.decompress(raw)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{path}: damaged gzip file ({error}); fetch it again") from error
    if len(raw) < 8 or raw[:3] != b"\x00\x00\x08" or not 1 <= raw[3] <= 4 or len(raw) < 4 + 4 * raw[3]:
        raise DataError(f"{path}: not an IDX file of unsigned bytes (it starts with {raw[:4].hex()})")
    axes = raw[3]
    shape = tuple(int(n) for n in np.frombuffer(raw, ">u4", axes, 4))
    start = 4 + 4 * axes
    if len(raw) - start != int(np.prod(shape, dtype=np.int64)):
        raise DataError(f"{path}: {len(raw) - start} bytes of data, but its header says {shape}")
    if sha256 is not None and hashlib.sha256(raw).hexdigest() != sha256:
        raise DataError(f"{path}: checksum mismatch with the published file; delete it and fetch it again")
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)


def _find(what: IdxSet, root: str | os.PathLike[str] | None, download: bool) -> list[Path]:
    names = [[f"{what.folder}/{file}{end}" for end in (".gz", "")] for file in FILES]
    if root is not None:  # the folder of the files itself may be given
        names = [pair + [f"{file}{end}" for end in (".gz", "")] for pair, file in zip(names, FILES)]
    paths = [find(pair, root) for pair in names]
    if None not in paths:
        return [path for path in paths if path is not None]
    if download:
        folder = (Path(root) if root is not None else cache_dir()) / what.folder
        return [
            path or fetch(Remote(file + ".gz", f"{what.url}{file}.gz", digest), folder)
            for path, file, digest in zip(paths, FILES, what.gz_sha256)
        ]
    raise absent(what.name, what.how, root)


def load_idx(what: IdxSet, root: str | os.PathLike[str] | None = None, download: bool = False) -> ImageSet:
    """MNIST or Fashion-MNIST: 60,000 + 10,000 images [1, 28, 28]."""
    packed = find([_MNIST_NPZ], root) if what.name == "mnist" else None
    paths = [] if packed else _find(what, root, download)

    def read() -> Parts:
        if packed:
            with np.load(verify(packed, _MNIST_NPZ_SHA256), allow_pickle=False) as file:
                arrays = [file[key] for key in ("train_x", "train_y", "test_x", "test_y")]
        else:
            arrays = [read_idx(path, digest) for path, digest in zip(paths, what.raw_sha256)]
        train_x, train_y, test_x, test_y = arrays
        return Parts(train_x[:, None], train_y, test_x[:, None], test_y)

    return ImageSet(what.name, what.part, what.classes, (1, 28, 28), what.source, what.licence, read)
