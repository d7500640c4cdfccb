"""fuse_norm_ on models: same outputs, gradients and state dict; reversible; capture sees plain modules."""

import copy

import pytest
import torch
from torch import nn

import picojoule
from picojoule import models
from picojoule.layers import ConvNormNeuron, PostBlock, fuse_norm_
from picojoule.layers.fuse import FusedSequential
from picojoule.neurons import LIF, leaky_native, norm_native

pytestmark = pytest.mark.skipif(not leaky_native.AVAILABLE, reason="built without the native extension")


@pytest.fixture
def calls(monkeypatch):
    count = []
    fire = norm_native.fire
    monkeypatch.setattr(norm_native, "fire", lambda *a: (count.append(a), fire(*a))[1])
    return count


def maker():
    return LIF(2, v_th=0.4, surrogate="atan")


BUILDS = {
    "post": lambda: PostBlock(3, 8, maker, 2),
    "sequential": lambda: nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), maker(), nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4)
    ),
    "chain": lambda: nn.Sequential(ConvNormNeuron(3, 8, maker), ConvNormNeuron(8, 4, maker, stride=2)),
}


def step(model, x):
    y = model(x)
    model.zero_grad()
    y.square().sum().backward()
    return y.detach(), [p.grad.clone() for p in model.parameters()], copy.deepcopy(model.state_dict())


@pytest.mark.parametrize("name", BUILDS)
def test_blocks(name, calls):
    torch.manual_seed(0)
    plain = BUILDS[name]()
    fused = fuse_norm_(copy.deepcopy(plain))
    x = torch.randn(6, 3, 9, 9)
    for memory in (torch.contiguous_format, torch.channels_last):
        a, b = step(plain, x.to(memory_format=memory)), step(fused, x.to(memory_format=memory))
        torch.testing.assert_close(a[0], b[0], rtol=1e-5, atol=1e-5)
        for p, q in zip(a[1], b[1]):
            torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-3)
        for key, value in a[2].items():
            torch.testing.assert_close(value, b[2][key], rtol=1e-5, atol=1e-6)
    assert calls
    before = len(calls)
    step(fuse_norm_(fused, on=False), x)
    assert len(calls) == before


def test_sequential_keeps_names():
    model = BUILDS["sequential"]()
    keys = list(model.state_dict())
    assert isinstance(fuse_norm_(model), FusedSequential)
    assert list(model.state_dict()) == keys
    assert type(copy.deepcopy(model)) is FusedSequential
    assert type(fuse_norm_(model, on=False)) is nn.Sequential


@pytest.mark.parametrize("name", ["spiking_vgg_tiny"])
def test_capture_sees_plain_modules(name):
    torch.manual_seed(0)
    model = models.create_model(name, in_channels=1, T=2).eval()
    x = torch.rand(2, 1, 8, 8)
    plain = picojoule.capture(model, x)
    fused = picojoule.capture(fuse_norm_(model), x)
    assert [type(n).__name__ for n in plain.nodes] == [type(n).__name__ for n in fused.nodes]


def test_shared_norms_stay_as_they_are(calls):
    from picojoule.learn.batchnorm import share_batchnorm_

    model = fuse_norm_(share_batchnorm_(BUILDS["chain"]()))
    step(model, torch.randn(6, 3, 9, 9))
    assert not calls
