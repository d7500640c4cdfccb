"""Data sets: known counts, fixed splits, checksums, clear errors."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import os
import struct
import subprocess
import sys
import tarfile
import threading
import wave
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from picojoule import data
from picojoule.core.errors import ConfigError, DataError
from picojoule.data import cifar, idx, places
from picojoule.data.audio import log_bands, mel_filters
from picojoule.data.cifar_strips import from_strips
from picojoule.data.sets import ImageSet, Parts, Split, check_labels
from picojoule.data.splitting import permutation, stratified_folds, stratified_split

DEV = os.environ.get("PICOJOULE_DATA")
needs_dev = pytest.mark.skipif(not DEV, reason="PICOJOULE_DATA is not set: the development data are absent")


@pytest.fixture
def alone(monkeypatch, tmp_path):
    """No development data, no system copy, an empty cache: returns the cache folder."""
    monkeypatch.delenv("PICOJOULE_DATA", raising=False)
    monkeypatch.setattr(places, "SYSTEM", tmp_path / "system")
    cache = tmp_path / "cache"
    for module in (places, idx, cifar):
        monkeypatch.setattr(module, "cache_dir", lambda: cache)
    return cache


# -- splits ---------------------------------------------------------------------------------------------


def test_digits_have_the_published_counts_and_a_stratified_validation_split():
    digits = data.load("digits")
    assert len(digits.trainval) + len(digits.test) == 1797
    assert digits.trainval.x.max() == 16
    assert digits.train.x.dtype == np.uint8
    assert digits.train.y.dtype == np.int64
    assert digits.train.x.shape[1:] == digits.shape == (1, 8, 8)
    both = np.concatenate([digits.train.index, digits.val.index])
    assert np.array_equal(np.sort(both), np.arange(len(digits.trainval)))
    counts = np.bincount(digits.val.y, minlength=10) / np.bincount(digits.trainval.y)
    assert np.all(np.abs(counts - 0.1) < 0.5 / 140)
    assert np.array_equal(digits.val.x, digits.trainval.x[digits.val.index])


def test_the_validation_split_of_digits_is_pinned():
    val = data.load("digits").val.index
    assert (len(val), val[:5].tolist(), int(val.sum())) == PINNED_VAL
    assert np.array_equal(data.load("digits-fold3").test.x, data.digits_fold(3).test.x)


def test_five_digit_folds_pool_to_all_digits_once():
    pooled = np.concatenate([data.digits_fold(k).test.x for k in range(5)])
    whole = np.concatenate([data.digits_fold(0).trainval.x, data.digits_fold(0).test.x])
    order = [np.lexsort(a.reshape(len(a), -1).T) for a in (pooled, whole)]
    assert np.array_equal(pooled[order[0]], whole[order[1]])
    sizes = [len(data.digits_fold(k).test) for k in range(5)]
    assert max(sizes) - min(sizes) <= 1
    with pytest.raises(DataError, match=r"0\.\.4"):
        data.digits_fold(5)


def test_splits_do_not_depend_on_numpy_generators():
    # Golden values: another platform or NumPy must give the very same split.
    assert permutation(8, seed=1).tolist() == GOLDEN_PERMUTATION
    y = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    kept, held = stratified_split(y, 0.25, seed=0)
    assert sorted([*kept, *held]) == list(range(8))
    assert np.bincount(y[held]).tolist() == [1, 1]
    assert not np.array_equal(
        stratified_split(np.zeros(100, int), 0.5, 0)[1], stratified_split(np.zeros(100, int), 0.5, 1)[1]
    )


PINNED_VAL = (143, [1, 4, 13, 44, 51], 97536)
GOLDEN_PERMUTATION = [3, 7, 1, 0, 5, 4, 6, 2]


def test_folds_are_balanced_per_class_and_overall():
    y = np.repeat(np.arange(3), [7, 8, 10])
    fold = stratified_folds(y, 5)
    for label in range(3):
        counts = np.bincount(fold[y == label], minlength=5)
        assert counts.max() - counts.min() <= 1
    assert np.bincount(fold).tolist() == [5] * 5


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1])
def test_a_fraction_outside_the_unit_interval_is_refused(fraction):
    with pytest.raises(DataError, match="between 0 and 1"):
        stratified_split(np.zeros(10, int), fraction)


def test_empty_splits_and_wrong_labels_are_refused():
    with pytest.raises(DataError, match="empty"):
        Split(np.zeros((0, 1)), np.zeros(0, int), "train")
    with pytest.raises(DataError, match="empty"):
        check_labels(np.zeros(0, int), 10, "test split")
    with pytest.raises(DataError, match="label 10 of sample 1"):
        check_labels(np.array([9, 10]), 10, "train split")
    with pytest.raises(DataError, match="label -1"):
        check_labels(np.array([-1]), 10, "train split")
    with pytest.raises(DataError, match="3 samples and 2 labels"):
        Split(np.zeros((3, 1)), np.zeros(2, int), "train")
    with pytest.raises(DataError, match="empty split"):
        stratified_split(np.zeros(2, int), 0.1)


def _tiny(train_y, test_y, shape=(1, 2, 2)) -> ImageSet:
    parts = Parts(
        np.zeros((len(train_y), *shape), np.uint8), train_y, np.zeros((len(test_y), *shape), np.uint8), test_y
    )
    return ImageSet("tiny", "tiny", ("a", "b"), (1, 2, 2), "made", "none", lambda: parts)


def test_image_sets_check_what_their_reader_returns():
    with pytest.raises(DataError, match="out of range"):
        _ = _tiny(np.array([0, 2]), np.array([0])).train
    with pytest.raises(DataError, match="empty"):
        _ = _tiny(np.array([0, 1]), np.array([], int)).test
    with pytest.raises(DataError, match="expected"):
        _ = _tiny(np.array([0, 1]), np.array([0]), shape=(1, 3, 3)).train


def test_statistics_come_from_the_training_split_alone():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (40, 3, 4, 4), np.uint8)
    x[:, 2] = 7
    test = np.full((5, 3, 4, 4), 255, np.uint8)
    y = np.arange(40) % 2
    images = ImageSet("r", "r", ("a", "b"), (3, 4, 4), "", "", lambda: Parts(x, y, test, y[:5]))
    mean, std = images.statistics
    train = images.train.x / 255.0
    np.testing.assert_allclose(mean, train.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std[:2], train.std((0, 2, 3))[:2], rtol=1e-9)
    assert std[2] == pytest.approx(1.0)


# -- places, checksums, downloads ---------------------------------------------------------------------------


def test_unknown_names_get_the_nearest_one():
    with pytest.raises(ConfigError, match="'fashion-mnist'"):
        data.load("fashon-mnist")


def test_order_of_places(monkeypatch, tmp_path):
    dev, system, cache = (tmp_path / name for name in ("dev", "system", "cache"))
    monkeypatch.setenv("PICOJOULE_DATA", str(dev))
    monkeypatch.setattr(places, "SYSTEM", system)
    monkeypatch.setattr(places, "cache_dir", lambda: cache)
    dev.mkdir()
    assert places.places() == [dev, system, cache]
    for folder in (cache, system, dev):
        folder.mkdir(exist_ok=True)
        (folder / "a").touch()
        assert places.find(["a"]) == folder / "a"
    assert places.places(cache) == [cache]
    with pytest.raises(DataError, match="not a folder"):
        places.places(tmp_path / "nowhere")
    monkeypatch.setenv("PICOJOULE_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="PICOJOULE_DATA"):
        places.places()


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("mnist", "download=True"),
        ("fashion-mnist", "apt-get install dataset-fashion-mnist"),
        ("cifar10", "cifar-10-binary.tar.gz"),
        ("cifar10-10k", "cifar-10-binary.tar.gz"),
        ("cifar100", "cifar-100-binary.tar.gz"),
        ("nmnist", "N-MNIST"),
        ("fsdd", "free-spoken-digit-dataset"),
    ],
)
def test_an_absent_set_says_how_to_get_it(alone, name, hint):
    with pytest.raises(DataError, match=hint):
        data.load(name)


@pytest.mark.parametrize("name", ["nmnist", "fsdd"])
def test_sets_without_an_address_say_so(alone, name):
    with pytest.raises(DataError, match="could be fetched"):
        data.load(name, download=True)


@pytest.fixture
def server(tmp_path):
    """A web server on the loopback interface; yields (folder, address)."""
    folder = tmp_path / "www"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(folder))

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as web:
        thread = threading.Thread(target=web.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{web.server_address[1]}/"
        web.shutdown()
        thread.join()


def _idx(array: np.ndarray) -> bytes:
    head = bytes([0, 0, 8, array.ndim]) + b"".join(struct.pack(">I", n) for n in array.shape)
    return head + array.astype(np.uint8).tobytes()


def _tiny_mnist(folder: Path, url: str) -> idx.IdxSet:
    rng = np.random.default_rng(3)
    raws = [
        _idx(rng.integers(0, 256, (40, 28, 28))),
        _idx(np.arange(40) % 10),
        _idx(rng.integers(0, 256, (20, 28, 28))),
        _idx(np.arange(20) % 10),
    ]
    packed = [gzip.compress(raw, mtime=0) for raw in raws]
    for name, content in zip(idx.FILES, packed):
        (folder / f"{name}.gz").write_bytes(content)
    digest = [[hashlib.sha256(b).hexdigest() for b in group] for group in (raws, packed)]
    return replace(idx.FASHION, url=url, raw_sha256=tuple(digest[0]), gz_sha256=tuple(digest[1]))


def test_download_checks_and_caches(alone, server):
    folder, url = server
    tiny = _tiny_mnist(folder, url)
    images = idx.load_idx(tiny, download=True)
    assert images.trainval.x.shape == (40, 1, 28, 28)
    assert images.test.y.tolist() == list(range(10)) * 2
    for file in folder.iterdir():
        file.unlink()
    again = idx.load_idx(tiny)  # from the cache, without the network
    assert np.array_equal(again.test.x, images.test.x)
    (alone / "fashion-mnist" / f"{idx.FILES[0]}.gz").write_bytes(gzip.compress(_idx(np.zeros((40, 28, 28)))))
    with pytest.raises(DataError, match="checksum mismatch"):
        _ = idx.load_idx(tiny).train


def test_a_damaged_download_leaves_nothing_behind(alone, server):
    folder, url = server
    tiny = _tiny_mnist(folder, url)
    (folder / f"{idx.FILES[0]}.gz").write_bytes(b"something else")
    with pytest.raises(DataError, match="checksum mismatch"):
        idx.load_idx(tiny, download=True)
    assert list((alone / "fashion-mnist").iterdir()) == []


def test_a_connection_that_breaks_off_is_a_data_error(alone):
    class Cut(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "100")
            self.end_headers()
            self.wfile.write(b"only this")

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Cut) as web:
        thread = threading.Thread(target=web.serve_forever)
        thread.start()
        remote = places.Remote("a.gz", f"http://127.0.0.1:{web.server_address[1]}/a.gz", "0" * 64)
        with pytest.raises(DataError, match=r"could not fetch|checksum mismatch"):
            places.fetch(remote, alone)
        web.shutdown()
        thread.join()
    assert not any(alone.iterdir())


def test_a_download_shows_its_progress(alone, server, capfd):
    folder, url = server
    (folder / "a").write_bytes(b"x" * 3000)
    remote = places.Remote("a", url + "a", hashlib.sha256(b"x" * 3000).hexdigest())
    assert places.fetch(remote, alone, progress=True).read_bytes() == b"x" * 3000
    assert "fetching a" in capfd.readouterr().err


def test_a_dead_address_is_a_data_error(alone, tmp_path):
    remote = places.Remote("a.gz", (tmp_path / "none.gz").as_uri(), "0" * 64)
    with pytest.raises(DataError, match="could not fetch"):
        places.fetch(remote, alone)
    assert not any(alone.iterdir())


def test_idx_reads_plain_files_of_a_given_folder(alone, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    tiny = _tiny_mnist(folder, "")
    for name in idx.FILES:
        packed = folder / f"{name}.gz"
        (folder / name).write_bytes(gzip.decompress(packed.read_bytes()))
        packed.unlink()
    assert len(idx.load_idx(tiny, root=folder).test) == 20


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "not an IDX"),
        (b"\x00\x00\x0d\x01" + bytes(20), "not an IDX"),
        (_idx(np.zeros((3, 4)))[:-1], "header says"),
        (gzip.compress(_idx(np.zeros(9)))[:-9], "damaged gzip"),
    ],
)
def test_bad_idx_files(tmp_path, content, match):
    path = tmp_path / "a"
    path.write_bytes(content)
    with pytest.raises(DataError, match=match):
        idx.read_idx(path)


@pytest.mark.skipif(
    not Path("/usr/share/datasets/fashion-mnist").is_dir(), reason="dataset-fashion-mnist is absent"
)
def test_fashion_mnist_of_the_system():
    images = data.load("fashion-mnist")
    assert np.bincount(images.trainval.y).tolist() == [6000] * 10
    assert np.bincount(images.test.y).tolist() == [1000] * 10
    assert np.bincount(images.val.y).tolist() == [600] * 10
    assert images.part == "Fashion-MNIST"
    mean, std = images.statistics
    assert mean[0] == pytest.approx(0.2860, abs=1e-3)
    assert std[0] == pytest.approx(0.3530, abs=1e-3)


# -- CIFAR --------------------------------------------------------------------------------------------------


def _tiny_cifar(folder: Path, label_bytes: int, what: cifar.CifarSet) -> tuple[cifar.CifarSet, np.ndarray]:
    rng = np.random.default_rng(label_bytes)
    files, pixels = [], []
    folder.mkdir(parents=True)
    for name, _ in (*what.train, what.test):
        x = rng.integers(0, 256, (20, 3, 32, 32), np.uint8)
        labels = np.stack([np.arange(20) % 10] * label_bytes, 1).astype(np.uint8)
        (folder / name).write_bytes(np.concatenate([labels, x.reshape(20, -1)], 1).tobytes())
        files.append((name, places.sha256(folder / name)))
        pixels.append(x)
    (folder / what.names_file).write_text("\n".join(f"class{i}" for i in range(10)) + "\n\n")
    return replace(what, train=tuple(files[:-1]), test=files[-1]), np.concatenate(pixels[:-1])


@pytest.mark.parametrize(("what", "label_bytes"), [(cifar.CIFAR10, 1), (cifar.CIFAR100, 2)])
def test_cifar_binary_version(alone, what, label_bytes):
    tiny, pixels = _tiny_cifar(alone / what.folder, label_bytes, what)
    images = cifar.load_cifar(tiny)
    assert images.part == what.title
    assert np.array_equal(images.trainval.x, pixels)
    assert images.test.y.tolist() == list(range(10)) * 2
    with (alone / what.folder / what.test[0]).open("r+b") as file:
        file.write(b"\x09")
    with pytest.raises(DataError, match="checksum mismatch"):
        _ = cifar.load_cifar(tiny).train


def test_cifar_archive_is_fetched_and_unpacked(alone, server, tmp_path):
    folder, url = server
    tiny, pixels = _tiny_cifar(tmp_path / "made" / cifar.CIFAR10.folder, 1, cifar.CIFAR10)
    archive = folder / "cifar-10-binary.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(tmp_path / "made" / cifar.CIFAR10.folder, cifar.CIFAR10.folder)
    tiny = replace(tiny, archive=places.Remote(archive.name, url + archive.name, places.sha256(archive)))
    images = cifar.load_cifar(tiny, download=True)
    assert np.array_equal(images.trainval.x, pixels)
    assert sorted(path.name for path in alone.iterdir()) == ["cifar-10-batches-bin", archive.name]


def test_cifar_from_png_strips(alone, tmp_path):
    image = pytest.importorskip("PIL.Image", reason="Pillow is absent: pip install 'picojoule[images]'")
    tiny, pixels = _tiny_cifar(tmp_path / "made", 1, cifar.CIFAR10)
    strips = tmp_path / "package"
    strips.mkdir()
    labels = []
    for name, _ in (*tiny.train, tiny.test):
        x, y = cifar.read_batch(tmp_path / "made" / name, 1)
        image.fromarray(x.reshape(20, 3, 1024).transpose(0, 2, 1)).save(strips / name.replace(".bin", ".png"))
        labels.append(y.tolist())
    (strips / "train_lables.json").write_text(str([label for batch in labels[:-1] for label in batch]))
    (strips / "test_lables.json").write_text(str(labels[-1]))
    target = from_strips(strips, alone, tiny)
    assert target == alone / "cifar-10-batches-bin"
    assert np.array_equal(cifar.load_cifar(tiny).trainval.x, pixels)
    assert cifar.load_cifar(tiny).classes[3] == "cat"
    with pytest.raises(DataError, match="checksum mismatch"):
        from_strips(strips, tmp_path / "other", cifar.CIFAR10)
    assert not any((tmp_path / "other" / "cifar-10-batches-bin").iterdir())
    (strips / "test_batch.png").unlink()
    with pytest.raises(DataError, match="absent"):
        from_strips(strips, alone, tiny)


@pytest.mark.slow
@needs_dev
def test_the_part_of_cifar10_lies_in_the_complete_set():
    whole, part = data.load("cifar10"), data.load("cifar10-10k", root=DEV)
    if whole.part != "CIFAR-10":
        pytest.skip("the complete CIFAR-10 is in none of the places")
    with np.load(Path(str(DEV), "img_cifar10_10k.npz")) as file:
        rows = {"trainval": file["train_index"], "test": file["test_index"]}
    for split, index in rows.items():
        assert np.array_equal(getattr(whole, split).x[index], getattr(part, split).x)
        assert np.array_equal(getattr(whole, split).y[index], getattr(part, split).y)


def test_pickled_cifar_is_named_and_refused(alone):
    (alone / "cifar-10-batches-py").mkdir(parents=True)
    with pytest.raises(DataError, match="unpickling can execute code"):
        data.load("cifar10")


def test_median_residuals_are_undone_exactly():
    rng = np.random.default_rng(5)
    images = rng.integers(0, 256, (2, 3, 4, 5)).astype(np.int64)
    error = np.zeros_like(images)
    for n, c, i, j in np.ndindex(*images.shape):
        plane = images[n, c]
        a = plane[i, j - 1] if j else plane[i - 1, 0] if i else 0
        b = plane[i - 1, j] if i else a
        corner = plane[i - 1, j - 1] if i and j else a
        guess = sorted([a, b, a + b - corner])[1] if i and j else a
        error[n, c, i, j] = (plane[i, j] - guess) % 256
    error[:, 0] = (error[:, 0] - error[:, 1]) % 256
    error[:, 2] = (error[:, 2] - error[:, 1]) % 256
    assert np.array_equal(cifar.undo_median(error.transpose(1, 0, 2, 3).astype(np.uint8)), images)


@needs_dev
@pytest.mark.parametrize(
    ("name", "part", "counts"),
    [("mnist", "MNIST", (60000, 10000)), ("cifar10-10k", "CIFAR-10 (10k/2k)", (10000, 2000))],
)
def test_development_images(name, part, counts):
    images = data.load(name, root=DEV)
    assert images.part == part
    assert (len(images.trainval), len(images.test)) == counts
    assert images.test.x.shape[1:] == images.shape
    if name == "mnist":
        assert np.bincount(images.test.y).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    else:
        assert np.bincount(images.trainval.y).tolist() == [1000] * 10
        # The known channel means of the whole set, within the error of a tenth of it.
        assert np.allclose(images.trainval.x.mean((0, 2, 3)), [125.3, 122.95, 113.9], atol=1.5)


@needs_dev
def test_development_cifar100():
    images = data.load("cifar100-20k", root=DEV)
    assert len(images.classes) == 100
    assert np.bincount(images.test.y).tolist() == [50] * 100
    assert np.bincount(images.val.y).tolist() == [20] * 100


@needs_dev
def test_a_tampered_development_file_is_refused(tmp_path):
    raw = bytearray(Path(DEV, "img_mnist.npz").read_bytes())
    raw[len(raw) // 2] ^= 1
    (tmp_path / "img_mnist.npz").write_bytes(raw)
    with pytest.raises(DataError, match="checksum mismatch"):
        _ = data.load("mnist", root=tmp_path).train
    (tmp_path / "img_cifar10_10k.npz").write_bytes(b"no archive at all")
    with pytest.raises(DataError, match="checksum mismatch"):
        data.load("cifar10-10k", root=tmp_path)


# -- events and sound -----------------------------------------------------------------------------------


@needs_dev
def test_nmnist_part_and_its_frames():
    events = data.load("nmnist", root=DEV)
    assert (len(events.trainval), len(events.test)) == (900, 100)
    assert sum(len(r) for r in events.trainval) + sum(len(r) for r in events.test) == 4099541
    first = events.trainval[0]
    assert first["t"][:3].tolist() == [893, 1060, 2443]
    frames = events.frames(4)
    assert frames.part == "N-MNIST (900/100), 4 frames by time"
    assert frames.train.x.shape == (len(events.train), 4, 2, 34, 34)
    assert np.array_equal(frames.train.y, events.train.y)
    assert frames.trainval.x[0].sum() == len(first)  # no pixel saturates in this recording
    assert frames.steps == 4


@needs_dev
def test_nmnist_reaches_the_linear_floor():
    """Event counts per pixel and polarity, ridge regression: the floor of the development data is 81 %."""
    frames = data.load("nmnist", root=DEV).frames(1)
    x, y = (np.sqrt(frames.trainval.x.reshape(900, -1).astype(np.float64)), frames.trainval.y)
    kernel = x @ x.T
    weights = np.linalg.solve(kernel + 0.01 * np.trace(kernel) / 900 * np.eye(900), np.eye(10)[y])
    scores = np.sqrt(frames.test.x.reshape(100, -1).astype(np.float64)) @ x.T @ weights
    assert (scores.argmax(1) == frames.test.y).mean() >= 0.75


@needs_dev
def test_spoken_digits_reach_the_linear_floor():
    """24 log bands x 12 steps, ridge regression: the floor of the development data is 97.2 %."""
    sound = data.load("fsdd", root=DEV)
    assert (len(sound.trainval), len(sound.test)) == (2250, 250)
    bands = sound.features(12, 24)
    x = bands.trainval.x.reshape(2250, -1) / 255.0 - 0.5
    weights = np.linalg.solve(x.T @ x + np.eye(288), x.T @ (np.eye(10)[bands.trainval.y] - 0.1))
    test = bands.test.x.reshape(250, -1) / 255.0 - 0.5
    assert ((test @ weights).argmax(1) == bands.test.y).mean() >= 0.93


def test_nmnist_folder_of_the_authors(alone):
    for split, label, count in (("Train", 3, 12), ("Train", 5, 12), ("Test", 3, 2)):
        folder = alone / "N-MNIST" / split / str(label)
        folder.mkdir(parents=True)
        for i in range(count):
            (folder / f"{i:05d}.bin").write_bytes(bytes([i, 2, 0x80, 0, 9]))
    events = data.load("nmnist", root=alone)
    assert (len(events.train), len(events.val), len(events.test)) == (22, 2, 2)
    assert events.part == "N-MNIST"
    assert events.test[1].tolist() == [(9, 1, 2, 1)]


def test_fsdd_folder_of_wav_files(alone):
    folder = alone / "free-spoken-digit-dataset" / "recordings"
    folder.mkdir(parents=True)
    for digit in range(2):
        for take in range(16):
            with wave.open(str(folder / f"{digit}_anna_{take}.wav"), "wb") as file:
                file.setparams((1, 2, 8000, 0, "NONE", ""))
                file.writeframes(np.full(50 + take, digit, "<i2").tobytes())
    sound = data.load("fsdd", root=alone)
    assert (len(sound.trainval), len(sound.test)) == (22, 10)
    assert {len(r) for r in sound.test} == {50, 51, 52, 53, 54}
    assert all(np.all(sound.test[i] == sound.test.y[i]) for i in range(10))
    (folder / "0_anna_0.wav").write_bytes(b"no sound")
    with pytest.raises(DataError, match="not a readable WAV"):
        list(data.load("fsdd", root=alone).test)


def test_a_tone_lights_its_band():
    rate, bands = 8000, 24
    hz = 1000.0
    tone = (8000 * np.sin(2 * np.pi * hz * np.arange(4000) / rate)).astype(np.int16)
    energy = log_bands(tone, rate, 6, bands)
    assert energy.shape == (6, bands)
    filters = mel_filters(bands, 256, rate)
    nearest = filters[:, round(hz / rate * 256)].argmax()
    assert np.all(energy.argmax(1) == nearest)
    assert log_bands(tone[:1], rate, 6, bands).shape == (6, bands)
    with pytest.raises(DataError, match="without samples"):
        log_bands(tone[:0], rate)


def test_reading_needs_no_torch():
    code = (
        "import sys\nfrom picojoule import data\nimport picojoule.data.events, picojoule.data.event_files\n"
        "data.load('digits').train\nassert 'torch' not in sys.modules and 'sklearn' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
