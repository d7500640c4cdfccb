"""Published families on their smallest entry: snapped, the reference equals the model to the spike."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from picojoule.graph import Grid, capture, compare, execute, reference, snap
from picojoule.models import create_model, list_models, model_info


def lively(name: str) -> nn.Module:
    """A model that fires in all layers, with normalisation slopes of both signs."""
    torch.manual_seed(0)
    model = create_model(name).train()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layer.weight.data.uniform_(0.8, 1.6)
            layer.weight.data[::4] *= -1
            layer.bias.data.normal_(0.7, 0.3)
            layer.momentum = 0.5
    with torch.no_grad():
        for _ in range(6):
            model(torch.rand(16, *model_info(name)["image"]))
    model.eval()
    return model


@pytest.mark.parametrize("name", list_models(tiny=True))
def test_every_family_snaps_exactly(name: str) -> None:
    model = lively(name)
    x = torch.rand(5, *model_info(name)["image"])
    captured = capture(model, x)
    snapped = snap(captured, Grid(16, weight_bits=16, input_frac=16), samples=x)
    graph = snapped.graph()
    got = reference.run(graph, x, watch="neurons")
    mine = snapped.integers(x, watch="neurons")
    assert all(torch.equal(got[key], mine[key]) for key in got)
    spikes = [got[n] for n in snapped.neurons]
    assert sum(bool(s.any()) for s in spikes) > 0.5 * len(spikes), "most neurons are silent"
    with torch.no_grad():
        assert torch.allclose(execute(captured, x)["out"], model.double()(x.double()), atol=1e-9)
    figures = compare(captured, snapped, x)
    assert sum(figures["flips"].values()) / len(figures["flips"]) < 0.02
