"""The spike-driven convolution equals the ordinary one: values and all gradients, against float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from picojoule.layers import EventLimits, event_conv, event_reference
from picojoule.layers.event_bits import AVAILABLE, CL, native, pack
from picojoule.layers.event_conv import event_conv as conv
from picojoule.layers.event_reference import Geometry
from picojoule.neurons.open_window import Window

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="a build without the extension")
ALWAYS = EventLimits(1.0, 1.0, 1.0)  # events at every density
NEVER = EventLimits(0.0, 0.0, 0.0)

# name: x [N, C, H, W], out channels, kernel, geometry
CASES: dict[str, tuple[tuple[int, ...], int, tuple[int, int], Geometry]] = {
    "ordinary": ((3, 16, 9, 9), 32, (3, 3), Geometry(padding=(1, 1))),
    "odd sizes": ((2, 13, 7, 5), 9, (3, 3), Geometry(padding=(1, 1))),
    "stride": ((3, 12, 9, 8), 17, (3, 3), Geometry((2, 2), (1, 1))),
    "stride, one tap": ((2, 9, 7, 7), 70, (1, 1), Geometry((2, 2))),
    "stride above the kernel": ((2, 8, 11, 11), 8, (2, 2), Geometry((3, 3))),
    "dilation": ((2, 10, 12, 11), 16, (3, 3), Geometry(padding=(2, 2), dilation=(2, 2))),
    "both, one an axis": ((2, 8, 9, 9), 8, (3, 3), Geometry((2, 1), (1, 2), (1, 2))),
    "groups": ((2, 24, 6, 6), 27, (3, 3), Geometry(padding=(1, 1), groups=3)),
    "large kernel": ((2, 6, 9, 9), 12, (7, 5), Geometry(padding=(3, 2))),
    "one tap": ((4, 40, 5, 3), 130, (1, 1), Geometry()),
    "more padding than kernel": ((2, 8, 4, 4), 8, (2, 2), Geometry(padding=(3, 3))),
    "one pixel": ((5, 70, 1, 1), 33, (1, 1), Geometry()),
    "bands of rows": ((1, 4, 90, 40), 16, (3, 3), Geometry(padding=(1, 1))),
    "many small images": ((33, 16, 4, 4), 32, (3, 3), Geometry(padding=(1, 1))),
    "unequal strides": ((2, 8, 10, 9), 8, (3, 2), Geometry((1, 2), (0, 1))),
}


def spikes(shape: tuple[int, ...], rate: float = 0.3, seed: int = 0, kind: str = "binary") -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = (torch.rand(shape, generator=generator) < rate).float()
    if kind == "integer":
        return x * torch.randint(1, 5, shape, generator=generator)
    if kind == "scaled":
        return x * torch.randint(1, 4, shape, generator=generator) * torch.tensor(1 / 3)
    if kind == "ternary":
        return x * (torch.randint(0, 2, shape, generator=generator) * 2 - 1) * 0.7
    return x


def operands(name: str, kind: str = "binary") -> tuple[Tensor, Tensor, Tensor, Geometry]:
    shape, out, kernel, geo = CASES[name]
    torch.manual_seed(1)
    return spikes(shape, kind=kind), torch.randn(out, shape[1] // geo.groups, *kernel), torch.randn(out), geo


def dense(x: Tensor, w: Tensor, b: Tensor | None, geo: Geometry) -> Tensor:
    return F.conv2d(x, w, b, geo.stride, geo.padding, geo.dilation, geo.groups)


def run(call: Any, g: Tensor, *values: Tensor) -> list[Tensor]:
    """The output and the gradients of all values."""
    leaves = [v.detach().clone(memory_format=torch.preserve_format).requires_grad_() for v in values]
    y = call(*leaves)
    y.backward(g.to(y.dtype))
    return [y.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


def assert_sums_equal(got: list[Tensor], want: list[Tensor], sizes: list[Tensor]) -> None:
    """|got - want| <= 64 eps * sum of |terms|: rounding of fp32 sums in any order, with room."""
    assert len(got) == len(want) == len(sizes)
    for a, b, size in zip(got, want, sizes):
        assert a.shape == b.shape
        assert bool(((a.double() - b).abs() <= 64 * torch.finfo(torch.float32).eps * (size + 1e-6)).all())


def compare(x: Tensor, w: Tensor, b: Tensor, geo: Geometry, limits: EventLimits = ALWAYS) -> list[Tensor]:
    g = torch.randn_like(dense(x, w, b, geo))
    got = run(lambda x, w, b: conv(x, w, b, geo, limits), g, x, w, b)
    want = run(lambda x, w, b: dense(x, w, b, geo), g, x.double(), w.double(), b.double())
    size = [v.double().abs() for v in (x, w, b)]
    assert_sums_equal(got, want, run(lambda x, w, b: dense(x, w, b, geo), g.abs(), *size))
    return got


@pytest.mark.parametrize("name", CASES)
def test_equals_the_dense_convolution(name: str, instructions: str) -> None:
    compare(*operands(name))


@pytest.mark.parametrize("kind", ["integer", "scaled", "ternary"])
@pytest.mark.parametrize("name", ["odd sizes", "stride", "groups", "one tap"])
def test_graded_and_signed_spikes(name: str, kind: str, instructions: str) -> None:
    compare(*operands(name, kind))


@pytest.mark.parametrize("order", ["last", "mixed", "strided", "expanded"])
def test_any_memory_order(order: str) -> None:
    x, w, b, geo = operands("stride")
    if order == "last":
        x, w = x.contiguous(memory_format=CL), w.contiguous(memory_format=CL)
    elif order == "mixed":
        w = w.contiguous(memory_format=CL)
    elif order == "strided":
        x = torch.stack((x, x + 5), -1)[..., 0]
        w = w.transpose(0, 1).contiguous().transpose(0, 1)
    else:
        x = x[:1].expand(4, -1, -1, -1)
    got = compare(x, w, b, geo)
    assert got[0].is_contiguous() or order in ("last", "mixed")
    if order == "last":
        assert got[0].is_contiguous(memory_format=CL)


def test_small_case_equals_the_readable_reference() -> None:
    torch.manual_seed(0)
    geo = Geometry((2, 1), (1, 0), (1, 2), groups=2)
    x, w = spikes((2, 4, 5, 6)), torch.randn(16, 2, 3, 2)
    y = event_reference.forward(x, w, None, geo)
    g, opened = torch.randn_like(y), spikes((2, 4, 5, 6), 0.4, 7)
    want = run(lambda x, w: dense(x, w, None, geo), g, x, w)
    torch.testing.assert_close(y, want[0])
    torch.testing.assert_close(event_reference.input_gradient(opened, w, g, geo), want[1] * opened)
    torch.testing.assert_close(event_reference.weight_gradient(x, g, w.shape, geo), want[2])
    got = run(lambda x, w: conv(x, w, None, geo, ALWAYS), g, x, w)
    torch.testing.assert_close(got, want)


def window(opened: Tensor) -> Window:
    bits = pack(opened)
    assert bits is not None
    return Window(bits.data, 1, bits.rate, 0)


@pytest.mark.parametrize("name", CASES)
def test_input_gradient_in_open_windows_only(name: str, instructions: str) -> None:
    x, w, b, geo = operands(name)
    opened = spikes(tuple(x.shape), 0.2, 5)
    g = torch.randn_like(dense(x, w, b, geo))
    got = run(lambda x: conv(x, w, b, geo, ALWAYS, window(opened)), g, x)[1]
    want = run(lambda x: dense(x, w.double(), b.double(), geo), g, x.double())[1] * opened
    size = run(lambda x: dense(x, w.double().abs(), b.double(), geo), g.abs(), x.double())[1]
    assert_sums_equal([got], [want], [size])
    assert bool((got[opened == 0] == 0).all())


def test_open_windows_beyond_the_limit_take_the_dense_gradient() -> None:
    x, w, b, geo = operands("ordinary")
    g = torch.randn_like(dense(x, w, b, geo))
    wide = window(spikes(tuple(x.shape), 0.9, 5))
    got = run(lambda x: conv(x, w, b, geo, EventLimits(input=0.5), wide), g, x)[1]
    torch.testing.assert_close(got, run(lambda x: dense(x, w, b, geo), g, x)[1], rtol=1e-4, atol=1e-4)


def test_threads_do_not_change_a_bit(instructions: str) -> None:
    before = torch.get_num_threads()
    try:
        for name in ("ordinary", "many small images", "groups", "bands of rows"):
            x, w, b, geo = operands(name)
            opened, g = window(spikes(tuple(x.shape), 0.3, 3)), torch.randn_like(dense(x, w, b, geo))
            found = []
            for threads in (1, 2, 5):
                torch.set_num_threads(threads)
                found.append(run(lambda x, w: conv(x, w, None, geo, ALWAYS, opened), g, x, w))  # noqa: B023
            for other in found[1:]:
                assert all(torch.equal(a, b) for a, b in zip(found[0], other))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("limits", [EventLimits(0, 1, 1), EventLimits(1, 0, 1), NEVER, EventLimits()])
@pytest.mark.parametrize("rate", [0.0, 0.05, 0.95, 1.0])
def test_both_sides_of_the_limits(limits: EventLimits, rate: float) -> None:
    _, w, b, geo = operands("ordinary")
    compare(spikes((3, 16, 9, 9), rate), w, b, geo, limits)


def test_the_limits_choose_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    x, w, b, geo = operands("ordinary")
    calls = []
    for name in ("event_forward", "event_weight_gradient"):
        kernel = getattr(native, name)
        monkeypatch.setattr(native, name, lambda *a, k=kernel, n=name: (calls.append(n), k(*a))[1])
    rate = float(x.mean())
    compare(x, w, b, geo, EventLimits(rate + 1e-6, rate - 1e-6))
    compare(x, w, b, geo, EventLimits(rate - 1e-6, rate + 1e-6))
    assert calls == ["event_forward", "event_weight_gradient"]


@pytest.mark.parametrize(
    "x",
    [
        torch.randn(2, 16, 5, 5),
        torch.full((2, 16, 5, 5), float("nan")),
        torch.full((2, 16, 5, 5), float("inf")),
        torch.rand(2, 16, 5, 5) * (torch.rand(2, 16, 5, 5) < 0.1),
    ],
)
def test_real_values_take_the_ordinary_way(x: Tensor) -> None:
    _, w, b, geo = operands("ordinary")
    assert pack(x) is None
    torch.testing.assert_close(
        conv(x, w, b, geo, ALWAYS), dense(x, w, b, geo), equal_nan=True, rtol=0, atol=0
    )


def test_one_real_value_among_spikes_is_seen() -> None:
    x = spikes((4, 16, 9, 9))
    for value in (0.3, float("nan"), float("inf"), -float("inf"), 1 + 2**-20):
        x.view(-1)[-1] = value
        assert pack(x) is None


@pytest.mark.parametrize("kind", ["binary", "integer", "scaled", "ternary"])
@pytest.mark.parametrize("shape", [(2, 16, 3, 5), (3, 5, 1, 4), (1, 67, 3, 3), (7, 9, 1, 1)])
def test_bits_hold_spikes_exactly(shape: tuple[int, ...], kind: str, instructions: str) -> None:
    x = spikes(shape, kind=kind)
    for order in (torch.contiguous_format, CL):
        bits = pack(x.contiguous(memory_format=order))
        assert bits is not None
        assert torch.equal(bits.unpack(), x)
        assert bits.nonzero == int((x != 0).sum())


def test_silence() -> None:
    bits = pack(torch.zeros(2, 8, 3, 3))
    assert bits is not None
    assert bits.nonzero == 0
    assert not bits.unpack().any()


def test_between_the_passes_spikes_are_bits() -> None:
    x = spikes((8, 64, 8, 8)).requires_grad_()
    w = torch.randn(64, 64, 3, 3, requires_grad=True)
    kept = []

    def note(t: Tensor) -> Tensor:
        kept.append(t)
        return t

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        conv(x, w, None, Geometry(padding=(1, 1)), ALWAYS)
    others = [t for t in kept if t.data_ptr() != w.data_ptr()]
    assert sum(t.numel() * t.element_size() for t in others) <= x.numel() / 8 + 64


def test_second_derivative_is_refused() -> None:
    x, w, b, geo = operands("ordinary")
    w.requires_grad_()
    (dw,) = torch.autograd.grad(conv(x, w, b, geo, ALWAYS).square().sum(), w, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dw.sum().backward()


@pytest.mark.parametrize("shape", [(0, 16, 9, 9), (2, 16, 9, 9)])
def test_other_inputs_are_left_to_torch(shape: tuple[int, ...]) -> None:
    _, w, b, geo = operands("ordinary")
    x = spikes(shape)
    assert conv(x, w, b, geo, ALWAYS).shape == dense(x, w, b, geo).shape
    assert conv(x.double(), w.double(), b.double(), geo, ALWAYS).dtype == torch.float64
    with torch.autocast("cpu", torch.bfloat16):
        assert conv(x, w, b, geo, ALWAYS).dtype == torch.bfloat16
    with pytest.raises(RuntimeError):
        conv(x, w[:, :3], b, geo, ALWAYS)


def test_limits_by_kernel_and_stride() -> None:
    def found(kernel: int, stride: int, **given: float) -> tuple[float, ...]:
        return event_conv.limits_for((kernel, kernel), (stride, stride), EventLimits(**given))

    assert all(a < b for a, b in zip(found(1, 1), found(3, 1)))
    assert found(3, 2)[:2] == found(3, 1)[:2]
    assert found(3, 2)[2] == found(1, 1)[2]
    assert found(3, 1, weight=0.0)[1] == 0.0
