"""The input gradient of 1x1 taps with a stride: products where inputs are read, zeros elsewhere."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from picojoule.layers import EventLimits, event_conv
from picojoule.layers.event_bits import AVAILABLE, CL, native
from picojoule.layers.event_reference import Geometry

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="a build without the extension")

# x [N, C, H, W], out channels, stride
CASES = {
    "even": ((2, 64, 8, 8), 32, (2, 2)),
    "odd": ((3, 33, 9, 7), 70, (2, 2)),
    "unequal strides": ((2, 20, 7, 8), 5, (3, 1)),
    "last inputs unread": ((2, 7, 9, 10), 12, (4, 4)),
    "one pixel": ((4, 5, 1, 1), 3, (2, 2)),
    "wide rows": ((1, 3, 2, 230), 9, (2, 2)),
}


def operands(name: str) -> tuple[Tensor, Tensor, Tensor, Geometry]:
    shape, out, stride = CASES[name]
    torch.manual_seed(len(name))
    x, w = (torch.rand(shape) < 0.3).float(), torch.randn(out, shape[1], 1, 1)
    return x, w, torch.randn_like(F.conv2d(x, w, stride=stride)), Geometry(stride)


@pytest.mark.parametrize("name", CASES)
def test_equals_torch_and_leaves_no_input_unwritten(name: str, instructions: str) -> None:
    x, w, g, geo = operands(name)
    wide = x.double().requires_grad_()
    want = torch.autograd.grad(F.conv2d(wide, w.double(), stride=geo.stride), wide, g.double())[0]
    for weight in (w, w.transpose(0, 1).contiguous().transpose(0, 1)):
        got = event_conv.sampled_input_gradient(x.shape, weight, g.contiguous(memory_format=CL), geo)
        torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5)
        assert torch.equal(got == 0, want == 0)


def test_threads_do_not_change_a_bit(instructions: str) -> None:
    x, w, g, geo = operands("odd")
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            rows = g.contiguous(memory_format=CL)
            found.append(event_conv.sampled_input_gradient(x.shape, w, rows, geo))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(found[0], other) for other in found[1:])


def test_other_shapes_are_refused() -> None:
    w = torch.randn(8, 4, 1, 1)
    for geo in (Geometry(), Geometry((2, 2), (1, 1)), Geometry((2, 2), groups=2)):
        weight = w[:, : 4 // geo.groups]
        assert event_conv.dense_input_gradient((2, 4, 6, 6), weight, torch.empty(0), geo) is None
        with pytest.raises(ValueError, match="1x1"):
            event_conv.sampled_input_gradient((2, 4, 6, 6), weight, torch.empty(0), geo)


@pytest.mark.parametrize("last", [False, True])
def test_a_shortcut_takes_it(last: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    x, w, g, geo = operands("odd")
    if last:
        x, w = x.contiguous(memory_format=CL), w.contiguous(memory_format=CL)
    x.requires_grad_(), w.requires_grad_()
    calls, kernel = [], native.sampled_input_gradient
    monkeypatch.setattr(native, "sampled_input_gradient", lambda *a: (calls.append(a), kernel(*a))[1])
    y, want = event_conv.event_conv(x, w, None, geo, EventLimits()), F.conv2d(x, w, stride=2)
    got, ordinary = torch.autograd.grad(y, (x, w), g), torch.autograd.grad(want, (x, w), g)
    assert len(calls) == 1
    for a, other in zip((y, *got), (want, *ordinary)):
        torch.testing.assert_close(a, other, rtol=1e-4, atol=1e-4)


def test_no_images() -> None:
    x, w, geo = torch.empty(0, 4, 6, 6), torch.randn(8, 4, 1, 1), Geometry((2, 2))
    assert event_conv.sampled_input_gradient(x.shape, w, torch.empty(0, 8, 3, 3), geo).numel() == 0
