"""Batch-wise image augmentation with tensor operations; torch.

A transform maps (x, y, generator) to (x, y): x [B, ..., H, W] raw uint8 or scaled float, y [B] labels or
[B, classes] soft ones. Random numbers are drawn on the CPU from the given generator, so the result is the
same on every device. Frames of a sequence [B, T, C, H, W] share the random numbers of their sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from picojoule.core.errors import ConfigError, ShapeError, need_extra
from picojoule.data.batches import Transform
from picojoule.data.sets import ImageSet


def _planes(x: Tensor) -> Tensor:
    """[B, ..., H, W] -> [B, K, H, W]."""
    if x.dim() < 3:
        raise ShapeError(f"images are [B, ..., H, W], got {tuple(x.shape)}")
    return x.reshape(x.shape[0], -1, *x.shape[-2:])


def _need_float(x: Tensor, what: str) -> None:
    if not x.is_floating_point():
        raise ConfigError(
            f"{what} works on scaled images, got {x.dtype}; put augment.Scale(max_value) before it"
        )


class Compose:
    """Transforms in a row."""

    def __init__(self, transforms: Sequence[Transform]) -> None:
        self.transforms = list(transforms)

    def __call__(self, x: Tensor, y: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        for transform in self.transforms:
            x, y = transform(x, y, generator)
        return x, y


class Crop:
    """Pad by `padding` pixels of zero and cut a window of the old size, placed anew for each sample."""

    def __init__(self, padding: int) -> None:
        if padding < 1:
            raise ConfigError(f"padding must be at least 1 pixel, got {padding}")
        self.padding = padding

    def __call__(self, x: Tensor, y: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        planes = _planes(x)
        batch, _, height, width = planes.shape
        corner = torch.randint(2 * self.padding + 1, (2, batch), generator=generator).to(x.device)
        padded = F.pad(planes, [self.padding] * 4)
        rows = corner[0, :, None] + torch.arange(height, device=x.device)
        cols = corner[1, :, None] + torch.arange(width, device=x.device)
        sample = torch.arange(batch, device=x.device)[:, None, None]
        cut = padded[sample, :, rows[:, :, None], cols[:, None, :]]  # [B, H, W, K]
        return cut.permute(0, 3, 1, 2).reshape(x.shape), y


class Flip:
    """Mirror left and right with probability `p`, for each sample on its own."""

    def __init__(self, p: float = 0.5) -> None:
        if not 0.0 <= p <= 1.0:
            raise ConfigError(f"p must lie in 0..1, got {p}")
        self.p = p

    def __call__(self, x: Tensor, y: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        mirror = (torch.rand(len(x), generator=generator) < self.p).to(x.device)
        return torch.where(mirror.reshape(-1, *[1] * (x.dim() - 1)), x.flip(-1), x), y


class Cutout:
    """Set a square of `size` pixels, centred anywhere in the image, to `fill`.

    Source: DeVries, Taylor: Improved regularization of CNNs with cutout, arXiv:1708.04552. The square may
    reach over the border, as there; the fill is a raw value, so that before normalisation 0 is black.
    """

    def __init__(self, size: int, fill: float = 0.0) -> None:
        if size < 1:
            raise ConfigError(f"size must be at least 1 pixel, got {size}")
        self.size, self.fill = size, fill

    def __call__(self, x: Tensor, y: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        hole = _box(x, torch.full((len(x), 2), self.size), generator)
        return x.masked_fill(hole.reshape(len(x), *[1] * (x.dim() - 3), *x.shape[-2:]), self.fill), y


def _box(x: Tensor, size: Tensor, generator: Generator) -> Tensor:
    """True inside a box [B, H, W] of `size` [B, 2] (rows, columns) whose centre is uniform over the image."""
    inside = []
    for axis in (0, 1):
        length = x.shape[axis - 2]
        centre = torch.randint(length, (len(x),), generator=generator)
        start = centre - size[:, axis] // 2
        at = torch.arange(length)
        inside.append((at >= start[:, None]) & (at < (start + size[:, axis])[:, None]))
    return (inside[0][:, :, None] & inside[1][:, None, :]).to(x.device)


class Scale:
    """Raw uint8 to float32 in units of `max_value`."""

    def __init__(self, max_value: float = 255.0) -> None:
        self.max_value = max_value

    def __call__(self, x: Tensor, y: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        return (x if x.is_floating_point() else x.to(torch.float32) / self.max_value), y


class Normalise:
    """(x - mean) / std per channel, for scaled images; take both from `ImageSet.statistics`."""

    def __init__(self, mean: Any, std: Any, axis: int = 1) -> None:
        self.mean, self.std, self.axis = np.asarray(mean), np.asarray(std), axis
        if self.mean.shape != self.std.shape or self.mean.ndim != 1 or np.any(self.std <= 0):
            raise ConfigError("mean and std are vectors of the channels, with std > 0")

    def __call__(self, x: Tensor, y: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        _need_float(x, "Normalise")
        if x.shape[self.axis] != self.mean.size:
            raise ShapeError(f"{self.mean.size} channel statistics, but axis {self.axis} of {tuple(x.shape)}")
        shape = [1] * x.dim()
        shape[self.axis] = -1
        mean, std = (torch.as_tensor(v, dtype=x.dtype, device=x.device) for v in (self.mean, self.std))
        return (x - mean.reshape(shape)) / std.reshape(shape), y


class RandAugment:
    """`n` random operations of strength `m` (0..30) on each scaled image [B, 1 or 3, H, W], through kornia.

    Source: Cubuk, Zoph, Shlens, Le: RandAugment, arXiv:1909.13719; operations and ranges are kornia's.
    Needs `picojoule[images]`.
    """

    def __init__(self, n: int = 2, m: int = 9) -> None:
        if n < 1 or not 0 < m < 30:
            raise ConfigError(f"n must be at least 1 and m lie between 0 and 30, got n={n}, m={m}")
        try:
            from kornia.augmentation.auto import RandAugment as Policy
        except ImportError as error:
            raise need_extra("kornia", "images") from error
        self._policy = Policy(n=n, m=m)

    def __call__(self, x: Tensor, y: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        _need_float(x, "RandAugment")
        if x.dim() != 4 or x.shape[1] not in (1, 3):
            raise ShapeError(f"RandAugment works on images [B, 1 or 3, H, W], got {tuple(x.shape)}")
        grey = x.shape[1] == 1
        seed = int(torch.randint(2**62, (), generator=generator))
        # kornia draws from torch's global generator; it is put back afterwards.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            out = self._policy(x.expand(-1, 3, -1, -1) if grey else x)
        out = out.clamp(0.0, 1.0)
        return (out.mean(1, keepdim=True) if grey else out).to(x.dtype), y


def _soft(y: Tensor, classes: int) -> Tensor:
    return F.one_hot(y, classes).to(torch.float32) if y.dim() == 1 else y


def _beta(alpha: float, generator: Generator) -> float:
    """One draw of Beta(alpha, alpha); torch's own sampler takes no generator."""
    return float(np.random.default_rng(int(torch.randint(2**62, (), generator=generator))).beta(alpha, alpha))


