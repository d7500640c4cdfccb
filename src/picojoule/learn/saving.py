"""Where a run's checkpoints lie and in which form: one file, or one folder with a part from every process.

A run of one process, or with `ddp`, writes `last.safetensors`. A run with `fsdp2` writes a folder
`sharded-STEP` in the format of torch.distributed.checkpoint: every process its own part. Either form resumes
on any number of processes, sharded or not.
"""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from picojoule.core.errors import CheckpointError
from picojoule.learn.checkpoint import load_checkpoint, save_checkpoint
from picojoule.learn.ema import EMA
from picojoule.learn.parallel import Workers, load_whole, placed

REST = "state.safetensors"  # in a sharded folder: all that is no tensor of the model; written last


class Checkpoints:
    """Writes and finds the newest checkpoint of a run.

    Args:
        folder: of the checkpoints.
        workers: this process among all.
    """

    def __init__(self, folder: Path, workers: Workers) -> None:
        self.folder, self.workers = folder, workers
        self.file = folder / "last.safetensors"

    def found(self) -> Path | None:
        """The newest whole checkpoint, or None."""
        sharded = [p.parent for p in self.folder.glob(f"sharded-*/{REST}")]
        whole = [self.file] if self.file.is_file() else []
        return max(
            [*sharded, *whole], key=lambda p: (p / REST if p.is_dir() else p).stat().st_mtime_ns, default=None
        )

    def save(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, ema: EMA | None, rest: dict[str, Any]
    ) -> None:
        """Write all of it; every process calls this at the same step."""
        if self.workers.sharded:
            self._save_parts(model, optimizer, ema, rest)
        elif self.workers.main:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), **rest}
            save_checkpoint(self.file, {**state, "ema": ema.state_dict() if ema else None})
            self._remove_others(self.file)

    def _save_parts(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, ema: EMA | None, rest: dict[str, Any]
    ) -> None:
        groups = optimizer.state_dict()
        tensors, others = _flat(model, groups["state"], ema)
        name = f"sharded-{rest['position']['step']:09d}-{rest['position']['batches']:09d}"
        part = self.folder / f".{name}.part"
        if self.workers.main:
            shutil.rmtree(part, ignore_errors=True)
        self.workers.wait()
        try:
            dcp.save(tensors, checkpoint_id=part)
        except (OSError, RuntimeError) as error:
            raise CheckpointError(
                f"could not write {part}: {error}; the previous checkpoint is whole"
            ) from error
        if self.workers.main:
            known = {"param_groups": groups["param_groups"], "others": others, "with_ema": ema is not None}
            save_checkpoint(part / REST, {**rest, **known})
            shutil.rmtree(self.folder / name, ignore_errors=True)
            part.rename(self.folder / name)
            self._remove_others(self.folder / name)
        self.workers.wait()

    def _remove_others(self, kept: Path) -> None:
        for old in self.folder.glob("*sharded-*"):
            if old != kept:
                shutil.rmtree(old)
        if kept != self.file:
            self.file.unlink(missing_ok=True)

    def load(self, model: nn.Module, optimizer: torch.optim.Optimizer, ema: EMA | None) -> dict[str, Any]:
        """Put the newest checkpoint into model, optimizer and averages; returns the rest.

        Raises:
            CheckpointError: absent, damaged, or of another architecture.
        """
        path = self.found()
        if path is None:
            raise CheckpointError(f"no checkpoint in {self.folder}")
        state = self._read_parts(path, model, optimizer) if path.is_dir() else load_checkpoint(path)
        load_whole(model, state["model"], str(path))
        params = [p for group in optimizer.param_groups for p in group["params"]]
        moments = {
            int(i): {k: placed(v, params[int(i)]) for k, v in row.items()}
            for i, row in state["optimizer"]["state"].items()
        }
        optimizer.load_state_dict({**state["optimizer"], "state": moments})
        if ema:
            now = model.state_dict()
            ema.average = {k: placed(v, now[k]) for k, v in state["ema"].items()}
            ema.updates = state["ema_updates"]
        return state

    def _read_parts(self, path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        rest = load_checkpoint(path / REST)
        params = [p for group in optimizer.param_groups for p in group["params"]]
        now = model.state_dict()
        tensors: dict[str, Any] = {}
        try:
            known = dcp.FileSystemReader(path).read_metadata().state_dict_metadata
            for key, about in known.items():
                if not isinstance(about, TensorStorageMetadata):
                    raise CheckpointError(f"{path} holds {key!r}, which is no tensor; it is not ours")
                kind, _, name = key.partition("/")
                like = params[int(name.partition("/")[0])] if kind == "optimizer" else now.get(name)
                tensors[key] = _empty(about, like)
            with warnings.catch_warnings():  # one process alone is meant
                warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
                dcp.load(tensors, checkpoint_id=path, no_dist=self.workers.world == 1)
        except (OSError, RuntimeError, EOFError, IndexError) as error:
            raise CheckpointError(
                f"{path} is damaged or belongs to another network ({error}); remove it and start anew"
            ) from error
        moments: dict[int, dict[str, Any]] = {int(i): dict(row) for i, row in rest["others"].items()}
        for key in [k for k in tensors if k.startswith("optimizer/")]:
            _, index, name = key.split("/", 2)
            moments.setdefault(int(index), {})[name] = tensors[key]
        return {
            **rest,
            "model": _under(tensors, "model/"),
            "ema": _under(tensors, "ema/") if rest["with_ema"] else None,
            "optimizer": {"state": moments, "param_groups": rest["param_groups"]},
        }


def _flat(
    model: nn.Module, state: dict[int, dict[str, Any]], ema: EMA | None
) -> tuple[dict[str, Any], dict[int, dict[str, Any]]]:
    """All tensors by name, and what the optimizer keeps beside tensors."""
    tensors: dict[str, Any] = {f"model/{k}": v for k, v in model.state_dict().items()}
    if ema:
        tensors |= {f"ema/{k}": v for k, v in ema.state_dict().items()}
    others: dict[int, dict[str, Any]] = {}
    for index, row in state.items():
        for key, value in row.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{index}/{key}"] = value
            else:
                others.setdefault(index, {})[key] = value
    return tensors, others


def _under(tensors: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _empty(about: TensorStorageMetadata, like: Tensor | None) -> Tensor:
    """Room for a stored tensor, sharded where `like` of the same shape is."""
    dtype = about.properties.dtype
    if like is not None and hasattr(like, "placements") and like.shape == about.size:
        return torch.empty_like(like.detach(), dtype=dtype)
    return torch.empty(about.size, dtype=dtype)


__all__ = ["Checkpoints"]
