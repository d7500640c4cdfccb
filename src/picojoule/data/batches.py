"""Deterministic batches that can be resumed in the middle of an epoch and divided over processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from picojoule.core.errors import CheckpointError, ConfigError, DataError
from picojoule.data.sets import Recordings, Split
from picojoule.data.splitting import hash64, hash_seed, permutation

Transform = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]
Prepare = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def _seed(*numbers: int) -> int:
    """One 63-bit seed out of several numbers, order included."""
    mixed = 0
    for number in numbers:
        mixed = int(hash64(np.array([number & 0x7FFFFFFFFFFFFFFF]), seed=mixed)[0] ^ hash_seed(number)) >> 1
    return mixed


class Loader:
    """Iterates over a split; iteration e of a training loader is epoch e.

    Order, batches and random numbers depend on (seed, epoch, batch number) alone: not on the number of
    processes, on threads, or on torch's global generator. Every process assembles and transforms the whole
    batch and keeps its share of the rows, so that the shares of all processes together are the batch of one
    process; batch transforms such as mixup stay exact.

    A training loader remembers where it is: after `break`, or after `load_state_dict`, iterating goes on with
    the next batch of the same epoch. An evaluation loader starts at its first batch every time.
    """

    def __init__(
        self,
        split: Split | Recordings,
        batch_size: int,
        *,
        train: bool,
        seed: int = 0,
        transform: Transform | None = None,
        prepare: Prepare | None = None,
        rank: int = 0,
        world_size: int = 1,
        device: str | torch.device = "cpu",
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
        if not 0 <= rank < world_size:
            raise ConfigError(f"rank must lie in 0..{world_size - 1}, got {rank}")
        if train and batch_size % world_size:
            raise ConfigError(
                f"batch_size={batch_size} of all processes must be a multiple of world_size={world_size}"
            )
        if isinstance(split, Recordings) and prepare is None:
            raise ConfigError(
                "recordings differ in length: give prepare=f(recording, rng) that makes arrays of one shape, "
                "or load frames with EventSet.frames / AudioSet.features"
            )
        self.split, self.batch_size, self.train, self.seed = split, batch_size, train, seed
        self.transform, self.prepare = transform, prepare
        self.rank, self.world_size, self.device = rank, world_size, torch.device(device)
        self.epoch = 0
        self.position = 0
        self._x = None if isinstance(split, Recordings) else _tensor(split.x).to(self.device)
        self._y = torch.from_numpy(np.ascontiguousarray(split.y)).to(self.device)
        self._max_value = 1.0 if isinstance(split, Recordings) else split.max_value

    def __len__(self) -> int:
        """Batches an epoch: a training loader leaves out a smaller last batch unless it is the only one."""
        whole, rest = divmod(len(self.split), self.batch_size)
        if self.train and whole:
            return whole
        return whole + bool(rest)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        if not self.train:
            for number in range(len(self)):
                yield self._share(*self._batch(np.arange(len(self.split)), 0, number))
            return
        order = permutation(len(self.split), _seed(self.seed, self.epoch))
        while self.position < len(self):
            # Counted before the batch is handed out: a checkpoint taken after its step goes on with the next.
            number, self.position = self.position, self.position + 1
            yield self._share(*self._batch(order, self.epoch, number))
        self.epoch, self.position = self.epoch + 1, 0

    def _batch(self, order: np.ndarray, epoch: int, number: int) -> tuple[Tensor, Tensor]:
        rows = order[number * self.batch_size : (number + 1) * self.batch_size]
        index = torch.from_numpy(rows).to(self.device)
        x = self._prepared(rows, epoch) if self._x is None else self._x[index]
        y = self._y[index]
        if self.transform is not None:
            generator = torch.Generator().manual_seed(_seed(self.seed, epoch, number))
            x, y = self.transform(x, y, generator)
        if not x.is_floating_point():
            x = x.to(torch.float32) / self._max_value
        return x, y

    def _prepared(self, rows: np.ndarray, epoch: int) -> Tensor:
        """Recordings as one array; a recording's random numbers depend on (seed, epoch, recording) alone."""
        if self.prepare is None or not isinstance(self.split, Recordings):
            raise ConfigError("recordings need prepare=f(recording, rng)")
        made = []
        for row in rows:
            rng = np.random.default_rng(_seed(self.seed, epoch, int(row)))
            made.append(self.prepare(self.split[int(row)], rng))
        shapes = sorted({array.shape for array in made})
        if len(shapes) > 1:
            raise DataError(f"prepare made arrays of shapes {shapes}; one shape is needed")
        return _tensor(np.stack(made)).to(self.device)

    def _share(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """This process's rows; the last evaluation batch may leave a process fewer rows, or none."""
        if self.world_size == 1:
            return x, y
        edges = [len(x) * r // self.world_size for r in (self.rank, self.rank + 1)]
        return x[edges[0] : edges[1]], y[edges[0] : edges[1]]

    def state_dict(self) -> dict[str, int]:
        """Epoch and next batch, with what they are worth nothing without."""
        return {"epoch": self.epoch, "position": self.position, **self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken.

        Raises:
            CheckpointError: the state belongs to another seed, batch size or data set.
        """
        for key, value in self._identity().items():
            if state.get(key) != value:
                raise CheckpointError(
                    f"the checkpoint's loader has {key}={state.get(key)}, this one {value}; "
                    "resume with the same data, seed and batch size"
                )
        self.epoch, self.position = int(state["epoch"]), int(state["position"])

    def _identity(self) -> dict[str, int]:
        return {"seed": self.seed, "batch_size": self.batch_size, "samples": len(self.split)}


def _tensor(array: np.ndarray) -> Tensor:
    """A tensor that shares the array's memory where it may be written, else a copy."""
    array = np.ascontiguousarray(array)
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def loader(
    split: Split | Recordings,
    batch_size: int,
    train: bool,
    seed: int = 0,
    transform: Transform | None = None,
    **options: Any,
) -> Loader:
    """A `Loader` of batches (x float32 [B, ...] in units of max_value, y [B] int64 or soft [B, classes]).

    Args:
        split: a split of a data set, or recordings together with `prepare`.
        batch_size: rows of a batch over all processes.
        train: shuffle, drop the last smaller batch, remember the position.
        seed: of order and augmentation.
        transform: f(x uint8 [B, ...], y, generator) -> (x, y); uint8 results are divided by the split's
            max_value, float results are taken as they are.
        options: `prepare`, `rank`, `world_size`, `device` of `Loader`.
    """
    return Loader(split, batch_size, train=train, seed=seed, transform=transform, **options)
