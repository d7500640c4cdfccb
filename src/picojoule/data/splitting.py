"""Fixed, stratified splits that depend on nothing but labels and a seed.

The order comes from a hash of (seed, index) and not from a random generator, so that it is the same for every
version of NumPy and on every machine.
"""

from __future__ import annotations

import numpy as np

from picojoule.core.errors import DataError

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX2 = np.uint64(0x94D049BB133111EB)


def hash64(values: np.ndarray, seed: int = 0) -> np.ndarray:
    """The finaliser of splitmix64 over `values + (seed + 1) * gamma`, modulo 2^64.

    Source: Steele, Lea, Flood, Fast Splittable Pseudorandom Number Generators, OOPSLA 2014.
    """
    with np.errstate(over="ignore"):
        z = np.asarray(values).astype(np.uint64) * _GAMMA + hash_seed(seed)
        z = (z ^ (z >> np.uint64(30))) * _MIX1
        z = (z ^ (z >> np.uint64(27))) * _MIX2
        return z ^ (z >> np.uint64(31))


def hash_seed(seed: int) -> np.uint64:
    """A seed spread over 64 bits, so that neighbouring seeds give unrelated streams."""
    z = (seed + 1) * 0xD1342543DE82EF95 & 0xFFFFFFFFFFFFFFFF
    z = (z ^ (z >> 32)) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
    return np.uint64(z ^ (z >> 29))


def permutation(size: int, seed: int = 0) -> np.ndarray:
    """A permutation of 0..size-1 [size] int64, the same everywhere for the same seed.

    >>> sorted(permutation(5, seed=3).tolist())
    [0, 1, 2, 3, 4]
    """
    return np.argsort(hash64(np.arange(size), seed), kind="stable").astype(np.int64)


def stratified_split(y: np.ndarray, fraction: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Indices kept and indices held out, each class in the same proportion (rounded to whole samples).

    Args:
        y: labels [N].
        fraction: part held out of each class, 0 < fraction < 1.
        seed: chooses which ones.
    Returns:
        kept, held: ascending index arrays that together are 0..N-1.
    Raises:
        DataError: one of the two parts would be empty.
    """
    if not 0.0 < fraction < 1.0:
        raise DataError(f"the held-out fraction must lie between 0 and 1, got {fraction}")
    held = np.zeros(len(y), dtype=bool)
    order = permutation(len(y), seed)
    for label in np.unique(y):
        members = order[y[order] == label]
        held[members[: round(len(members) * fraction)]] = True
    if held.all() or not held.any():
        raise DataError(
            f"holding out {fraction:g} of {len(y)} samples leaves an empty split; give more samples"
        )
    return np.flatnonzero(~held), np.flatnonzero(held)


def stratified_folds(y: np.ndarray, folds: int, seed: int = 0) -> np.ndarray:
    """The fold number [N] of each sample: every class is dealt round over the folds.

    Raises:
        DataError: a fold would be empty.
    """
    if not 2 <= folds <= len(y):
        raise DataError(f"folds must lie in 2..{len(y)} for {len(y)} samples, got {folds}")
    fold = np.empty(len(y), dtype=np.int64)
    order = permutation(len(y), seed)
    start = 0
    for label in np.unique(y):
        members = order[y[order] == label]
        # The deal goes on where the last class stopped, so that folds differ by one sample at most.
        fold[members] = (start + np.arange(len(members))) % folds
        start += len(members)
    return fold