class MixUp:
    """Blend each sample with a partner of the batch, and the labels alike.

        x = lam x_i + (1 - lam) x_j,  lam ~ Beta(alpha, alpha), one a batch


    Source: Zhang, Cisse, Dauphin, Lopez-Paz: mixup, arXiv:1710.09412. Labels become soft [B, classes].
    """

    def __init__(self, classes: int, alpha: float = 0.2) -> None:
        if alpha <= 0:
            raise ConfigError(f"alpha must be positive, got {alpha}")
        self.classes, self.alpha = classes, alpha

    def __call__(self, x: Tensor, y: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        _need_float(x, "MixUp")
        lam = _beta(self.alpha, generator)
        partner = torch.randperm(len(x), generator=generator).to(x.device)
        soft = _soft(y, self.classes)
        return lam * x + (1 - lam) * x[partner], lam * soft + (1 - lam) * soft[partner]


class CutMix:
    """Paste a box of a partner image; labels mix by the share of pixels that really changed hands.

    The box has sqrt(1 - lam) of each side, lam ~ Beta(alpha, alpha); it is cut at the border.
    Source: Yun et al.: CutMix, arXiv:1905.04899. Labels become soft [B, classes].
    """

    def __init__(self, classes: int, alpha: float = 1.0) -> None:
        if alpha <= 0:
            raise ConfigError(f"alpha must be positive, got {alpha}")
        self.classes, self.alpha = classes, alpha

    def __call__(self, x: Tensor, y: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        side = (1.0 - _beta(self.alpha, generator)) ** 0.5
        size = torch.tensor([int(side * x.shape[-2]), int(side * x.shape[-1])])
        box = _box(x[:1], size[None], generator)[0]
        partner = torch.randperm(len(x), generator=generator).to(x.device)
        lam = 1.0 - float(box.float().mean())
        soft = _soft(y, self.classes)
        return torch.where(box, x[partner], x), lam * soft + (1 - lam) * soft[partner]


class OneOf:
    """One of several transforms for each batch, chosen with equal chance."""

    def __init__(self, transforms: Sequence[Transform]) -> None:
        if not transforms:
            raise ConfigError("OneOf needs at least one transform")
        self.transforms = list(transforms)

    def __call__(self, x: Tensor, y: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        choice = int(torch.randint(len(self.transforms), (), generator=generator))
        return self.transforms[choice](x, y, generator)


def standard(
    images: ImageSet,
    *,
    crop: int = 0,
    flip: bool = False,
    cutout: int = 0,
    randaugment: tuple[int, int] | None = None,
    mixup: float = 0.0,
    cutmix: float = 0.0,
    normalise: bool = False,
) -> Compose:
    """The usual augmentation of a training split, in the usual order.

    Args:
        images: gives max_value, the number of classes and the statistics of its training split.
        crop: pixels of padding, 0 for none.
        flip: mirror half of the images.
        cutout: side of the square in pixels, 0 for none.
        randaugment: (n, m).
        mixup, cutmix: alpha, 0 for none; with both, each batch gets one of the two.
        normalise: subtract the mean and divide by the deviation per channel.
    """
    steps: list[Transform] = []
    if crop:
        steps.append(Crop(crop))
    if flip:
        steps.append(Flip())
    if cutout:
        steps.append(Cutout(cutout))
    steps.append(Scale(images.max_value))
    if randaugment:
        steps.append(RandAugment(*randaugment))
    mixes: list[Transform] = []
    if mixup:
        mixes.append(MixUp(len(images.classes), mixup))
    if cutmix:
        mixes.append(CutMix(len(images.classes), cutmix))
    if mixes:
        steps.append(OneOf(mixes))
    if normalise:
        steps.append(Normalise(*images.statistics, axis=1 if images.steps is None else 2))
    return Compose(steps)
