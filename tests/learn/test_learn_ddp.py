from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from learn_helpers import digits_recipe

from picojoule.learn import load_checkpoint, make_recipe, share_batchnorm_, train
from picojoule.learn.logs import read_metrics

RUN = """
import sys, yaml, torch
torch.set_num_threads(1)
from picojoule.learn import make_recipe, train
train(make_recipe(yaml.safe_load(open(sys.argv[1]))), sys.argv[2], quiet=True, resume=len(sys.argv) > 3)
"""

NORM = """
import os, sys, torch, torch.distributed as dist
from picojoule.learn import share_batchnorm_
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
torch.manual_seed(0)
x = torch.randn(8, 3, 5, 5, dtype=torch.float64) * 4 + 100
weights = torch.randn_like(x)
norm = share_batchnorm_(torch.nn.Sequential(torch.nn.BatchNorm2d(3))).double()
mine = x.chunk(world)[rank].clone().requires_grad_()
(norm(mine) * weights.chunk(world)[rank]).sum().backward()
torch.save({"dx": mine.grad, "state": norm.state_dict()}, sys.argv[1] + f"/{rank}.pt")
dist.destroy_process_group()
"""


def launch(script: str, *args: str, world: int = 2) -> None:
    """Run `script` in `world` processes of one gloo group on the loopback interface."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = {**os.environ, "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    env |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    procs = [
        subprocess.Popen(
            [sys.executable, "-c", script, *args],
            env={**env, "RANK": str(r), "LOCAL_RANK": str(r)},
            stderr=subprocess.PIPE,
        )
        for r in range(world)
    ]
    errors = [p.communicate(timeout=300)[1] for p in procs]
    told = [
        f"rank {r} ended with {p.returncode}: {e.decode()[-2000:]}"
        for r, (p, e) in enumerate(zip(procs, errors))
    ]
    assert all(p.returncode == 0 for p in procs), "\n".join(told)


def test_shared_batchnorm_equals_one_process(tmp_path):
    launch(NORM, str(tmp_path))
    torch.manual_seed(0)
    x = (torch.randn(8, 3, 5, 5, dtype=torch.float64) * 4 + 100).requires_grad_()
    weights = torch.randn(8, 3, 5, 5, dtype=torch.float64)
    norm = torch.nn.Sequential(torch.nn.BatchNorm2d(3)).double()
    (norm(x) * weights).sum().backward()
    parts = [torch.load(tmp_path / f"{r}.pt") for r in range(2)]
    torch.testing.assert_close(torch.cat([p["dx"] for p in parts]), x.grad, rtol=1e-9, atol=1e-9)
    for part in parts:
        for key, value in norm.state_dict().items():
            torch.testing.assert_close(part["state"][key], value, rtol=1e-9, atol=1e-9)


def test_shared_batchnorm_alone_is_batchnorm():
    norm = torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.Sequential(torch.nn.BatchNorm1d(3)))
    keys = list(norm.state_dict())
    share_batchnorm_(norm)
    assert list(norm.state_dict()) == keys
    x = torch.randn(4, 3, 2, 2)
    torch.testing.assert_close(norm[0](x), torch.nn.BatchNorm2d(3)(x))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_processes_have_the_loss_curve_of_one(tmp_path, accumulate):
    values = digits_recipe(epochs=3, accumulate=accumulate, optimizer="sgd", lr=0.05).to_dict()
    values["data"]["augment"] = {"crop": 1, "mixup": 0.2}
    values["data"]["limit"] = 128
    file = tmp_path / "r.yaml"
    file.write_text(yaml.safe_dump(values))
    torch.set_num_threads(1)
    train(make_recipe(values), tmp_path / "one", quiet=True)
    launch(RUN, str(file), str(tmp_path / "two"))
    curves = [
        [(r["train_loss"], r["val_accuracy"]) for r in read_metrics(tmp_path / n) if "epoch" in r]
        for n in ("one", "two")
    ]
    assert len(curves[0]) == 3
    for (loss_one, val_one), (loss_two, val_two) in zip(*curves):
        assert loss_two == pytest.approx(loss_one, rel=2e-3)
        assert val_two == pytest.approx(val_one, abs=2)
    a, b = (load_checkpoint(Path(tmp_path) / n / "weights.safetensors")["model"] for n in ("one", "two"))
    for key in a:
        torch.testing.assert_close(a[key], b[key], rtol=2e-2, atol=2e-3)
