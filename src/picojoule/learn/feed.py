"""Batches of a run: the recipe's data, augmented for training and normalised the same way for evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import Tensor

from picojoule.core.errors import ConfigError
from picojoule.data import augment
from picojoule.data.batches import Loader
from picojoule.learn.config import Recipe


def as_arrays(data: Any, options: dict[str, Any]) -> Any:
    """Recordings to frames or features by the recipe's `data.options`; arrays stay as they are."""
    if hasattr(data, "frames"):
        return data.frames(**{"steps": 4, **options})
    if hasattr(data, "features"):
        return data.features(**options)
    if options:
        raise ConfigError(f"data.options {sorted(options)} mean nothing for {data.part}; remove them")
    return data


class Feed:
    """Training batches that resume in the middle of an epoch, and evaluation batches of any split.

    Args:
        data: an ImageSet (images, frames or features).
        recipe: gives batch sizes, augmentation, seed and limit.
        rank, world: this process among how many; a batch of the recipe is the batch of all of them.
    """

    def __init__(self, data: Any, recipe: Recipe, rank: int = 0, world: int = 1) -> None:
        d = recipe.data
        a = d.augment
        self.data, self.rank, self.world = data, rank, world
        self.eval_batch = d.eval_batch
        self.plain = augment.standard(data, normalise=d.normalise)
        rand = (2, a.randaugment) if a.randaugment else None
        transform = augment.standard(
            data,
            crop=a.crop,
            flip=a.flip,
            cutout=a.cutout,
            randaugment=rand,
            mixup=a.mixup,
            cutmix=a.cutmix,
            normalise=d.normalise,
        )
        split = data.train if d.limit is None else data.train.head(d.limit)
        if d.batch % world:
            near = max(world, round(d.batch / world) * world)
            raise ConfigError(
                f"data.batch={d.batch} is the batch of all {world} processes, a multiple of {world}; "
                f"write data.batch={near}"
            )
        if len(split) < world:
            raise ConfigError(
                f"{len(split)} training samples cannot be divided over {world} processes; use fewer"
            )
        self.loader = Loader(
            split, d.batch, train=True, seed=recipe.seed, transform=transform, rank=rank, world_size=world
        )

    @property
    def batches(self) -> int:
        """Batches an epoch."""
        return len(self.loader)

    @property
    def rows(self) -> int:
        """Samples of a training batch, of all processes together."""
        return min(self.loader.batch_size, len(self.loader.split))

    @property
    def position(self) -> int:
        """Batches handed out in this epoch."""
        return self.loader.position

    def train(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The rest of the present epoch."""
        return iter(self.loader)

    def next_epoch(self) -> None:
        """Begin the next epoch, also when the loop left the iterator early."""
        if self.loader.position:
            self.loader.epoch, self.loader.position = self.loader.epoch + 1, 0

    def evaluation(self, split: str) -> Iterator[tuple[Tensor, Tensor]]:
        """This process's share of "train", "val" or "test", in order and without augmentation."""
        part = getattr(self.data, split)
        return iter(
            Loader(
                part,
                self.eval_batch,
                train=False,
                transform=self.plain,
                rank=self.rank,
                world_size=self.world,
            )
        )

    def size(self, split: str) -> int:
        """Samples of a split."""
        return len(getattr(self.data, split))

    def state_dict(self) -> dict[str, int]:
        """Epoch and position."""
        return self.loader.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.loader.load_state_dict(state)


def input_table(data: Any, normalise: bool) -> np.ndarray:
    """Real value of every raw input: table[c, p] for channel c and raw value p in 0..255, [C, 256]."""
    channels = data.shape[1] if data.steps is not None else data.shape[0]
    values = np.arange(256) / data.max_value
    if not normalise:
        return np.tile(values, (channels, 1))
    mean, std = data.statistics
    return (values[None, :] - mean[:, None]) / std[:, None]
