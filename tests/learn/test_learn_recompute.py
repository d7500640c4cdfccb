"""Activation checkpointing: the gradients of the plain model, less memory, nothing counted twice."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from learn_helpers import digits_recipe
from torch import nn

from picojoule import timeline
from picojoule.core.errors import CausalityError, ConfigError
from picojoule.layers.blocks import ConvNormNeuron
from picojoule.layers.drop import Dropout
from picojoule.learn import Trainer, blocks_of, checkpoint_
from picojoule.learn.recompute import _Kept
from picojoule.models import create_model, list_models
from picojoule.neurons import LIF, PLIF, PSN


class Recurrent(nn.Module):
    """No BatchNorm; one neuron called twice a step, one learned, dropout over time."""

    def __init__(self, T: int, mode: str = "frames", readout: str = "mean") -> None:
        super().__init__()
        self.entry = timeline.Entry(T, mode)
        self.one, self.two, self.head = nn.Linear(6, 12), nn.Linear(12, 12), nn.Linear(12, 3)
        self.shared, self.plif, self.drop = LIF(T), PLIF(T), Dropout(0.3, T)
        self.readout = timeline.Readout(T, readout)

    def forward(self, x):
        a = self.shared(2 * self.one(self.entry(x)))
        b = self.shared(3 * self.two(self.drop(a)))
        return self.readout(self.head(self.plif(a + 2 * b)))


def _streams(name: str) -> bool:
    """Whether "time" takes the model: no module looks ahead."""
    try:
        timeline.stream(create_model(name))
    except CausalityError:
        return False
    return True


def passed(model: nn.Module, x: torch.Tensor) -> tuple[list[torch.Tensor], int]:
    """Output, gradients and buffers after one pass, and the bytes autograd kept."""
    torch.manual_seed(3)
    x = x.clone().requires_grad_()
    kept: dict[int, int] = {}

    def pack(t: torch.Tensor) -> torch.Tensor:
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        out = model(x)
    (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
    grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in model.parameters()]
    found = [out.detach(), x.grad, *grads, *(b.clone() for b in model.buffers()), torch.rand(3)]
    model.zero_grad()
    return found, sum(kept.values())  # type: ignore[return-value]


@pytest.mark.parametrize("name", list_models("*", tiny=True))
def test_block_mode_is_bit_equal_and_keeps_less(name):
    torch.manual_seed(0)
    plain = create_model(name, T=3)
    other = checkpoint_(copy.deepcopy(plain), "block")
    assert blocks_of(other)
    assert list(plain.state_dict()) == list(other.state_dict())
    x = torch.rand(5, 1, 8, 8)
    for _ in range(2):  # the second pass sees the statistics of the first
        (want, much), (got, less) = passed(plain, x), passed(other, x)
        assert all(torch.equal(a, b) for a, b in zip(want, got))
        assert less < 0.7 * much


def test_block_mode_by_pattern_dropout_and_odd_batches():
    torch.manual_seed(0)
    plain = create_model("sdt_v3_tiny", T=2, drop_path=0.5)
    other = checkpoint_(copy.deepcopy(plain), "block", blocks=("stages.1.*",))
    for batch in (1, 3):
        x = torch.rand(batch + 1, 1, 8, 8)
        assert all(torch.equal(a, b) for a, b in zip(passed(plain, x)[0], passed(other, x)[0]))


@pytest.mark.parametrize("readout", ["mean", "steps", "sum", "last"])
@pytest.mark.parametrize("mode", ["frames", "static"])
def test_time_mode_equals_the_plain_model(mode, readout):
    torch.manual_seed(0)
    plain = Recurrent(7, mode, readout).double()
    plain.drop.p = 0.0
    x = torch.randn(4, *((7,) if mode == "frames" else ()), 6).double()
    want = passed(plain, x)[0]
    for steps in (1, 2, 3, 7, 20, None):
        other = checkpoint_(copy.deepcopy(plain), "time", steps=steps)
        for a, b in zip(want, passed(other, x)[0]):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
        assert timeline.stream(other)(x[:, :2] if mode == "frames" else x, T=2) is not None


def test_time_mode_keeps_dropout_masks_and_little_memory():
    torch.manual_seed(0)
    plain = Recurrent(36)
    other = checkpoint_(copy.deepcopy(plain), "time")
    x = torch.randn(4, 36, 6)
    (want, much), (got, less) = passed(plain, x), passed(other, x)
    for a, b in zip(want[:-1], got):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert less < 0.5 * much


STREAMING = [name for name in list_models("*", tiny=True) if _streams(name)]


@pytest.mark.parametrize("name", STREAMING)
def test_time_mode_while_batchnorm_trains(name):
    """Block by block: outputs, gradients, running statistics and random numbers bit for bit."""
    torch.manual_seed(0)
    plain = create_model(name, T=3)
    other, x = checkpoint_(copy.deepcopy(plain), "time"), torch.rand(5, 1, 8, 8)
    for _ in range(2):
        (want, much), (got, less) = passed(plain, x), passed(other, x)
        assert all(torch.equal(a, b) for a, b in zip(want, got))
        assert less < 0.7 * much


def test_time_mode_changes_its_way_with_batchnorm():
    """Chunks in eval mode, blocks in training mode; both the plain model's gradients."""
    torch.manual_seed(0)
    plain = create_model("spiking_vgg_tiny", T=5).double()
    other, x = checkpoint_(copy.deepcopy(plain), "time", steps=2), torch.rand(3, 1, 8, 8).double()
    for training in (True, False, True):
        plain.train(training), other.train(training)
        for a, b in zip(passed(plain, x)[0], passed(other, x)[0]):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_spikes_between_blocks_are_kept_as_bits():
    """What is kept grows with T by about a bit a spike, not by 32."""

    def kept(mode: str, T: int) -> int:
        model = checkpoint_(create_model("spiking_vgg_tiny", T=T), mode)
        return passed(model, torch.rand(16, 1, 16, 16))[1]

    assert kept("time", 8) - kept("time", 4) < 0.1 * (kept("none", 8) - kept("none", 4))


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("scale", [1.0, 0.3])
@pytest.mark.parametrize("shape", [(4, 16, 8, 8), (9, 13, 7, 6), (8, 1000)])
def test_kept_spikes_come_back_bit_for_bit(shape, scale, order):
    if len(shape) == 2 and order is torch.channels_last:
        pytest.skip("two axes have one order")
    torch.manual_seed(0)
    x = (scale * (torch.rand(shape) < 0.2)).contiguous(memory_format=order)
    kept = _Kept.of(x)
    assert kept.data.numel() * kept.data.element_size() < x.numel() / 4
    again = kept.back(kept.data)
    assert torch.equal(again, x)
    assert again.stride() == x.stride()
    for other in (torch.randn(64, 64), x.double(), x[:, ::2]):
        assert _Kept.of(other).data is other


