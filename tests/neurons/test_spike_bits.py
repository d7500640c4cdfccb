"""Bits that neurons publish with their spikes: the same spikes, and the same results of what reads them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import picojoule
from picojoule.layers import event_conv
from picojoule.layers.blocks import ConvNormNeuron
from picojoule.layers.event_bits import CL, pack, published
from picojoule.layers.residual import PostBlock
from picojoule.neurons import LIF, TernaryLIF, leaky_native
from picojoule.neurons.norm_native import norm_neuron
from picojoule.neurons.spike_bits import bits_of, publish_bits_

pytestmark = pytest.mark.skipif(not leaky_native.AVAILABLE, reason="built without the native extension")
native: Any = leaky_native._native
SETS = native.event_sets() if leaky_native.AVAILABLE else []


@pytest.fixture(params=SETS)
def instructions(request: pytest.FixtureRequest) -> Iterator[str]:
    before = native.train_isa()
    native.set_train_isa(request.param)
    yield request.param
    native.set_train_isa(before)


def pair(shape: tuple[int, ...], **options: Any) -> tuple[nn.Module, LIF]:
    torch.manual_seed(3)
    norm = nn.BatchNorm2d(shape[1]) if len(shape) == 4 else nn.BatchNorm1d(shape[1])
    neuron = LIF(options.pop("T", 4), v_th=0.6, **options)
    publish_bits_(neuron, True)
    return norm, neuron


def rows(
    shape: tuple[int, ...], order: torch.memory_format = torch.contiguous_format, seed: int = 0
) -> Tensor:
    x = 2 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return x.contiguous(memory_format=order).requires_grad_()


def unpacked(spikes: Tensor) -> Tensor:
    """The published bits as a tensor like the spikes."""
    found = bits_of(spikes)
    assert found is not None
    data = found.data[: spikes.numel() // 8]
    bits = (data[:, None] >> torch.arange(8, dtype=torch.uint8)) & 1
    out = torch.empty_like(spikes)
    out.as_strided((out.numel(),), (1,)).copy_(bits.flatten() * found.size)
    assert found.nonzero == int((spikes != 0).sum())
    return out


SHAPES = [(8, 8, 5, 3), (4, 64, 9, 8), (12, 3, 8, 40), (16, 16), (4, 24, 1, 1), (8, 64, 48, 48)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("T", [1, 2, 4])
@pytest.mark.parametrize("order", [torch.contiguous_format, CL])
def test_bits_are_the_spikes(shape: tuple[int, ...], T: int, order: Any, instructions: str) -> None:
    if len(shape) != 4 and order is CL:
        return
    norm, neuron = pair(shape, T=T)
    spikes = norm_neuron(norm, neuron, rows(shape, order))
    assert 0 < float(spikes.detach().mean()) < 1
    assert torch.equal(unpacked(spikes), spikes.detach())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("T", [1, 2, 4])
@pytest.mark.parametrize("form", ["exact", "half", "byte"])
def test_a_neuron_alone_publishes_too(shape: tuple[int, ...], T: int, form: str, instructions: str) -> None:
    """The same spikes and gradients as without; whatever is kept between the passes."""
    found = []
    for on in (True, False):
        neuron, x = pair(shape, T=T, reset="soft")[1], rows(shape)
        publish_bits_(neuron, on)
        with leaky_native.saved_state(form):
            spikes = neuron(x)
        assert (bits_of(spikes) is not None) is on
        if on:
            assert torch.equal(unpacked(spikes), spikes.detach())
        found.append((spikes.detach(), torch.autograd.grad((spikes * rows(shape, seed=2)).sum(), x)[0]))
    assert all(torch.equal(a, b) for a, b in zip(*found))


@pytest.mark.parametrize("options", [{"reset": "soft"}, {"surrogate": "rect"}, {"strict": True}], ids=str)
def test_rules(options: dict[str, Any], instructions: str) -> None:
    norm, neuron = pair((8, 8, 5, 3), **options)
    spikes = norm_neuron(norm, neuron, rows((8, 8, 5, 3)))
    assert torch.equal(unpacked(spikes), spikes.detach())


@pytest.mark.parametrize("shape", SHAPES[:4], ids=str)
@pytest.mark.parametrize("T", [1, 2, 4])
def test_added_bits_change_no_bit_of_the_result(shape: tuple[int, ...], T: int, instructions: str) -> None:
    found = []
    for on in (True, False):
        norm, neuron = pair(shape, T=T)
        x, first = rows(shape), rows(shape, seed=1)
        before = copy.deepcopy(neuron)
        publish_bits_(before, on)
        s = norm_neuron(copy.deepcopy(norm), before, first)
        assert (bits_of(s) is not None) is on
        y = norm_neuron(norm, neuron, x, added=s)
        inputs = [x, first, *norm.parameters()]
        found.append((y.detach(), *torch.autograd.grad((y * rows(shape, seed=2)).sum(), inputs)))
    for a, b in zip(*found):
        assert torch.equal(a, b)


def test_threads_change_nothing() -> None:
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            norm, neuron = pair((16, 64, 24, 24))
            found.append(unpacked(norm_neuron(norm, neuron, rows((16, 64, 24, 24)))))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(found[0], other) for other in found[1:])


def test_who_publishes_none() -> None:
    shape = (8, 8, 5, 3)
    norm, neuron = pair(shape)
    x = rows(shape)
    assert bits_of(norm_neuron(norm, neuron, x)) is not None
    with torch.no_grad():
        assert bits_of(norm_neuron(norm, neuron, x)) is None
    odd_norm, odd = pair((4, 3, 5, 5))
    assert bits_of(norm_neuron(odd_norm, odd, rows((4, 3, 5, 5)))) is None
    brief = x.detach().bfloat16().requires_grad_()
    assert bits_of(norm_neuron(norm, neuron, brief)) is None
    ternary = TernaryLIF(4, v_th=0.6)
    publish_bits_(ternary, True)
    assert bits_of(norm_neuron(norm, ternary, x)) is None
    assert bits_of(ternary(x)) is None
    assert bits_of(neuron(x.detach())) is None
    assert bits_of(neuron(brief)) is None
    publish_bits_(neuron, False)
    assert bits_of(norm_neuron(norm, neuron, x)) is None
    assert bits_of(None) is None


def test_a_change_in_place_ends_them() -> None:
    norm, neuron = pair((8, 8, 5, 3))
    spikes = norm_neuron(norm, neuron, rows((8, 8, 5, 3)))
    assert bits_of(spikes) is not None
    assert bits_of(spikes * 1) is None
    spikes.mul_(0.5)
    assert bits_of(spikes) is None


@pytest.mark.parametrize("last", [False, True])
def test_convolutions_read_them(last: bool) -> None:
    norm, neuron = pair((8, 16, 6, 5))
    spikes = norm_neuron(norm, neuron, rows((8, 16, 6, 5), CL if last else torch.contiguous_format))
    found, want = published(spikes), pack(spikes.detach())
    assert want is not None
    assert (found is not None) is last
    if found is not None:
        assert torch.equal(found.data[: spikes.numel() // 8], want.data[: spikes.numel() // 8])
        assert (found.nonzero, found.scale, found.shape) == (want.nonzero, want.scale, want.shape)


@pytest.mark.parametrize("last", [False, True])
def test_whole_blocks_keep_bits_and_their_gradients(last: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    order, looked = CL if last else torch.contiguous_format, []
    monkeypatch.setattr(event_conv, "pack", lambda x: (looked.append(x), pack(x))[1])
    grads, kept = [], []
    for aware in (True, False):
        torch.manual_seed(0)
        maker = lambda: LIF(4, v_th=0.7)  # noqa: E731
        model = nn.Sequential(
            ConvNormNeuron(3, 16, maker), PostBlock(16, 16, maker), PostBlock(16, 16, maker, 2)
        )
        model = picojoule.fuse_norm_(model).to(memory_format=order)  # type: ignore[call-overload]
        if aware:
            picojoule.spike_aware_(model)
        x = torch.randn(8, 3, 8, 8).contiguous(memory_format=order)
        sizes: dict[int, int] = {}

        def keep(t: Tensor, sizes: dict[int, int] = sizes) -> Tensor:
            sizes[t.data_ptr()] = t.numel() * t.element_size()
            return t

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            y = model(x)
        kept.append(sum(sizes.values()))
        grads.append(
            torch.autograd.grad((y * rows(tuple(y.shape), seed=2).detach()).sum(), list(model.parameters()))
        )
    assert kept[0] < kept[1]
    assert len(looked) == (1 if last else 6)
    for a, b in zip(*grads):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * float(b.abs().max()))


def test_the_switch() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), LIF(4))
    before = dict(model[2].__dict__)
    picojoule.spike_aware_(model)
    assert model[2].__dict__ != before
    picojoule.spike_aware_(model, False)
    assert model[2].__dict__ == before
