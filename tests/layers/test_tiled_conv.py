"""Minimal filtering of 3x3 taps equals the direct sum: forward, and for input gradients of stride 1 and 2."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from picojoule.layers import EventLimits, event_conv
from picojoule.layers.event_bits import AVAILABLE, CL, native
from picojoule.layers.event_reference import Geometry

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="a build without the extension")

# x [N, C, H, W], out channels, padding
CASES = {
    "whole tiles": ((2, 32, 8, 8), 64, (1, 1)),
    "broken tiles": ((3, 33, 9, 7), 70, (1, 1)),
    "no padding": ((2, 16, 6, 11), 16, (0, 0)),
    "all padding": ((2, 8, 5, 6), 24, (2, 2)),
    "unequal padding": ((2, 20, 5, 8), 40, (2, 0)),
    "few channels": ((2, 3, 10, 10), 5, (1, 1)),
    "one output": ((1, 7, 3, 3), 1, (0, 0)),
    "tiny images": ((40, 48, 2, 2), 48, (1, 1)),
    "deep": ((3, 300, 4, 4), 200, (1, 1)),
}


# The same of the convolutions with stride 2, whose input gradient is made.
STRIDED = {
    "whole tiles": ((2, 64, 16, 16), 32, (1, 1)),
    "broken tiles": ((3, 70, 13, 18), 33, (1, 1)),
    "no padding": ((2, 16, 9, 12), 16, (0, 0)),
    "all padding": ((2, 24, 7, 10), 8, (2, 2)),
    "unequal padding": ((2, 40, 8, 11), 20, (2, 0)),
    "few channels": ((2, 5, 10, 10), 3, (1, 1)),
    "one input": ((1, 1, 3, 3), 7, (0, 0)),
    "one output pixel": ((2, 9, 4, 3), 10, (0, 0)),
    "tiny images": ((40, 48, 2, 2), 48, (1, 1)),
    "inputs that reach nothing": ((2, 16, 6, 6), 16, (0, 0)),
    "deep": ((3, 200, 8, 8), 300, (1, 1)),
}


def operands(name: str) -> tuple[Tensor, Tensor, Tensor, Tensor, Geometry]:
    shape, out, padding = CASES[name]
    torch.manual_seed(len(name))
    x, w, b = torch.randn(shape), torch.randn(out, shape[1], 3, 3), torch.randn(out)
    geo = Geometry(padding=padding)
    return x, w, b, torch.randn_like(F.conv2d(x, w, b, padding=padding)), geo


def wanted(x: Tensor, w: Tensor, b: Tensor, g: Tensor, geo: Geometry) -> tuple[Tensor, Tensor]:
    """y and dx in float64."""
    wide = x.double().requires_grad_()
    y = F.conv2d(wide, w.double(), b.double(), padding=geo.padding)
    return y.detach(), torch.autograd.grad(y, wide, g.double())[0]


def assert_near(got: Tensor, want: Tensor, depth: int) -> None:
    """Errors below 4e-7 + 6e-8 sqrt(depth) of the size of sums of `depth` random terms, about twice a direct
    sum's, and no single one far out."""
    off, bound = got.double() - want, (4e-7 + 6e-8 * depth**0.5) * depth**0.5
    assert float(off.square().mean().sqrt()) < bound
    assert float(off.abs().max()) < 12 * bound


@pytest.mark.parametrize("name", CASES)
def test_equals_the_direct_convolution(name: str, instructions: str) -> None:
    x, w, b, g, geo = operands(name)
    y, dx = wanted(x, w, b, g, geo)
    for order in (torch.contiguous_format, CL):
        weight = w.contiguous(memory_format=order)
        assert_near(event_conv.tiled_forward(x, weight, b, geo), y, 9 * x.shape[1])
        rows = g.contiguous(memory_format=CL)
        assert_near(event_conv.tiled_input_gradient(x.shape, weight, rows, geo), dx, 9 * w.shape[0])


def strided(name: str) -> tuple[Tensor, Tensor, Tensor, Geometry]:
    """x, w, the gradient of what the convolution answers, and its geometry."""
    shape, out, padding = STRIDED[name]
    torch.manual_seed(len(name))
    x, w, geo = torch.randn(shape), torch.randn(out, shape[1], 3, 3), Geometry((2, 2), padding)
    return x, w, torch.randn_like(F.conv2d(x, w, stride=2, padding=padding)), geo


@pytest.mark.parametrize("name", STRIDED)
def test_the_gradient_through_stride_2_equals_the_direct_one(name: str, instructions: str) -> None:
    x, w, g, geo = strided(name)
    wide = x.double().requires_grad_()
    y = F.conv2d(wide, w.double(), stride=2, padding=geo.padding)
    want = torch.autograd.grad(y, wide, g.double())[0]
    for order in (torch.contiguous_format, CL):
        weight, rows = w.contiguous(memory_format=order), g.contiguous(memory_format=CL)
        got = event_conv.tiled_input_gradient(x.shape, weight, rows, geo)
        assert got.is_contiguous(memory_format=CL)
        assert_near(got, want, 4 * w.shape[0])  # at most four taps reach an input


def test_whole_numbers_come_out_near_whole() -> None:
    """Spikes and whole weights: what a reader would check by hand."""
    torch.manual_seed(0)
    x, w = (torch.rand(2, 32, 8, 8) < 0.5).float(), torch.randint(-3, 4, (32, 32, 3, 3)).float()
    y = event_conv.tiled_forward(x, w, None, Geometry(padding=(1, 1)))
    torch.testing.assert_close(y, F.conv2d(x, w, padding=1), rtol=0, atol=2e-4)