def test_empty_batch_and_eval():
    model = checkpoint_(create_model("spiking_vgg_tiny").eval(), "block")
    assert model(torch.rand(0, 1, 8, 8)).shape == (0, 10)
    x = torch.rand(2, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(model(x), checkpoint_(copy.deepcopy(model), "none")(x))


def test_modes_undo_copy_and_pickle():
    model = create_model("spiking_vgg_tiny")
    block = type(model.features[0])
    checkpoint_(model, "block")
    assert isinstance(model.features[0], ConvNormNeuron)
    assert type(model.features[0]) is not block
    twin = copy.deepcopy(model)
    assert type(twin.features[0]) is type(model.features[0])
    again = pickle.loads(pickle.dumps(model.features[0]))
    assert type(again) is type(model.features[0])
    assert type(checkpoint_(model, "none").features[0]) is block


def test_refusals():
    model = create_model("spiking_vgg_tiny")
    loose = nn.Sequential(timeline.Entry(4), nn.Linear(2, 2), nn.BatchNorm1d(2), LIF(4))
    with pytest.raises(ConfigError, match=r"BatchNorm \(2\) takes its statistics over all T.*has none"):
        checkpoint_(loose, "time")
    with pytest.raises(ConfigError, match="one of none, block, time"):
        checkpoint_(model, "blocks")
    with pytest.raises(ConfigError, match="no module matches"):
        checkpoint_(model, "block", blocks=("featurs.*",))
    with pytest.raises(ConfigError, match="finds no block"):
        checkpoint_(nn.Sequential(nn.Linear(2, 2), LIF(2)), "block")
    with pytest.raises(ConfigError, match="steps=0"):
        checkpoint_(model, "time", steps=0)
    with pytest.raises(CausalityError, match="PSN"):
        checkpoint_(nn.Sequential(nn.Linear(2, 2), PSN(4)), "time")
    with pytest.raises(ConfigError, match='"max" divides'):
        checkpoint_(Recurrent(4, readout="max"), "time")(torch.rand(2, 4, 6))
    frozen = checkpoint_(loose.eval(), "time")
    frozen.train()
    with pytest.raises(ConfigError, match="BatchNorm"):
        frozen(torch.rand(3, 2))


def test_recipe_runs_the_same_with_and_without(tmp_path):
    found = []
    for mode in ("none", "block", "time"):
        trainer = Trainer(digits_recipe(epochs=1, checkpoint=mode), tmp_path / mode, quiet=True)
        found.append((trainer.fit().history, trainer.raw.state_dict()))
    for history, state in found[1:]:
        assert found[0][0] == history
        assert all(torch.equal(a, b) for a, b in zip(found[0][1].values(), state.values()))
