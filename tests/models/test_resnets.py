"""ResNet families: published counts, what the convolutions see, initial values."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from picojoule.core.errors import ConfigError
from picojoule.models import create_model


def count(name: str, **overrides) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in create_model(name, **overrides).parameters())


@pytest.mark.parametrize(
    ("name", "published", "overrides"),
    [
        ("ms_resnet18", 11_693_736, {}),
        ("ms_resnet34", 21_801_896, {}),
        ("ms_resnet18_cifar", 11_173_962, {}),
        ("sew_resnet18", 11_689_512, {}),
        ("sew_resnet34", 21_797_672, {}),
        ("sew_resnet50", 25_557_032, {}),
        ("sew_resnet101", 44_549_160, {}),
        ("sew_resnet152", 60_192_808, {}),
        ("spiking_resnet18", 11_693_736, {}),
        ("spiking_resnet34", 21_801_896, {}),
        ("spiking_resnet19", 12_569_226, {}),
        ("spiking_resnet19", 12_615_396, {"num_classes": 100}),
    ],
)
def test_counts(name: str, published: int, overrides: dict) -> None:
    assert count(name, **overrides) == published


def conv_inputs(name: str) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model = create_model(name)
    seen: dict[str, torch.Tensor] = {}
    for path, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(lambda m, a, path=path: seen.update({path: a[0]}))
    model(torch.randn(8, 1, 8, 8) * 2)
    return seen


def test_ms_convolutions_see_spikes_except_stem_and_shortcut() -> None:
    seen = conv_inputs("ms_resnet_tiny")
    real = {path for path, x in seen.items() if set(x.unique().tolist()) != {0.0, 1.0}}
    assert real == {"stem.conv", "stages.1.0.shortcut.conv"}


def test_sew_add_makes_counts_that_the_next_stage_reads() -> None:
    seen = conv_inputs("sew_resnet_tiny")
    del seen["stem.conv"]
    assert seen["stages.1.0.conv1.conv"].max() == 2
    for path, x in seen.items():
        assert torch.equal(x, x.round()), path


def test_post_activation_stays_binary() -> None:
    seen = conv_inputs("spiking_resnet_tiny")
    del seen["stem.conv"]
    for path, x in seen.items():
        assert set(x.unique().tolist()) == {0.0, 1.0}, path


@pytest.mark.parametrize("join", ["and", "iand", "or"])
def test_sew_logic_stays_binary_and_refuses_counts(join: str) -> None:
    torch.manual_seed(0)
    model = create_model("sew_resnet_tiny", join=join)
    spikes = model.stages(model.pool(model.stem(model.entry(torch.randn(4, 1, 8, 8) * 2))))
    assert set(spikes.unique().tolist()) <= {0.0, 1.0}
    with pytest.raises(ConfigError, match="binary spikes"):
        create_model("sew_resnet_tiny", join=join, neuron={"name": "sfa", "D": 4})


def test_ms_starts_as_identity_with_slope_of_the_threshold() -> None:
    model = create_model("ms_resnet_digits")
    slopes = {
        p: m.weight.unique().tolist() for p, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)
    }
    assert sum(path.endswith("conv2.norm") for path in slopes) == 2
    for path, slope in slopes.items():
        assert slope == ([0.0] if path.endswith("conv2.norm") else [0.5])
    neuron = model.head_neuron
    assert (1 - 1 / neuron.tau, neuron.v_th, neuron.rule.strict) == (0.25, 0.5, True)


def test_empty_stages_are_refused() -> None:
    with pytest.raises(ConfigError, match="stage 1 has 0 blocks"):
        create_model("ms_resnet_tiny", stages=((8, 1, 1), (8, 0, 1)))
