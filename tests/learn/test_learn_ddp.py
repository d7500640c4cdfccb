"""Several processes: the loss curve of one, sharded or not; checkpoints that go on with another number."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from learn_helpers import digits_recipe
from torch import nn
from worker_group import launch
from worker_jobs import norm, norm_input, refusal, runs, stop_after

from picojoule.learn import load_checkpoint, make_recipe, share_batchnorm_, train
from picojoule.learn.logs import read_metrics


@pytest.mark.parametrize("world", [2, 3])
def test_shared_batchnorm_equals_one_process(tmp_path, world):
    """With uneven shares; of three processes the last has no rows."""
    launch(norm, tmp_path / "group", str(tmp_path), world=world)
    x, weights = norm_input()
    module = nn.Sequential(nn.BatchNorm2d(3)).double()
    (module(x.requires_grad_()) * weights).sum().backward()
    parts = [torch.load(tmp_path / f"{r}.pt") for r in range(world)]
    torch.testing.assert_close(torch.cat([p["dx"] for p in parts]), x.grad, rtol=1e-9, atol=1e-9)
    for i, p in enumerate(module.parameters()):
        torch.testing.assert_close(sum(part["grads"][i] for part in parts), p.grad, rtol=1e-9, atol=1e-9)
    for part in parts:
        for key, value in module.state_dict().items():
            torch.testing.assert_close(part["state"][key], value, rtol=1e-9, atol=1e-9)


def test_shared_batchnorm_alone_is_batchnorm():
    module = nn.Sequential(nn.BatchNorm2d(3), nn.Sequential(nn.BatchNorm1d(3)))
    keys = list(module.state_dict())
    share_batchnorm_(module)
    assert list(module.state_dict()) == keys
    x = torch.randn(4, 3, 2, 2)
    torch.testing.assert_close(module[0](x), nn.BatchNorm2d(3)(x))


def values(parallel: str = "ddp", **train: Any) -> dict[str, Any]:
    """A short run: 4 updates an epoch, augmented; sums of few numbers, so that rounding stays small."""
    made = digits_recipe(**{"epochs": 2, "optimizer": "sgd", "lr": 0.05, "parallel": parallel, **train})
    found = made.to_dict()
    found["data"] |= {"limit": 128, "augment": {**found["data"]["augment"], "crop": 1, "mixup": 0.2}}
    found["model"]["T"] = 2
    return found


def one(folder: Path, recipe: dict[str, Any]) -> Path:
    torch.set_num_threads(1)
    train(make_recipe(recipe), folder, quiet=True)
    return folder


def agree(a: Path, b: Path) -> None:
    """The same curve and weights, up to rounding; and rounding may flip single spikes."""
    curves = [[(r["train_loss"], r["val_accuracy"]) for r in read_metrics(n) if "epoch" in r] for n in (a, b)]
    assert len(curves[0]) == len(curves[1]) > 0
    for (loss_one, val_one), (loss_two, val_two) in zip(*curves):
        assert loss_two == pytest.approx(loss_one, rel=2e-3)
        assert val_two == pytest.approx(val_one, abs=2)
    first, second = (load_checkpoint(n / "weights.safetensors")["model"] for n in (a, b))
    assert first.keys() == second.keys()
    for key in first:
        torch.testing.assert_close(first[key], second[key], rtol=2e-2, atol=2e-3)


def job(folder: Path, recipe: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"folder": str(folder), "recipe": recipe, **more}


CASES = {
    "plain": {},
    "all": {"accumulate": 2, "clip": 1.0, "ema": 0.9, "checkpoint": "block"},
    "tet": {"loss": {"name": "tet"}},
    "online": {"rule": "sltt"},
}


def test_two_processes_have_the_loss_curve_of_one(tmp_path):
    jobs = [
        job(tmp_path / f"{n}-{kind}", values(kind, **c))
        for n, c in CASES.items()
        for kind in ("ddp", "fsdp2")
    ]
    launch(runs, tmp_path / "group", jobs)
    for name, case in CASES.items():
        alone = one(tmp_path / name, values(**case))
        for kind in ("ddp", "fsdp2"):
            agree(alone, tmp_path / f"{name}-{kind}")


def recipes_for_four(tmp_path: Path) -> list[dict[str, Any]]:
    uneven = values()
    uneven["data"] |= {"limit": 42, "batch": 64}  # one batch of 42 rows: shares of 10 and 11
    return [
        job(tmp_path / "ddp", values()),
        job(tmp_path / "fsdp2", values("fsdp2", optimizer="adamw", lr=1e-3)),
        job(tmp_path / "uneven", uneven),
    ]


def test_four_processes_have_the_loss_curve_of_one(tmp_path):
    jobs = recipes_for_four(tmp_path)
    launch(runs, tmp_path / "group", jobs, world=4)
    for done in jobs:
        folder = Path(done["folder"])
        agree(one(folder.with_suffix(".one"), done["recipe"]), folder)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
@pytest.mark.parametrize("optimizer", ["adamw", "lamb"])
def test_other_optimizers_and_quantizers(tmp_path, kind, optimizer):
    plain = values(kind, optimizer=optimizer, lr=1e-3, clip=0.5)
    small = {**plain, "compress": "w1"}
    launch(runs, tmp_path / "group", [job(tmp_path / "plain", plain), job(tmp_path / "w1", small)])
    agree(one(tmp_path / "one", plain), tmp_path / "plain")
    agree(one(tmp_path / "one_w1", small), tmp_path / "w1")


def place(folder: Path) -> dict[str, Any]:
    """Position of the checkpoint in a folder of either form."""
    found = [
        *folder.glob("checkpoints/last.safetensors"),
        *folder.glob("checkpoints/sharded-*/state.safetensors"),
    ]
    assert len(found) == 1, found
    state = load_checkpoint(found[0])
    return {**state["feed"], "step": state["position"]["step"], "seen": state["position"]["seen"]}


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_resumes_in_mid_epoch_on_another_number_of_processes(tmp_path, kind):
    """Stopped after 6 of 8 steps, in the second epoch, by 1, 2 and 4 processes; gone on by 2, 4 and 1."""
    recipe = values(kind, checkpoint_steps=3, ema=0.9)
    alone = one(tmp_path / "alone", recipe)
    make = {"stop_after": 6}
    stop_after(make_recipe(recipe), tmp_path / "1to2", 6)
    launch(runs, tmp_path / "a", [job(tmp_path / n, recipe, **make) for n in ("2to4", "2to1")])
    for name in ("1to2", "2to4", "2to1"):
        found = place(tmp_path / name)
        assert (found["epoch"], found["position"], found["step"], found["seen"]) == (1, 2, 6, 64)
    sharded = list((tmp_path / "2to4" / "checkpoints").glob("sharded-*/*.distcp"))
    assert len(sharded) == (2 if kind == "fsdp2" else 0)
    launch(runs, tmp_path / "b", [job(tmp_path / "1to2", recipe, resume=True)])
    launch(runs, tmp_path / "c", [job(tmp_path / "2to4", recipe, resume=True)], world=4)
    train(make_recipe(recipe), tmp_path / "2to1", quiet=True, resume=True)
    for name in ("1to2", "2to4", "2to1"):
        agree(alone, tmp_path / name)


def test_what_does_not_fit_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    odd = values()
    odd["data"]["batch"] = 31
    launch(refusal, tmp_path / "a", odd, "a multiple of 2; write data.batch=32")
    launch(refusal, tmp_path / "b", values("fsdp2", precision="fp16"), "use train.precision=bf16")
    launch(refusal, tmp_path / "c", values("fsdp2", checkpoint="time"), 'use "block"')


def test_the_command_under_torchrun(tmp_path):
    out = tmp_path / "run"
    settings = ["model.T=1", "train.epochs=1", "data.limit=128", "train.parallel=fsdp2"]
    line = ["-m", "picojoule.cli.main", "train", "digits_vgg", *settings, "--out", str(out), "--json"]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    env = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run([sys.executable, *torchrun, *line], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)  # one document: the first process alone reports
    assert found["steps"] == 2
    assert json.loads((out / "result.json").read_text())["test_accuracy"] == found["test_accuracy"]
