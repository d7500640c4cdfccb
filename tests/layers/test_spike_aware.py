"""The switch `spike_aware_`: the same model with the same numbers, on and off."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import picojoule
from picojoule.compress import compress_, preset
from picojoule.core.errors import ConfigError
from picojoule.layers import EventLimits, event_conv, is_spike_aware, spike_aware_
from picojoule.layers.event_bits import AVAILABLE
from picojoule.neurons import LIF
from picojoule.neurons.open_window import window_of

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="a build without the extension")
ALWAYS = EventLimits(1.0, 1.0, 1.0)


class Net(nn.Module):
    """All kinds of layers behind spikes."""

    def __init__(self, surrogate: str = "rect") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.n1 = LIF(4, surrogate=surrogate)
        self.conv = nn.Conv2d(16, 32, 3, stride=2, padding="valid")
        self.n2 = LIF(4, surrogate=surrogate)
        self.circular = nn.Conv2d(32, 24, 3, padding=1, padding_mode="circular", groups=2)
        self.n3 = LIF(4, surrogate=surrogate)
        self.line = nn.Conv1d(24, 16, 3, padding="same")
        self.n4 = LIF(4, surrogate=surrogate)
        self.linear = nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        s = self.n2(self.conv(self.n1(4 * self.stem(x))) * 2)
        s = self.n3(self.circular(s) * 3).flatten(2)
        return self.linear(self.n4(self.line(s) * 3).transpose(1, 2)).mean(1)


def step(model: nn.Module, x: Tensor) -> list[Tensor]:
    model.zero_grad()
    x = x.detach().requires_grad_()
    y = model(x)
    y.square().sum().backward()
    return [y.detach(), x.grad, *(p.grad for p in model.parameters())]  # type: ignore[list-item]


def batch() -> Tensor:
    return torch.randn(8, 3, 9, 9, generator=torch.Generator().manual_seed(3))


def close(got: list[Tensor], want: list[Tensor]) -> None:
    for a, b in zip(got, want):
        torch.testing.assert_close(a, b, rtol=2e-4, atol=2e-5 * float(b.abs().max()))


@pytest.mark.parametrize("surrogate", ["rect", "triangle", "atan"])
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_same_step_on_and_off(surrogate: str, order: torch.memory_format) -> None:
    model = Net(surrogate)
    want = step(model, batch())
    spike_aware_(model, limits=ALWAYS)
    assert [n for n, m in model.named_modules() if is_spike_aware(m)] == [
        "stem", "conv", "circular", "line", "linear",
    ]  # fmt: skip
    close(step(model, batch().contiguous(memory_format=order)), want)
    spike_aware_(model, False)
    assert all(torch.equal(a, b) for a, b in zip(step(model, batch()), want))
    assert not any("forward" in m.__dict__ or "spikes" in m.__dict__ for m in model.modules())


def test_events_and_windows_are_really_used(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    native: Any = event_conv.native
    for name in ("event_forward", "event_weight_gradient", "event_input_gradient"):
        kernel = getattr(native, name)
        monkeypatch.setattr(native, name, lambda *a, k=kernel, n=name: (calls.append(n), k(*a))[1])
    step(spike_aware_(Net("rect"), limits=ALWAYS), batch())
    assert calls.count("event_forward") == 4  # the first layer sees real values
    assert calls.count("event_weight_gradient") == 4
    assert calls.count("event_input_gradient") == 1  # behind pads, views and transposes windows are unknown
    calls.clear()
    step(spike_aware_(Net("atan"), limits=ALWAYS), batch())
    assert "event_input_gradient" not in calls


def test_a_changed_tensor_has_no_window() -> None:
    neuron = LIF(2, surrogate="rect")
    spike_aware_(nn.Sequential(neuron))
    s = neuron(torch.randn(4, 8, 3, 3).requires_grad_() * 2)
    assert window_of(s, 1) is not None
    assert window_of(s, -1) is None
    assert window_of(s.clone(), 1) is None
    s.add_(1)
    assert window_of(s, 1) is None
    assert window_of(neuron(torch.randn(4, 8, 3, 3)), 1) is None  # nobody will ask for a gradient


@pytest.mark.parametrize("surrogate", ["rect", "triangle"])
@pytest.mark.parametrize("soft", [False, True])
def test_windows_hold_every_slope(surrogate: str, soft: bool) -> None:
    """Where the bit is clear, a unit gradient of the spikes gives none of the current that any step sees."""
    torch.manual_seed(0)
    neuron = LIF(1, surrogate=surrogate, reset="soft" if soft else "hard")
    spike_aware_(nn.Sequential(neuron), limits=ALWAYS)
    x = (torch.rand(64, 16) * 5).requires_grad_()
    s = neuron(x)
    found = window_of(s, -1)
    assert found is not None
    bits = found.bits[: 64 * 2].reshape(64, 2, 1) >> torch.arange(8, dtype=torch.uint8) & 1
    s.sum().backward()
    assert x.grad is not None
    opened = bits.reshape(64, 16).bool()
    assert not x.grad[~opened].any()
    assert bool((x.grad[opened] != 0).float().mean() > 0.99)


def test_copies_pickles_and_state() -> None:
    model = spike_aware_(Net())
    assert model.state_dict().keys() == Net().state_dict().keys()
    assert type(model.conv) is nn.Conv2d
    want = step(model, batch())
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert twin.conv.forward.module is twin.conv
        assert all(torch.equal(a, b) for a, b in zip(step(twin, batch()), want))
    seen = []
    model.conv.register_forward_hook(lambda m, args, out: seen.append(out.shape))
    step(model, batch())
    assert len(seen) == 1


@pytest.mark.parametrize("first", ["compress", "switch"])
def test_quantized_weights(first: str) -> None:
    plan = preset("w1")
    want_model = compress_(Net(), plan)
    want = step(want_model, batch())
    model = Net()
    for what in ("compress", "switch") if first == "compress" else ("switch", "compress"):
        compress_(model, plan) if what == "compress" else spike_aware_(model, limits=ALWAYS)
    assert is_spike_aware(model.conv)
    close(step(model, batch()), want)


def test_subclasses_with_their_own_forward_stay() -> None:
    class Other(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) + 1

    model = nn.Sequential(Other(8, 8), nn.Linear(8, 2), nn.Conv2d(8, 8, 3, groups=8))
    spike_aware_(model)
    assert not any(is_spike_aware(m) for m in model)  # two outputs, or one a group, are too few


def test_limits_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"EventLimits\.weight must lie in \[0, 1\], got 2"):
        spike_aware_(nn.Linear(8, 8), limits=EventLimits(weight=2))


def test_capture_and_pack_see_ordinary_layers() -> None:
    model = picojoule.create_model("spiking_vgg_tiny").eval()
    plain = picojoule.capture(model, torch.zeros(2, 1, 8, 8))
    aware = picojoule.capture(spike_aware_(model), torch.zeros(2, 1, 8, 8))
    assert [type(n).__name__ for n in aware.nodes] == [type(n).__name__ for n in plain.nodes]


@pytest.mark.slow
def test_compiled_whole() -> None:
    model = Net("atan")
    want = step(model, batch())
    compiled = torch.compile(spike_aware_(model, limits=ALWAYS), fullgraph=True)
    close(step(compiled, batch()), want)


def test_operator_contract() -> None:
    x = (torch.rand(4, 8, 5, 5) < 0.3).float().requires_grad_()
    w = torch.randn(16, 8, 3, 3, requires_grad=True)
    b = torch.randn(16, requires_grad=True)
    args = (x, w, b, [1, 1], [1, 1], [1, 1], 1, [1.0, 1.0])
    torch.library.opcheck(torch.ops.pj.event_conv, args)


@pytest.mark.parametrize(
    ("limit", "batch_size", "published"), [(None, 16, False), (1.0, 16, True), (None, 2, True)]
)
def test_windows_too_open_to_use_are_not_published(
    limit: float | None, batch_size: int, published: bool
) -> None:
    torch.manual_seed(0)
    neuron = LIF(2, surrogate="rect")
    spike_aware_(nn.Sequential(neuron), limits=EventLimits(input=limit))
    wide = torch.rand(2 * batch_size, 8, 6, 6, requires_grad=True) + 1.0  # near the threshold
    assert (window_of(neuron(wide), 1) is not None) is published
    far = torch.rand(2 * batch_size, 8, 6, 6, requires_grad=True) * 20
    assert window_of(neuron(far), 1) is not None
