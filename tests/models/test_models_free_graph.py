"""Free tests of every family on its tiny entry, past training: capture, compress, measure, snap, pack."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch

import picojoule
from picojoule import deploy
from picojoule.compress import compress_, preset, quantized, strip
from picojoule.graph import nodes, reference
from picojoule.graph.checking import check_kinds
from picojoule.graph.executor import execute
from picojoule.models import list_models
from picojoule.neurons import Neuron

TINY = list_models(tiny=True)
SNAPPED: dict = {}


@pytest.mark.parametrize("name", TINY)
def test_capture_equals_the_model(name: str, build, example) -> None:
    model = build(name).double().eval()
    graph = picojoule.capture(model, example(name, 2).double())
    assert not [n for n in graph.nodes if isinstance(n, nodes.Opaque)]
    neurons = [n for n in graph.nodes if isinstance(n, nodes.Neuron)]
    assert len(neurons) == sum(isinstance(m, Neuron) for m in model.modules())
    assert all(n.edge.kind.is_spikes and n.lowered for n in neurons)
    x = example(name, 5, seed=7).double()
    check_kinds(graph, x)
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


@pytest.fixture
def snapped(build, example):
    """Function (name, plan) -> (model with the weights of the plan, snapped model, images), in float64."""

    def make(name: str, plan: str):
        if (name, plan) not in SNAPPED:
            model = compress_(build(name), preset(plan))
            optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
            for seed in range(20):
                labels = torch.arange(20) % 10
                loss = torch.nn.functional.cross_entropy(model(example(name, 20, seed)), labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            model = model.double().eval()
            x = example(name, 40, seed=11).double()
            SNAPPED[name, plan] = model, picojoule.snap(picojoule.capture(model, x[:2]), 16, samples=x), x
        return SNAPPED[name, plan]

    return make


@pytest.mark.parametrize("plan", ["w4", "w1"])
@pytest.mark.parametrize("name", TINY)
def test_snapped_equals_the_reference_to_the_spike(name: str, plan: str, snapped) -> None:
    _, snap, x = snapped(name, plan)
    ours = snap.integers(x, watch="neurons")
    graph = snap.graph()
    theirs = reference.run(graph, x.numpy(), watch="neurons")
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert torch.equal(ours[key], value), key
    held = reference.run(graph, x.numpy()[:2], dtype="int64")
    assert torch.equal(held["out"], theirs["out"][:2])


@pytest.mark.parametrize("plan", ["w4", "w1"])
@pytest.mark.parametrize("name", TINY)
def test_snapped_agrees_with_the_trained_model(name: str, plan: str, snapped) -> None:
    model, snap, x = snapped(name, plan)
    agree = (model(x).argmax(1) == snap(x).argmax(1)).double().mean()
    assert agree >= 0.9, f"{float(agree):.3f}"


@pytest.mark.parametrize("name", TINY)
def test_pack_and_run(name: str, snapped, tmp_path) -> None:
    _, snap, x = snapped(name, "w1")
    path = deploy.write(tmp_path / "net.pj", snap.graph())
    packed = deploy.load(path)
    want = reference.run(snap.graph(), x.numpy())["out"]
    got = packed.integers(x.numpy())["out"]
    assert np.array_equal(got, want.numpy())
    assert np.array_equal(packed.predict(x.numpy()), want.argmax(1).numpy())


def landed(module: str) -> bool:
    spec = importlib.util.find_spec(module)
    return spec is not None and spec.origin is not None


@pytest.mark.parametrize("name", TINY)
def test_pack_by_name(name: str, snapped, tmp_path) -> None:
    model, _, x = snapped(name, "w1")
    labels = torch.arange(len(x)) % 10
    result = picojoule.pack(model, x, labels, grid=12, progress=False)
    assert result.graph.stage == "snapped"
    packed = deploy.load(deploy.write(tmp_path / "net.pj", result.graph, result.card))
    agree = (packed.predict(x.numpy()) == model(x).argmax(1).numpy()).mean()
    assert agree >= 0.9


@pytest.mark.skipif(not landed("picojoule.measure.assess"), reason="measuring is not there yet")
@pytest.mark.parametrize("name", TINY)
def test_measure(name: str, build, example) -> None:
    model = build(name).eval()
    report = picojoule.measure_model(model, example(name, 10), labels=torch.arange(10), name=name)
    assert report.spikes > 0
    assert report.sop_exact > 0
    assert report.headline().nj > 0
