"""Spiking VGG: published parameter counts, layouts, neurons by name."""

from __future__ import annotations

import pytest
import torch

from picojoule.core.errors import ConfigError
from picojoule.models import NeuronConfig, create_model, neuron_config
from picojoule.neurons import LIF


def count(name: str, **overrides) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in create_model(name, **overrides).parameters())


@pytest.mark.parametrize(
    ("name", "overrides", "parameters"),
    [
        ("spiking_vgg11", {}, 9_228_426),
        ("spiking_vgg11", {"num_classes": 100}, 9_274_596),
        ("vggsnn", {}, 9_271_498),
        ("vggsnn", {"conv_bias": False, "first_bias": False}, 9_268_746),
    ],
)
def test_published_counts(name: str, overrides: dict, parameters: int) -> None:
    assert count(name, **overrides) == parameters


def test_binary_weights_of_bso() -> None:
    with torch.device("meta"):
        model = create_model("spiking_vgg11")
    convs = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
    assert sum(c.weight.numel() for c in convs[1:]) == 9_216_000
    assert convs[0].bias is not None
    assert all(c.bias is None for c in convs[1:])


def test_all_convolutions_but_the_first_see_spikes() -> None:
    torch.manual_seed(0)
    model = create_model("spiking_vgg_tiny", pool="max")
    seen = {}
    for path, module in model.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_pre_hook(lambda m, x, path=path: seen.update({path: x[0]}))
    model(torch.rand(4, 1, 8, 8) * 3)
    first, *rest = seen.values()
    assert set(first.unique().tolist()) - {0.0, 1.0}
    assert rest
    for x in rest:
        assert set(x.unique().tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("layout", ["64-Q", "64/x", "", "P-P", "0-3", "8--8"])
def test_bad_layouts(layout: str) -> None:
    with pytest.raises(ConfigError, match="layout"):
        create_model("spiking_vgg_tiny", layout=layout)


def test_bad_heads() -> None:
    with pytest.raises(ConfigError, match="image_size"):
        create_model("spiking_vgg_tiny", head="flatten")
    with pytest.raises(ConfigError, match="too small"):
        create_model("spiking_vgg_tiny", head="flatten", image_size=1)
    with pytest.raises(ConfigError, match="'gap' or 'flatten'"):
        create_model("spiking_vgg_tiny", head="mean")
    with pytest.raises(ConfigError, match="'avg' or 'max'"):
        create_model("spiking_vgg_tiny", pool="min")


def test_flatten_head_with_odd_sizes_and_hidden_layers() -> None:
    model = create_model(
        "spiking_vgg_tiny", layout="4/2-P-8", head="flatten", image_size=13, hidden=(12, 10), dropout=0.2
    )
    assert model(torch.rand(2, 1, 13, 13)).shape == (2, 10)
    assert sum(isinstance(m, LIF) for m in model.modules()) == 4


def test_neurons_by_name_mapping_and_callable() -> None:
    config = neuron_config({"name": "LIF", "tau": 4.0})
    assert config.as_dict() == {"name": "lif", "tau": 4.0}
    assert config(3).T == 3
    assert config.with_(v_th=0.5)(1).v_th == 0.5
    assert neuron_config(config) is config
    assert neuron_config(LIF)(2).T == 2
    model = create_model("spiking_vgg_tiny", neuron=lambda T: LIF(T, tau=8.0), T=2)
    assert {m.tau for m in model.modules() if isinstance(m, LIF)} == {8.0}
    with pytest.raises(ConfigError, match="needs a name"):
        neuron_config({"tau": 2.0})
    with pytest.raises(ConfigError, match="a name, a mapping"):
        neuron_config(3)
    with pytest.raises(ConfigError, match="no option 'gain'"):
        NeuronConfig("lif").with_(gain=2.0)
