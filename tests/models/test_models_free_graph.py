"""Free tests of every family on its tiny entry, past training: capture, compress, measure, snap, pack."""

from __future__ import annotations

import pytest
import torch

import picojoule
from picojoule.compress import compress_, preset, quantized, strip
from picojoule.graph import nodes
from picojoule.graph.executor import execute
from picojoule.models import list_models
from picojoule.neurons import Neuron

TINY = list_models(tiny=True)


@pytest.mark.parametrize("name", TINY)
def test_capture_equals_the_model(name: str, build, example) -> None:
    model = build(name).double().eval()
    graph = picojoule.capture(model, example(name, 2).double())
    assert not [n for n in graph.nodes if isinstance(n, nodes.Opaque)]
    neurons = [n for n in graph.nodes if isinstance(n, nodes.Neuron)]
    assert len(neurons) == sum(isinstance(m, Neuron) for m in model.modules())
    assert all(n.edge.kind.is_spikes and n.lowered for n in neurons)
    x = example(name, 5, seed=7).double()
    (out,) = execute(graph, x).values()
    assert torch.allclose(out, model(x), atol=1e-9, rtol=0)


@pytest.mark.parametrize("plan", ["w1", "w4", "ternary"])
@pytest.mark.parametrize("name", TINY)
def test_compress(name: str, plan: str, build, example) -> None:
    model = compress_(build(name), preset(plan))
    layers = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    assert len(list(quantized(model))) == len(layers)
    loss = torch.nn.functional.cross_entropy(model(example(name, 10)), torch.arange(10))
    loss.backward()
    assert all(
        p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters() if p.requires_grad
    )
    model.eval()
    if plan == "w1":
        for layer in layers[1:-1]:
            assert layer.weight.detach().abs().flatten(1).std(1).max() < 1e-6, (
                "more than one magnitude a channel"
            )
    x = example(name)
    assert torch.equal(strip(model)(x), model(x))


@pytest.mark.parametrize("name", TINY)
def test_every_neuron_can_be_packed(name: str, build) -> None:
    for module in build(name).modules():
        if isinstance(module, Neuron):
            spec = module.lower()
            assert spec.kind == module.kind
