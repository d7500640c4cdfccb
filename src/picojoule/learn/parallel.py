"""Several processes: data parallel (DDP) or sharded (FSDP2), on CPUs (gloo) and GPUs (nccl).

ddp     every process holds the whole model; gradients are averaged
fsdp2   every process holds a part of every weight, of its gradient and of the optimizer's state; a block's
        weights are collected while the block runs
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, nn

from picojoule.core.errors import ConfigError
from picojoule.learn.batchnorm import share_batchnorm_
from picojoule.learn.checkpoint import load_weights
from picojoule.learn.distributed import leave_group_at_exit
from picojoule.learn.recompute import blocks_of

PARALLEL = ("ddp", "fsdp2")


class Workers:
    """This process among all of a run, on Accelerate.

    Args:
        kind: "ddp" or "fsdp2"; without meaning in one process.
        precision, accumulate: as in a recipe.
    Raises:
        ConfigError: fp16 with fsdp2; settings for FSDP in Accelerate's own configuration.
    """

    def __init__(self, kind: str, precision: str, accumulate: int) -> None:
        if os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true":
            raise ConfigError(
                "Accelerate's own FSDP settings are not read; launch without --use_fsdp and set "
                "train.parallel=fsdp2"
            )
        # Accelerate keeps one state a process; a second run in it may want another precision.
        AcceleratorState._reset_state()
        # Buffers are equal in all processes: shared BatchNorm computes them from the same numbers.
        options = DistributedDataParallelKwargs(broadcast_buffers=False)
        self.accelerator = Accelerator(
            mixed_precision=precision,
            gradient_accumulation_steps=accumulate,
            cpu=not torch.cuda.is_available(),
            kwargs_handlers=[options],
        )
        self.world, self.rank = self.accelerator.num_processes, self.accelerator.process_index
        self.sharded = kind == "fsdp2" and self.world > 1
        self.device: torch.device = self.accelerator.device
        self.main: bool = self.accelerator.is_main_process
        if self.world > 1:
            leave_group_at_exit()
        if self.sharded and precision == "fp16":
            raise ConfigError("train.parallel=fsdp2 does not scale losses; use train.precision=bf16, or ddp")
        self._whole: list[nn.Parameter] = []  # not sharded: weights of one number

    # -- model and optimizer ---------------------------------------------------------------------------

    def wrap(self, model: nn.Module, *, channels_last: bool) -> nn.Module:
        """Move, share BatchNorm, shard; what the loop calls forward on. Make the optimizer afterwards."""
        model.to(self.device)
        if self.world > 1:
            share_batchnorm_(model)
        if channels_last and not self.sharded and any(p.dim() == 4 for p in model.parameters()):
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if not self.sharded:
            with warnings.catch_warnings():  # torch has no other word yet for leaving buffers alone
                warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
                return self.accelerator.prepare_model(model)
        self._shard(model)
        return model

    def _shard(self, model: nn.Module) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(self.device.type, (self.world,))
        self._whole = [p for p in model.parameters() if p.dim() == 0]
        options: dict[str, Any] = {"mesh": mesh, "ignored_params": set(self._whole)}
        for _, block in blocks_of(model):
            if any(p.dim() for p in block.parameters()):
                fully_shard(block, **options)
        fully_shard(model, **options)

    def raw(self, model: nn.Module) -> nn.Module:
        """The module inside what `wrap` returned."""
        return model if self.sharded else self.accelerator.unwrap_model(model)

    def optimizer(self, optimizer: torch.optim.Optimizer) -> Any:
        """The optimizer under Accelerate, which knows about loss scaling."""
        return self.accelerator.prepare_optimizer(optimizer)

    # -- one batch -------------------------------------------------------------------------------------

    @contextmanager
    def batch(self, model: nn.Module, sync: bool) -> Iterator[None]:
        """Forward and backward of one batch; without `sync` gradients stay in this process."""
        self.accelerator.gradient_state._set_sync_gradients(sync)
        hold: AbstractContextManager[Any] = contextlib.nullcontext()
        if self.sharded:
            model.set_requires_gradient_sync(sync)  # type: ignore[operator]
        elif not sync:
            hold = self.accelerator.no_sync(model)
        with hold, self.accelerator.autocast():
            yield

    @torch.no_grad()
    def finish_gradients(self, model: nn.Module, clip: float) -> None:
        """Average what sharding left whole; scale gradients to a global norm of at most `clip` (0: off)."""
        for p in self._whole:
            if p.requires_grad:
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad
                dist.all_reduce(p.grad)
                p.grad /= self.world
        if not clip:
            return
        if not self.sharded:
            self.accelerator.clip_grad_norm_(model.parameters(), clip)
            return
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        norms = [whole(torch.linalg.vector_norm(g)) for g in grads]
        scale = (clip / (torch.linalg.vector_norm(torch.stack(norms)) + 1e-6)).clamp(max=1.0)
        for g in grads:
            local(g).mul_(scale)

    # -- agreements ------------------------------------------------------------------------------------

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """Each flag true in all processes where it is in one of them."""
        if self.world == 1:
            return flags
        mine = torch.tensor([float(f) for f in flags], device=self.device)
        dist.all_reduce(mine, op=dist.ReduceOp.MAX)
        return tuple(bool(f) for f in mine.tolist())

    def total(self, *numbers: float) -> list[float]:
        """Sums over the processes."""
        if self.world == 1:
            return list(numbers)
        mine = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        dist.all_reduce(mine)
        return mine.tolist()

    def seed_batch(self, seed: int, epoch: int, batch: int) -> None:
        """With several processes: random numbers of a batch depend on these and the rank alone.

        So dropout differs between processes, and a run that is resumed on other processes goes on in a
        defined way. One process keeps its stream of random numbers, which checkpoints hold.
        """
        if self.world > 1:
            text = f"{seed} {epoch} {batch} {self.rank}".encode()
            torch.manual_seed(int.from_bytes(hashlib.blake2b(text, digest_size=7).digest()))

    def wait(self) -> None:
        """Until all processes are here."""
        if self.world > 1:
            dist.barrier()

    @contextmanager
    def stop_signals(self) -> Iterator[list[int]]:
        """Ctrl-C and termination as a note in the list, so that all processes can stop at the same step.

        A process that left on its own would keep the others waiting in an exchange. The second signal acts as
        usual. One process alone, or outside the main thread, keeps its handlers.
        """
        noted: list[int] = []
        if self.world == 1 or threading.current_thread() is not threading.main_thread():
            yield noted
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def note(number: int, frame: Any) -> None:
            noted.append(number)
            signal.signal(number, before[signal.Signals(number)])

        for number in before:
            signal.signal(number, note)
        try:
            yield noted
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def whole(value: Tensor) -> Tensor:
    """All of a sharded tensor, on every process; other tensors as they are."""
    collect: Any = getattr(value, "full_tensor", None)
    return value if collect is None else collect()


def local(value: Tensor) -> Tensor:
    """This process's part of a sharded tensor; other tensors as they are."""
    part: Any = getattr(value, "to_local", None)
    return value if part is None else part()


def whole_state(state: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """Named tensors without shards; every process has to call it."""
    return {name: whole(value) for name, value in state}


def placed(value: Any, like: Any) -> Any:
    """A whole tensor, sharded where `like` of the same shape is; anything else as it is."""
    if not isinstance(value, Tensor) or hasattr(value, "placements") or not hasattr(like, "placements"):
        return value
    if value.shape != like.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def load_whole(model: nn.Module, weights: dict[str, Tensor], origin: str) -> None:
    """`load_weights` for a model that may be sharded."""
    now = model.state_dict()
    load_weights(model, {k: placed(v, now.get(k)) for k, v in weights.items()}, origin)


__all__ = ["PARALLEL", "Workers", "load_whole", "local", "placed", "whole", "whole_state"]
