"""Loader: determinism, resume, shares of processes; augmentation."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from picojoule import data
from picojoule.core.errors import CheckpointError, ConfigError, MissingExtraError, ShapeError
from picojoule.data import augment
from picojoule.data.batches import _seed
from picojoule.data.events import make_events
from picojoule.data.sets import Recordings, Split


def _split(n: int = 23, shape=(1, 6, 6)) -> Split:
    x = np.random.default_rng(0).integers(0, 256, (n, *shape), np.uint8)
    x.reshape(n, -1)[:, 0] = np.arange(n)
    return Split(x, np.arange(n) % 3, "train")


def _transform():
    return augment.Compose([augment.Crop(2), augment.Flip(), augment.Scale(), augment.MixUp(3)])


def _epochs(loader, count=2):
    return [(x, y) for _ in range(count) for x, y in loader]


def _same(a, b):
    return len(a) == len(b) and all(
        torch.equal(p, q) for left, right in zip(a, b) for p, q in zip(left, right)
    )


def test_every_sample_once_an_epoch_in_another_order():
    loader = data.loader(_split(24), 8, train=True)
    orders = [[int(v) for x, _ in loader for v in (x[:, 0, 0, 0] * 255).round()] for _ in range(2)]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(24))
    assert orders[0] != orders[1] != list(range(24))


def test_same_seed_same_batches_whatever_the_global_generator():
    first = _epochs(data.loader(_split(), 4, train=True, seed=5, transform=_transform()))
    torch.manual_seed(99)
    np.random.seed(99)
    assert _same(first, _epochs(data.loader(_split(), 4, train=True, seed=5, transform=_transform())))
    assert not _same(first, _epochs(data.loader(_split(), 4, train=True, seed=6, transform=_transform())))


def test_augmentation_leaves_the_global_generator_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    _epochs(data.loader(_split(), 4, train=True, transform=_transform()))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("stop", range(11))
def test_resume_goes_on_with_the_next_batch(stop):
    whole = _epochs(data.loader(_split(), 4, train=True, transform=_transform()))
    cut = data.loader(_split(), 4, train=True, transform=_transform())
    seen = []
    while len(seen) < stop:
        for batch in cut:
            seen.append(batch)
            if len(seen) == stop:
                break
    state = cut.state_dict()
    other = data.loader(_split(), 4, train=True, transform=_transform())
    other.load_state_dict(state)
    while len(seen) < len(whole):
        seen.extend(other)
    assert _same(seen, whole)


def test_a_state_of_another_loader_is_refused():
    state = data.loader(_split(), 4, train=True).state_dict()
    for other in (
        data.loader(_split(), 8, train=True),
        data.loader(_split(), 4, train=True, seed=1),
        data.loader(_split(9), 4, train=True),
    ):
        with pytest.raises(CheckpointError, match="resume with the same"):
            other.load_state_dict(state)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("world", [2, 4])
def test_shares_of_all_processes_are_the_batch_of_one(train, world):
    split = _split(22)
    one = _epochs(data.loader(split, 4, train=train, transform=_transform()))
    shares = [
        _epochs(data.loader(split, 4, train=train, transform=_transform(), rank=r, world_size=world))
        for r in range(world)
    ]
    joined = [tuple(torch.cat(parts) for parts in zip(*[s[i] for s in shares])) for i in range(len(one))]
    assert _same(one, joined)


def test_evaluation_keeps_order_and_the_last_batch_and_starts_anew():
    split = _split(10)
    loader = data.loader(split, 4, train=False)
    assert [len(y) for _, y in loader] == [4, 4, 2]
    for _ in loader:
        break
    x = torch.cat([x for x, _ in loader])
    assert torch.equal(x, torch.from_numpy(split.x).float() / 255)
    assert len(data.loader(split, 4, train=True)) == 2
    assert len(data.loader(split, 16, train=True)) == 1


@pytest.mark.parametrize(
    "options",
    [{"batch_size": 0}, {"batch_size": 3, "world_size": 2}, {"batch_size": 4, "rank": 2, "world_size": 2}],
)
def test_wrong_settings(options):
    with pytest.raises(ConfigError):
        data.loader(_split(), train=True, **options)


def test_recordings_are_prepared_with_a_seed_of_their_own():
    items = [make_events(*np.full((4, n + 1), 1)) for n in range(6)]
    recordings = Recordings(items, np.arange(6) % 2, "train")

    def prepare(events, rng):
        return np.array([len(events), rng.integers(1000)], np.float32)

    loader = data.loader(recordings, 2, train=True, prepare=prepare)
    first = {int(x[0]): float(x[1]) for xs, _ in loader for x in xs}
    second = {int(x[0]): float(x[1]) for xs, _ in loader for x in xs}
    other = data.loader(recordings, 3, train=True, prepare=prepare)
    again = {int(x[0]): float(x[1]) for xs, _ in other for x in xs}
    assert sorted(first) == [1, 2, 3, 4, 5, 6]
    assert first == again  # another batch size, the same numbers
    assert first != second
    with pytest.raises(ConfigError, match="prepare"):
        data.loader(recordings, 2, train=True)


# -- augmentation --------------------------------------------------------------------------------------------


def _apply(transform, x, y=None, seed=0):
    y = torch.zeros(len(x), dtype=torch.int64) if y is None else y
    return transform(x, y, torch.Generator().manual_seed(seed))


def test_crop_is_a_window_of_the_padded_image_a_sample():
    x = torch.from_numpy(_split(40, (3, 5, 7)).x)
    out, _ = _apply(augment.Crop(2), x)
    padded = torch.nn.functional.pad(x, [2] * 4)
    windows = set()
    for before, after in zip(padded, out):
        hits = [
            (i, j) for i in range(5) for j in range(5) if torch.equal(before[:, i : i + 5, j : j + 7], after)
        ]
        assert hits
        windows.add(hits[0])
    assert len(windows) > 8


@pytest.mark.parametrize("transform", [augment.Crop(1), augment.Flip(), augment.Cutout(2)])
def test_frames_of_a_sample_move_together(transform):
    frame = torch.randint(1, 255, (6, 1, 2, 5, 5), dtype=torch.uint8)
    out, _ = _apply(transform, frame.expand(-1, 4, -1, -1, -1))
    assert torch.equal(out, out[:, :1].expand_as(out))


def test_flip_mirrors_the_expected_share():
    x = torch.arange(3.0).expand(4000, 1, 1, 3)
    out, _ = _apply(augment.Flip(0.3), x)
    mirrored = (out[:, 0, 0, 0] == 2).float()
    assert torch.equal(out.sum(-1), x.sum(-1))
    assert abs(float(mirrored.mean()) - 0.3) < 4 * (0.3 * 0.7 / 4000) ** 0.5
    assert torch.equal(_apply(augment.Flip(0.0), x)[0], x)
    assert torch.equal(_apply(augment.Flip(1.0), x)[0], x.flip(-1))


def test_cutout_fills_one_square():
    x = torch.full((200, 2, 9, 9), 5, dtype=torch.uint8)
    out, _ = _apply(augment.Cutout(3), x)
    holes = (out[:, 0] == 0).sum((1, 2))
    assert torch.equal(out[:, 0], out[:, 1])
    assert int(holes.max()) == 9
    assert int(holes.min()) >= 4  # a centre in the corner leaves 2 x 2


def test_mixup_and_cutmix_labels_match_pixels():
    x = torch.eye(4)[:, :, None, None].expand(4, 4, 8, 8).contiguous()  # channel = label
    y = torch.arange(4)
    for transform in (augment.MixUp(4, 1.0), augment.CutMix(4)):
        for seed in range(5):
            out, soft = _apply(transform, x, y, seed)
            torch.testing.assert_close(soft, out.mean((2, 3)), atol=1e-6, rtol=0)
            torch.testing.assert_close(soft.sum(1), torch.ones(4))


def test_mixup_of_soft_labels_and_of_raw_images():
    soft = torch.full((3, 2), 0.5)
    assert torch.equal(_apply(augment.MixUp(2), torch.rand(3, 1, 2, 2), soft)[1], soft)
    for transform in (augment.MixUp(2), augment.Normalise([0.0], [1.0])):
        with pytest.raises(ConfigError, match=r"augment\.Scale"):
            _apply(transform, torch.zeros(3, 1, 2, 2, dtype=torch.uint8))


def test_normalise_gives_zero_mean_and_unit_deviation():
    digits = data.load("digits")
    x, _ = _apply(augment.standard(digits, normalise=True), torch.from_numpy(digits.train.x))
    assert abs(float(x.mean())) < 1e-5
    assert float(x.std(correction=0)) == pytest.approx(1.0, abs=1e-5)
    with pytest.raises(ShapeError, match="channel statistics"):
        _apply(augment.Normalise([0.0, 0.0], [1.0, 1.0]), torch.zeros(2, 1, 2, 2))


@pytest.mark.parametrize("channels", [1, 3])
def test_randaugment_is_seeded_and_stays_in_range(channels):
    pytest.importorskip("kornia", reason="kornia is absent: pip install 'picojoule[images]'")
    x = torch.rand(6, channels, 16, 16, generator=torch.Generator().manual_seed(0))
    transform = augment.RandAugment(2, 9)
    before = torch.get_rng_state()
    first, again, other = (_apply(transform, x, seed=s)[0] for s in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == x.shape
    assert 0.0 <= float(first.min()) <= float(first.max()) <= 1.0


def test_an_absent_kornia_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "kornia.augmentation.auto", None)
    with pytest.raises(MissingExtraError, match=r"picojoule\[images\]"):
        augment.RandAugment()


def test_standard_augmentation_runs_on_a_real_set():
    digits = data.load("digits")
    transform = augment.standard(digits, crop=1, cutout=2, mixup=0.2, cutmix=1.0, normalise=True)
    x, y = next(iter(data.loader(digits.train, 32, train=True, transform=transform)))
    assert x.dtype == torch.float32
    assert x.shape == (32, 1, 8, 8)
    assert y.shape == (32, 10)


def test_seeds_of_batches_do_not_collide():
    seeds = {_seed(s, e, b) for s in range(10) for e in range(20) for b in range(50)}
    seeds |= {_seed(s, e) for s in range(10) for e in range(20)}
    assert len(seeds) == 10 * 20 * 50 + 10 * 20
    assert all(0 <= s < 2**63 for s in seeds)
