"""Data sets, event files and their transforms; reading needs NumPy only, `loader` and `augment` need torch.

images = load("fashion-mnist")
images.train.x, images.train.y, images.classes, images.part
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from picojoule.core.registry import Registry
from picojoule.data.cifar import CIFAR10, CIFAR100, load_cifar
from picojoule.data.digits import FOLDS, digits_fold
from picojoule.data.event_frames import EventFrames
from picojoule.data.fsdd import load_fsdd
from picojoule.data.idx import FASHION, MNIST, load_idx
from picojoule.data.nmnist import load_nmnist
from picojoule.data.sets import AudioSet, EventSet, ImageSet, Parts, Recordings, Records, Split

if TYPE_CHECKING:
    from picojoule.data import augment
    from picojoule.data.batches import Loader, loader

AnySet = ImageSet | EventSet | AudioSet
SETS: Registry[Callable[..., AnySet]] = Registry("data set")


@SETS.register("digits")
def _digits(root: str | os.PathLike[str] | None, download: bool) -> ImageSet:
    return digits_fold(0)  # inside a package: there is nothing to look for or to fetch


def _register_fold(k: int) -> None:
    @SETS.register(f"digits-fold{k}")
    def _fold(root: str | os.PathLike[str] | None, download: bool) -> ImageSet:
        return digits_fold(k)


for _k in range(FOLDS):
    _register_fold(_k)


@SETS.register("mnist")
def _mnist(root: str | os.PathLike[str] | None, download: bool) -> ImageSet:
    return load_idx(MNIST, root, download)


@SETS.register("fashion-mnist")
def _fashion(root: str | os.PathLike[str] | None, download: bool) -> ImageSet:
    return load_idx(FASHION, root, download)


@SETS.register("cifar10")
def _cifar10(root: str | os.PathLike[str] | None, download: bool) -> ImageSet:
    return load_cifar(CIFAR10, root, download)


@SETS.register("cifar10-10k")
def _cifar10_part(root: str | os.PathLike[str] | None, download: bool) -> ImageSet:
    return load_cifar(CIFAR10, root, download, only_part=True)


@SETS.register("cifar100")
def _cifar100(root: str | os.PathLike[str] | None, download: bool) -> ImageSet:
    return load_cifar(CIFAR100, root, download)


@SETS.register("cifar100-20k")
def _cifar100_part(root: str | os.PathLike[str] | None, download: bool) -> ImageSet:
    return load_cifar(CIFAR100, root, download, only_part=True)


SETS.register("nmnist")(load_nmnist)
SETS.register("fsdd")(load_fsdd)


def load(name: str, *, root: str | os.PathLike[str] | None = None, download: bool = False) -> Any:
    """A data set by name; its arrays are read when they are first used.

    Args:
        name: one of `list_sets()`.
        root: the only folder to look in; None looks in `$PICOJOULE_DATA`, the system's data sets and the
            cache.
        download: fetch the set into the cache when it is in none of the places.
    Returns:
        ImageSet, EventSet or AudioSet with the splits `train`, `val` and `test`.
    Raises:
        ConfigError: unknown name (with the nearest one).
        DataError: the set is absent (with the way to get it) or damaged.
    """
    return SETS.get(name)(root, download)


def list_sets(pattern: str = "*") -> list[str]:
    """Names of the data sets.

    >>> list_sets("cifar10*")
    ['cifar10', 'cifar10-10k', 'cifar100', 'cifar100-20k']
    """
    return SETS.names(pattern)


_LAZY = {"loader": "batches", "Loader": "batches"}

__all__ = [
    "AnySet",
    "AudioSet",
    "EventFrames",
    "EventSet",
    "ImageSet",
    "Loader",
    "Parts",
    "Recordings",
    "Records",
    "SETS",
    "Split",
    "augment",
    "digits_fold",
    "list_sets",
    "load",
    "loader",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
    if name == "augment":
        return importlib.import_module(f"{__name__}.augment")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