def test_threads_do_not_change_a_bit(instructions: str) -> None:
    before = torch.get_num_threads()
    try:
        for name in ("broken tiles", "deep", "tiny images"):
            x, w, b, g, geo = operands(name)
            found = []
            for threads in (1, 2, 5):
                torch.set_num_threads(threads)
                rows = g.contiguous(memory_format=CL)
                y = event_conv.tiled_forward(x, w, b, geo)
                found.append((y, event_conv.tiled_input_gradient(x.shape, w, rows, geo)))
            for other in found[1:]:
                assert all(torch.equal(a, b) for a, b in zip(found[0], other))
        for name in ("broken tiles", "deep", "tiny images"):
            x, w, g, geo = strided(name)
            gradients = []
            for threads in (1, 2, 5):
                torch.set_num_threads(threads)
                rows = g.contiguous(memory_format=CL)
                gradients.append(event_conv.tiled_input_gradient(x.shape, w, rows, geo))
            assert all(torch.equal(gradients[0], other) for other in gradients[1:])
    finally:
        torch.set_num_threads(before)


def test_no_images() -> None:
    w, geo = torch.randn(40, 32, 3, 3), Geometry(padding=(1, 1))
    assert event_conv.tiled_forward(torch.randn(0, 32, 8, 8), w, None, geo).shape == (0, 40, 8, 8)
    g = torch.randn(0, 40, 4, 4)
    assert event_conv.tiled_input_gradient((0, 32, 8, 8), w, g, Geometry((2, 2), (1, 1))).numel() == 0


def test_other_shapes_are_refused() -> None:
    x, w = torch.randn(2, 32, 8, 8), torch.randn(32, 32, 3, 3)
    for geo in (Geometry((2, 1)), Geometry((3, 3)), Geometry(dilation=(2, 2)), Geometry(padding=(3, 3))):
        assert event_conv.tiles(x.shape, w, geo) == (False, False)
        with pytest.raises(ValueError, match="3x3"):
            event_conv.tiled_forward(x, w, None, geo)
        with pytest.raises(ValueError, match="3x3"):
            event_conv.tiled_input_gradient(x.shape, w, torch.randn(2, 32, 8, 8), geo)
    with pytest.raises(ValueError, match="3x3"):
        event_conv.tiled_forward(x, w, None, Geometry((2, 2)))


def test_small_images_and_few_channels_are_left_to_torch() -> None:
    def win(shape: tuple[int, ...], out: int, stride: int = 1) -> tuple[bool, bool]:
        geo = Geometry((stride, stride), (1, 1))
        return event_conv.tiles(shape, torch.empty(out, shape[1], 3, 3), geo)

    assert win((16, 64, 8, 8), 64) == (True, True)
    assert win((64, 512, 2, 2), 512) == (False, False)  # a tile is four times the image
    assert win((16, 3, 32, 32), 64) == (False, False)
    assert win((2, 64, 4, 4), 64) == (False, False)  # too few tiles for the weights' way to the points
    assert win((16, 64, 8, 8), 64, 2) == (False, True)
    assert win((64, 64, 4, 4), 64, 2) == (False, False)


@pytest.mark.parametrize("last", [False, True])
def test_gradients_of_a_stride_2_convolution_take_it(last: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    x, w, geo = (
        (torch.rand(16, 32, 16, 16) < 0.1).float(),
        torch.randn(64, 32, 3, 3),
        Geometry((2, 2), (1, 1)),
    )
    if last:
        x, w = x.contiguous(memory_format=CL), w.contiguous(memory_format=CL)
    x.requires_grad_(), w.requires_grad_()
    calls, kernel = [], native.tiled_input_gradient
    monkeypatch.setattr(native, "tiled_input_gradient", lambda *a: (calls.append(a), kernel(*a))[1])
    y = event_conv.event_conv(x, w, None, geo, EventLimits())
    want = F.conv2d(x, w, stride=2, padding=1)
    g = torch.randn_like(want)
    got, ordinary = torch.autograd.grad(y, (x, w), g), torch.autograd.grad(want, (x, w), g)
    assert len(calls) == 1
    for a, other in zip((y, *got), (want, *ordinary)):
        torch.testing.assert_close(a, other, rtol=1e-4, atol=1e-4 * float(other.detach().abs().max()))


@pytest.mark.parametrize("last", [False, True])
def test_dense_spikes_and_open_windows_take_it(last: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    x = (torch.rand(16, 32, 8, 8) < 0.5).float()
    w, b, geo = torch.randn(64, 32, 3, 3), torch.randn(64), Geometry(padding=(1, 1))
    if last:
        x, w = x.contiguous(memory_format=CL), w.contiguous(memory_format=CL)
    x.requires_grad_(), w.requires_grad_()
    calls = []
    for name in ("tiled_forward", "tiled_input_gradient"):
        kernel = getattr(native, name)
        monkeypatch.setattr(native, name, lambda *a, k=kernel, n=name: (calls.append(n), k(*a))[1])
    y = event_conv.event_conv(x, w, b, geo, EventLimits())
    want = F.conv2d(x, w, b, padding=1)
    assert y.stride() == want.stride()
    g = torch.randn_like(want)
    got, ordinary = torch.autograd.grad(y, (x, w), g), torch.autograd.grad(want, (x, w), g)
    assert calls == ["tiled_forward", "tiled_input_gradient"]
    for a, other in zip((y, *got), (want, *ordinary)):
        torch.testing.assert_close(a, other, rtol=1e-4, atol=1e-4 * float(other.detach().abs().max()))
