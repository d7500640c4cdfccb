"""Training with `spike_aware_`: the curves of the ordinary layers, alone and together with other switches."""

from __future__ import annotations

import copy
import statistics

import pytest
import torch
import torch.nn.functional as F
from learn_helpers import digits_recipe
from torch import Tensor, nn
from worker_group import launch
from worker_jobs import event_runs

import picojoule
from picojoule import data as datasets
from picojoule.layers import EventLimits, event_conv, fuse_norm_, is_spike_aware, spike_aware_
from picojoule.layers.event_bits import AVAILABLE
from picojoule.learn import checkpoint_, make_recipe, train
from picojoule.learn.logs import read_metrics
from picojoule.models.spiking_vgg import SpikingVGG
from picojoule.neurons import LIF

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="a build without the extension")
ALWAYS = EventLimits(1.0, 1.0, 1.0)
KERNELS = ("event_forward", "event_weight_gradient", "event_input_gradient")


def network(seed: int = 0, surrogate: str = "rect") -> SpikingVGG:
    torch.manual_seed(seed)
    return SpikingVGG(10, 1, 2, lambda T: LIF(T, surrogate=surrogate), "16-32/2-32/2").train()


def count_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the event kernels in the order they will be called."""
    calls: list[str] = []
    for name in KERNELS:
        kernel = getattr(event_conv.native, name)
        monkeypatch.setattr(event_conv.native, name, lambda *a, k=kernel, n=name: (calls.append(n), k(*a))[1])
    return calls


def curve(seed: int, aware: bool, epochs: int) -> tuple[list[float], list[float]]:
    """Loss of every batch, and test accuracy in percent after every epoch."""
    model = network(seed)
    if aware:
        spike_aware_(model, limits=ALWAYS)
    found = datasets.load("digits")
    images, y = (torch.as_tensor(v) for v in (found.train.x, found.train.y))
    test_x, test_y = (torch.as_tensor(v) for v in (found.test.x, found.test.y))
    optimizer = torch.optim.AdamW(model.parameters(), 4e-3)
    losses, accuracies = [], []
    for epoch in range(epochs):
        order = torch.randperm(len(y), generator=torch.Generator().manual_seed(100 * seed + epoch))
        for rows in order.split(64):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(images[rows].float() / 8 - 1), y[rows].long())
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        model.eval()
        with torch.no_grad():
            right = model(test_x.float() / 8 - 1).argmax(1) == test_y
        model.train()
        accuracies.append(100 * float(right.float().mean()))
    return losses, accuracies


@pytest.mark.slow
def test_curves_on_and_off_agree_within_seed_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three seeds; the first steps are equal up to rounding, the whole curves as far as two seeds are."""
    calls = count_calls(monkeypatch)
    epochs, seeds = 5, (0, 1, 2)
    off = [curve(seed, False, epochs) for seed in seeds]
    assert not calls
    on = [curve(seed, True, epochs) for seed in seeds]
    assert set(calls) == set(KERNELS)
    for (want, _), (got, _) in zip(off, on):
        assert got[:3] == pytest.approx(want[:3], rel=1e-3)
    for epoch in range(epochs):
        accuracies = [[a[epoch] for _, a in group] for group in (off, on)]
        noise = max(statistics.stdev(accuracies[0]), statistics.stdev(accuracies[1]), 0.5)
        gap = statistics.mean(accuracies[1]) - statistics.mean(accuracies[0])
        assert abs(gap) <= 3 * noise * (2 / len(seeds)) ** 0.5, (epoch, accuracies)
    steps = len(off[0][0]) // epochs
    last = [[statistics.mean(losses[-steps:]) for losses, _ in group] for group in (off, on)]
    noise = max(statistics.stdev(last[0]), statistics.stdev(last[1]))
    gap = statistics.mean(last[1]) - statistics.mean(last[0])
    assert abs(gap) <= 3 * noise * (2 / len(seeds)) ** 0.5, last
    assert min(a[-1] for _, a in off + on) > 90


def passed(model: nn.Module, x: Tensor) -> list[Tensor]:
    """Output, gradients and buffers of one training pass."""
    x = x.clone().requires_grad_()
    out = model(x)
    (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
    assert x.grad is not None
    grads = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    return [out.detach(), x.grad, *grads, *(b.clone() for b in model.buffers())]


SWITCHES = {
    "aware": lambda m: spike_aware_(m, limits=ALWAYS),
    "fused": fuse_norm_,
    "checkpoint": lambda m: checkpoint_(m, "block"),
}
ORDERS = (("aware", "fused", "checkpoint"), ("checkpoint", "fused", "aware"), ("fused", "aware"))


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
@pytest.mark.parametrize("name", ["vgg", "spiking_resnet_tiny"])
def test_all_switches_together(monkeypatch: pytest.MonkeyPatch, name: str, order: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    plain = network() if name == "vgg" else picojoule.create_model(name, T=2).train()
    other = copy.deepcopy(plain)
    for switch in order:
        SWITCHES[switch](other)
    assert any(is_spike_aware(m) for m in other.modules())
    calls = count_calls(monkeypatch)
    x = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    want, got = passed(plain, x), passed(other, x)
    assert {"event_forward", "event_weight_gradient"} <= set(calls)
    assert len(want) == len(got)
    for a, b in zip(got, want):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * float(b.abs().max()) + 1e-6)


def test_two_processes_have_the_curve_of_one(tmp_path) -> None:
    """Ordinary layers in one process; spike-aware ones in two, whole (DDP) and sharded (FSDP2)."""

    def values(**more):
        made = digits_recipe(epochs=1, optimizer="sgd", lr=0.05, **more).to_dict()
        made["data"] |= {"limit": 128}
        made["model"]["T"] = 2
        return made

    kinds = ("ddp", "fsdp2")
    jobs = [
        {"folder": str(tmp_path / kind), "recipe": values(parallel=kind, spike_aware=True)} for kind in kinds
    ]
    launch(event_runs, tmp_path / "group", jobs)
    train(make_recipe(values()), tmp_path / "one", quiet=True)
    curves = {
        name: [r["train_loss"] for r in read_metrics(tmp_path / name) if "epoch" in r]
        for name in ("one", *kinds)
    }
    assert len(curves["one"]) == 1
    for kind in kinds:
        assert curves[kind] == pytest.approx(curves["one"], rel=2e-3)
