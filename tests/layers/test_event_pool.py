"""Max-pooling on the bits of spikes: values, gradients and bits are those of the ordinary pool."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import picojoule
from picojoule.layers import event_bits, event_conv
from picojoule.layers import event_pool as ep
from picojoule.layers.event_bits import AVAILABLE, CL, native, pack, published
from picojoule.layers.event_reference import Geometry
from picojoule.neurons import LIF

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="a build without the extension")

# x [N, C, H, W], kernel, stride, padding
CASES: dict[str, tuple[tuple[int, ...], tuple[int, int], tuple[int, int], tuple[int, int]]] = {
    "ordinary": ((3, 64, 8, 8), (2, 2), (2, 2), (0, 0)),
    "left out": ((2, 24, 9, 7), (2, 2), (2, 2), (0, 0)),
    "overlap": ((2, 16, 9, 8), (3, 3), (2, 2), (1, 1)),
    "every pixel": ((1, 8, 6, 5), (3, 3), (1, 1), (1, 1)),
    "sparse windows": ((2, 40, 11, 10), (2, 1), (3, 4), (0, 0)),
    "odd": ((5, 72, 7, 9), (3, 2), (2, 3), (1, 1)),
    "whole image": ((4, 128, 5, 4), (5, 4), (5, 4), (0, 0)),
    "one row": ((2, 8, 1, 12), (1, 3), (1, 2), (0, 1)),
}


def operands(name: str, rate: float = 0.2, size: float = 1.0) -> tuple[Tensor, tuple[int, int], Geometry]:
    shape, kernel, stride, padding = CASES[name]
    generator = torch.Generator().manual_seed(len(name))
    x = (torch.rand(shape, generator=generator) < rate).float() * size
    return x.contiguous(memory_format=CL).requires_grad_(), kernel, Geometry(stride, padding)


def both(x: Tensor, kernel: tuple[int, int], geo: Geometry) -> list[tuple[Tensor, Tensor]]:
    """Output and gradient of x: pooled on bits, then by torch."""
    found = []
    for pool in (
        lambda x: ep.event_pool(x, kernel, geo),
        lambda x: F.max_pool2d(x, kernel, geo.stride, geo.padding),
    ):
        y = pool(x)
        g = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
        found.append((y.detach(), torch.autograd.grad(y, x, g)[0]))
    return found


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Notes every pool on bits."""
    made: list[Any] = []
    kernel = native.pool_forward
    monkeypatch.setattr(native, "pool_forward", lambda *a: (made.append(a), kernel(*a))[1])
    return made


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 1.0])
def test_equals_the_ordinary_pool(name: str, rate: float, instructions: str, calls: list[Any]) -> None:
    (y, dx), (want_y, want_dx) = both(*operands(name, rate, size=0.5))
    assert len(calls) == 1
    assert torch.equal(y, want_y)
    assert y.stride() == want_y.stride()
    assert torch.equal(dx, want_dx)


@pytest.mark.parametrize("name", CASES)
def test_the_bits_are_those_of_the_result(name: str) -> None:
    y = ep.event_pool(*operands(name, 0.1, size=2.0))
    found, want = published(y), pack(y.detach().contiguous(memory_format=CL))
    assert found is not None
    assert want is not None
    n = y.numel() // 8
    assert torch.equal(found.data[:n], want.data[:n])
    assert (found.nonzero, found.scale if found.nonzero else 1.0) == (want.nonzero, want.scale)


def test_threads_do_not_change_a_bit() -> None:
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(both(*operands("odd"))[0])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other))


@pytest.mark.parametrize(
    "what", ["real", "ternary", "counts", "planes", "channels", "nan", "no gradient", "empty"]
)
def test_everything_else_is_pooled_as_before(what: str, calls: list[Any]) -> None:
    x, kernel, geo = operands("ordinary")
    x = x.detach()
    made = {
        "real": torch.randn_like(x),
        "ternary": x - x.flip(0),
        "counts": x + x.flip(0),
        "planes": x.contiguous(),
        "channels": x[:, :7].contiguous(memory_format=CL),
        "nan": x.masked_fill(x == 1, torch.nan),
        "no gradient": x,
        "empty": x[:0],
    }[what]
    if what != "no gradient":
        (y, dx), (want_y, want_dx) = both(made.requires_grad_(), kernel, geo)
        torch.testing.assert_close(dx, want_dx, rtol=0, atol=0, equal_nan=True)
    else:
        y, want_y = ep.event_pool(made, kernel, geo), F.max_pool2d(made, kernel)
    torch.testing.assert_close(y, want_y, rtol=0, atol=0, equal_nan=True)
    assert not calls


def test_wrong_windows_are_refused_as_by_torch() -> None:
    x, _, _ = operands("ordinary")
    for kernel, geo in (((9, 9), Geometry((1, 1))), ((2, 2), Geometry((2, 2), (2, 2)))):
        with pytest.raises(RuntimeError):
            ep.event_pool(x, kernel, geo)


def test_a_pool_behind_a_neuron_reads_and_hands_on_bits(
    monkeypatch: pytest.MonkeyPatch, calls: list[Any]
) -> None:
    """No layer of such a chain looks at the values of spikes again, and all gradients are the same."""
    torch.manual_seed(0)
    chain = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), LIF(2, v_th=0.4), nn.MaxPool2d(2), nn.Conv2d(16, 8, 3)
    ).to(memory_format=CL)  # type: ignore[call-overload]
    x = torch.randn(4, 3, 12, 12).contiguous(memory_format=CL)
    found = []
    for on in (False, True):
        model = copy.deepcopy(chain)
        looked: list[Tensor] = []
        picojoule.spike_aware_(model, on)
        assert picojoule.layers.is_spike_aware(model[3]) is on
        for module, name in ((ep, "pack_binary"), (event_conv, "pack")):
            look = getattr(event_bits, name)
            monkeypatch.setattr(module, name, lambda t, seen=looked, f=look: (seen.append(t), f(t))[1])
        model(x).square().sum().backward()
        assert all(t.shape[1] == 3 for t in looked)  # the image alone
        found.append([p.grad for p in model.parameters()])
    assert len(calls) == 1
    for a, b in zip(*found):
        torch.testing.assert_close(a, b)


def test_which_pools_are_switched() -> None:
    fit, others = (
        nn.MaxPool2d(3, 2, 1),
        [nn.MaxPool2d(2, ceil_mode=True), nn.MaxPool2d(2, return_indices=True)],
    )
    model = nn.ModuleList([fit, *others, nn.MaxPool2d(2, dilation=2), nn.AvgPool2d(2), nn.MaxPool1d(2)])
    picojoule.spike_aware_(picojoule.spike_aware_(model))
    assert [picojoule.layers.is_spike_aware(m) for m in model] == [True, *[False] * 5]
    picojoule.spike_aware_(model, False)
    assert "forward" not in fit.__dict__


def test_bits_are_what_is_kept() -> None:
    x, kernel, geo = operands("ordinary")
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t.nbytes), t)[1], lambda t: t):
        ep.event_pool(x, kernel, geo)
    assert sum(kept) <= x.numel() // 8 + native.EVENT_SLACK
