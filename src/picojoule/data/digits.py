"""Handwritten digits 8 x 8 that come inside scikit-learn: the embedded default."""

from __future__ import annotations

import functools
import gzip
import hashlib
import importlib.util
from pathlib import Path

import numpy as np

from picojoule.core.errors import DataError, need_extra
from picojoule.data.sets import ImageSet, Parts
from picojoule.data.splitting import stratified_folds

FOLDS = 5
FOLD_SEED = 0
_SHA256 = "6ebb3d2fee246a4e99363262ddf8a00a3c41bee6014c373ed9d9216ba7f651b8"


@functools.cache
def _table() -> tuple[np.ndarray, np.ndarray]:
    """Images [1797, 1, 8, 8] uint8 with values 0..16, and labels [1797]."""
    # The table is read from the package's folder; importing scikit-learn would cost a second for nothing.
    package = importlib.util.find_spec("sklearn")
    if package is None or not package.submodule_search_locations:
        raise need_extra("scikit-learn", "train")
    path = Path(package.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    if not path.is_file():
        raise DataError(f"scikit-learn is installed but {path} is absent; reinstall scikit-learn")
    raw = gzip.decompress(path.read_bytes())
    if hashlib.sha256(raw).hexdigest() != _SHA256:
        raise DataError(
            f"{path}: checksum mismatch; this scikit-learn holds other digits than were published"
        )
    table = np.array([line.split(b",") for line in raw.splitlines()], dtype=np.float64).astype(np.uint8)
    return table[:, :64].reshape(-1, 1, 8, 8), table[:, 64].astype(np.int64)


def digits_fold(k: int) -> ImageSet:
    """Digits with fold `k` of five stratified folds as the test split; the five test splits cover all digits.

    Args:
        k: 0..4.
    Returns:
        1797 images [1, 8, 8] with values 0..16, split in about 1294 / 144 / 359.
    Raises:
        DataError: k is out of range.
    """
    if not 0 <= k < FOLDS:
        raise DataError(f"fold must lie in 0..{FOLDS - 1}, got {k}")

    def read() -> Parts:
        x, y = _table()
        test = stratified_folds(y, FOLDS, FOLD_SEED) == k
        return Parts(x[~test], y[~test], x[test], y[test])

    return ImageSet(
        "digits",
        f"digits (fold {k} of {FOLDS})",
        tuple("0123456789"),
        (1, 8, 8),
        "UCI Optical Recognition of Handwritten Digits, test part, as shipped by scikit-learn",
        "CC BY 4.0 (UCI), package BSD-3",
        read,
        max_value=16.0,
    )
