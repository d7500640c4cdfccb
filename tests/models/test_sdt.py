"""Spike-driven Transformers V1 and V3: published counts and the invariants of their method notes."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from picojoule.core.errors import ConfigError
from picojoule.layers import merge_repconv_
from picojoule.layers.sdsa import SDSA
from picojoule.models import create_model
from picojoule.models.sdt_v3 import SDTv3
from picojoule.neurons import LIF, Neuron
from picojoule.neurons.expand import thermometer


def count(name: str, **overrides) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in create_model(name, **overrides).parameters())


@pytest.mark.parametrize(
    ("name", "depth", "published", "overrides"),
    [
        ("sdt_v1_8_384", 8, 16_816_536, {}),
        ("sdt_v1_6_512", 6, 23_373_736, {}),
        ("sdt_v1_8_512", 8, 29_689_896, {}),
        ("sdt_v1_10_512", 10, 36_006_056, {}),
        ("sdt_v1_8_768", 8, 66_339_144, {}),
        ("sdt_v1_2_256", 2, 2_567_082, {}),
        ("sdt_v1_2_512", 2, 10_233_546, {}),
        ("sdt_v1_2_512", 2, 10_279_716, {"num_classes": 100}),
        ("sdt_v1_2_256", 2, 2_566_794, {"in_channels": 2, "mode": "frames"}),
        ("sdt_v1_2_256", 2, 2_567_051, {"in_channels": 2, "num_classes": 11, "pools": "0111"}),
    ],
)
def test_v1_counts_are_the_published_ones_less_64_unused_a_block(name, depth, published, overrides) -> None:
    assert count(name, **overrides) + 64 * depth == published


@pytest.mark.parametrize(
    ("name", "published"),
    [("t", 2_702_048), ("s", 5_105_608), ("m", 10_023_112), ("l", 18_987_504)],
)
def test_v3_counts(name: str, published: int) -> None:
    assert count(f"sdt_v3_{name}") == published


@pytest.mark.parametrize(
    ("name", "published"),
    [("15m", 15_112_208), ("31m", 31_333_864), ("55m", 55_350_248), ("124m", 123_741_160)],
)
def test_v2_counts(name: str, published: int) -> None:
    assert count(f"sdt_v2_{name}") == published


def test_v2_exceptions_to_binary_and_its_merged_form() -> None:
    model = warm("sdt_v2_tiny")
    merged = merge_repconv_(copy.deepcopy(model))
    assert torch.allclose(model(images()), merged(images()), atol=1e-10, rtol=0)
    real = set()
    for path, module in merged.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_pre_hook(
                lambda m, a, path=path: real.add(path) if set(a[0].unique().tolist()) - {0.0, 1.0} else None
            )
    merged(images())
    assert real == {"stages.0.0.conv", "stages.0.1.sep.pw2.conv"}
    dense = merged.stages[1][1].attn.proj.conv
    assert dense.weight.numel() == 9 * 16**2


def test_v2_scale_is_a_threshold() -> None:
    y = torch.randint(0, 9, (8, 3, 4)).float()
    assert torch.equal(LIF(4, v_th=0.5)(0.125 * y), LIF(4, v_th=4.0)(y))


def test_v3_goes_224_to_14() -> None:
    with torch.device("meta"):
        model = create_model("sdt_v3_t")
        assert isinstance(model, SDTv3)
        x = torch.empty(2, 3, 224, 224)
        sides = []
        for stage in model.stages:
            x = stage(x)
            sides.append((x.shape[1], x.shape[-1]))
    assert sides == [(12, 112), (24, 56), (48, 28), (96, 14), (128, 14)]


def warm(name: str, **overrides) -> nn.Module:
    """A random model whose BatchNorm has seen data and amplifies, so that spikes reach the end."""
    torch.manual_seed(0)
    model = create_model(name, **overrides).double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 1.0, 4.0)
            nn.init.uniform_(module.bias, -0.5, 1.0)
            module.momentum = 0.5
    with torch.no_grad():
        for _ in range(12):
            model(images())
    return model.eval()


def images(batch: int = 6) -> torch.Tensor:
    return torch.randn(batch, 1, 8, 8, generator=torch.Generator().manual_seed(0)).double() * 2


def conv_inputs(model: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    seen: list[torch.Tensor] = []
    hooks = [
        m.register_forward_pre_hook(lambda m, a: seen.append(a[0]))
        for m in model.modules()
        if isinstance(m, nn.Conv2d | nn.Linear)
    ]
    model(x)
    for hook in hooks:
        hook.remove()
    return seen


def test_v1_convolutions_see_binary_spikes() -> None:
    first, *rest = conv_inputs(warm("sdt_v1_tiny"), images())
    assert first.unique().numel() > 2
    for x in rest:
        assert set(x.unique().tolist()) == {0.0, 1.0}


def test_v3_convolutions_see_counts() -> None:
    first, *rest, last = conv_inputs(warm("sdt_v3_tiny"), images())
    assert first.unique().numel() > 5
    for x in rest:
        assert set((x * 4).unique().tolist()) <= {0.0, 1.0, 2.0, 3.0, 4.0}
        assert x.max() > 0
    assert set(last.unique().tolist()) <= {0.0, 1.0, 2.0, 3.0, 4.0}
    assert last.max() >= 1


def test_v1_silence_in_silence_out() -> None:
    model = warm("sdt_v1_tiny")
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.zeros_(module.bias)
            nn.init.zeros_(module.running_mean)
        elif isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.zeros_(module.bias)
    fired = []
    for module in model.modules():
        if isinstance(module, Neuron):
            module.register_forward_hook(lambda m, a, out: fired.append(out.abs().sum().item()))
    logits = model(torch.zeros(2, 1, 8, 8).double())
    assert len(fired) >= 12
    assert sum(fired) == 0
    assert torch.allclose(logits, model.head.bias.expand(2, -1))


def test_v1_gate_is_the_neuron_at_half_its_threshold() -> None:
    gates = [
        m.gate
        for m in create_model("sdt_v1_tiny", neuron={"name": "lif", "v_th": 0.8}).modules()
        if isinstance(m, SDSA)
    ]
    assert [type(gate) for gate in gates] == [LIF]
    assert gates[0].v_th == 0.4
    other = create_model("sdt_v1_tiny", gate={"name": "lif", "v_th": 0.7, "tau": 3.0})
    assert {m.gate.v_th for m in other.modules() if isinstance(m, SDSA)} == {0.7}
    counts = create_model("sdt_v1_tiny", neuron={"name": "ilif", "D": 2})
    assert counts(torch.randn(2, 1, 8, 8)).shape == (2, 10)


class VirtualSteps(nn.Module):
    """Computes a convolution or linear layer from D binary steps; its bias enters once."""

    def __init__(self, layer: nn.Module, D: int, norm: float) -> None:
        super().__init__()
        self.layer, self.D, self.norm = layer, D, norm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n = x * self.norm
        assert torch.equal(n, n.round()), "this layer does not see whole counts"
        bias, self.layer.bias = self.layer.bias, None
        total = sum(self.layer(step) for step in thermometer(n, self.D)) / self.norm
        self.layer.bias = bias
        if bias is None:
            return total
        return total + bias.view(-1, *[1] * (total.dim() - 2))


class HalfEvenSteps(nn.Module):
    """The stateless integer neuron as D comparisons: > after an even number of spikes, else >=."""

    def __init__(self, D: int, norm: float) -> None:
        super().__init__()
        self.D, self.norm = D, norm

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        r, n = u.clone(), torch.zeros_like(u)
        for _ in range(self.D):
            b = torch.where(n % 2 == 0, r > 0.5, r >= 0.5).to(u.dtype)
            r, n = r - b, n + b
        return n / self.norm


def test_v3_integer_training_equals_binary_virtual_steps() -> None:
    model = warm("sdt_v3_tiny")
    binary = copy.deepcopy(model)
    stem = binary.stages[0][0].conv
    counts: dict[str, list[torch.Tensor]] = {"integer": [], "binary": []}

    def record(key: str):
        return lambda m, a, out: counts[key].append(out.detach())

    for path, module in list(binary.named_modules()):
        if isinstance(module, Neuron):
            new: nn.Module = HalfEvenSteps(module.D, module.N)
            new.register_forward_hook(record("binary"))
        elif isinstance(module, nn.Conv2d) and module is not stem:
            new = VirtualSteps(module, 4, 4.0)
        elif isinstance(module, nn.Linear):
            new = VirtualSteps(module, 4, 1.0)
        else:
            continue
        parent, _, name = path.rpartition(".")
        setattr(binary.get_submodule(parent), name, new)
    for module in model.modules():
        if isinstance(module, Neuron):
            module.register_forward_hook(record("integer"))
    a, b = model(images()), binary(images())
    assert torch.allclose(a, b, atol=1e-10, rtol=0)
    assert len(counts["integer"]) == len(counts["binary"]) == 17
    for left, right in zip(counts["integer"], counts["binary"]):
        assert torch.equal(left, right)


def test_v3_head_neuron_emits_whole_counts_and_can_be_chosen() -> None:
    model = create_model("sdt_v3_tiny")
    assert (model.head_neuron.N, model.head_neuron.D) == (1.0, 4)
    assert model.stages[1][1].attn.neuron.N == 4
    other = create_model("sdt_v3_tiny", neuron="lif", T=2, head_neuron={"name": "lif", "v_th": 0.5})
    assert other.head_neuron.v_th == 0.5
    assert other(torch.randn(2, 1, 8, 8)).shape == (2, 10)


def test_v3_scale_and_init() -> None:
    model = create_model("sdt_v3_digits")
    attn = model.stages[1][1].attn
    assert attn.scale == pytest.approx(2 / math.sqrt(48 / attn.heads))
    torch.manual_seed(0)
    big = create_model("sdt_v3_digits", num_classes=500)
    assert big.head.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not big.head.bias.any()


def test_v1_init() -> None:
    torch.manual_seed(0)
    model = create_model("sdt_v1_digits")
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 2000:
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.1)
            assert module.bias is None or not module.bias.any()


def test_bad_settings() -> None:
    with pytest.raises(ConfigError, match="four flags"):
        create_model("sdt_v1_tiny", pools="012")
    with pytest.raises(ConfigError, match="multiple of 8"):
        create_model("sdt_v1_tiny", dim=20)
    with pytest.raises(ConfigError, match="at least 1 block"):
        create_model("sdt_v1_tiny", depth=0)
    with pytest.raises(ConfigError, match="at least one convolution stage"):
        create_model("sdt_v3_tiny", attn_stages=())


def test_drop_path_rises_to_the_last_block_and_is_off_by_default() -> None:
    model = create_model("sdt_v3_tiny", attn_stages=((16, 2, 3, 2), (16, 1, 3, 1)), drop_path=0.2)
    rates = [m.drop.p for stage in model.stages[1:] for m in stage[1:]]
    assert rates == pytest.approx([0.0, 0.1, 0.2])
    assert create_model("sdt_v1_tiny").blocks[0].drop.p == 0
