"""What the worker processes of the tests do; see `worker_group`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from picojoule.core.errors import ConfigError
from picojoule.layers import event_conv
from picojoule.learn import Trainer, make_recipe, share_batchnorm_, train


def norm(rank: int, world: int, out: str) -> None:
    """Forward and backward of shared BatchNorm on uneven shares, one of them empty."""
    x, weights = norm_input()
    edges = [0, 3, 8, 8, 8][: world + 1]
    edges[-1] = 8
    module = share_batchnorm_(nn.Sequential(nn.BatchNorm2d(3))).double()
    mine = x[edges[rank] : edges[rank + 1]].clone().requires_grad_()
    (module(mine) * weights[edges[rank] : edges[rank + 1]]).sum().backward()
    grads = [p.grad for p in module.parameters()]
    torch.save({"dx": mine.grad, "state": module.state_dict(), "grads": grads}, f"{out}/{rank}.pt")


def norm_input() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(8, 3, 5, 5, dtype=torch.float64) * 4 + 100, torch.randn(8, 3, 5, 5).double()


def runs(rank: int, world: int, jobs: list[dict[str, Any]]) -> None:
    """Recipes one after the other: {"recipe", "folder", and maybe "resume", "stop_after"}."""
    for job in jobs:
        recipe = make_recipe(job["recipe"])
        if "stop_after" in job:
            stop_after(recipe, job["folder"], job["stop_after"], resume=job.get("resume", False))
        else:
            train(recipe, job["folder"], quiet=True, resume=job.get("resume", False))


def event_runs(rank: int, world: int, jobs: list[dict[str, Any]]) -> None:
    """As `runs`; every recipe calls the event kernels, forward and for weights."""
    native: Any = event_conv.native
    called: set[str] = set()
    for name in ("event_forward", "event_weight_gradient"):
        kernel = getattr(native, name)
        setattr(native, name, lambda *a, k=kernel, n=name: (called.add(n), k(*a))[1])
    for job in jobs:
        called.clear()
        runs(rank, world, [job])
        assert called == {"event_forward", "event_weight_gradient"}, (job["folder"], called)


def stop_after(recipe: Any, folder: str | Path, steps: int, *, resume: bool = False) -> None:
    """Train until so many steps are done and a checkpoint is written, as a kill in between would leave it."""
    trainer = Trainer(recipe, folder, quiet=True, resume=resume)
    save = trainer._save

    def last_save() -> None:
        save()
        if trainer.at.step >= steps:
            raise StopIteration

    trainer._save = last_save  # type: ignore[method-assign]
    try:
        trainer.fit()
    except StopIteration:
        return
    raise AssertionError("the run ended before it was stopped")


def refusal(rank: int, world: int, values: dict[str, Any], told: str) -> None:
    """The recipe is refused with these words, by every process."""
    with pytest.raises(ConfigError, match=re.escape(told)):
        Trainer(make_recipe(values), "nowhere", quiet=True)
