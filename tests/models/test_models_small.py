"""Sizes for small images: each is captured, snapped and run on the engine, and equals the reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import picojoule
from picojoule.deploy.engine import Engine
from picojoule.graph import reference
from picojoule.models import create_model, list_models, model_info

FAST = list_models("*_28")
SLOW = [n for pattern in ("*_digits", "*_32", "*_events") for n in list_models(pattern)]


@pytest.mark.parametrize("name", [*FAST, *(pytest.param(n, marks=pytest.mark.slow) for n in SLOW)])
def test_small_sizes_reach_the_engine(name: str) -> None:
    torch.manual_seed(0)
    model = create_model(name)
    steps = (model.entry.T,) if model.entry.mode == "frames" else ()
    x = torch.randn(4, *steps, *model_info(name)["image"])
    with torch.no_grad():
        for _ in range(3):
            model(x)
    model, x = model.double().eval(), x.double()
    graph = picojoule.snap(picojoule.capture(model, x[:2]), 12, samples=x).graph()
    want = reference.run(graph, x.numpy())["out"].numpy()
    got = Engine(graph)({graph.inputs[0].name: x.numpy()})["out"]
    assert want.shape == (4, 10)
    assert np.array_equal(got, want)


def test_each_family_but_the_plain_copies_has_them() -> None:
    families = {model_info(n)["family"] for n in list_models()} - {"spiking_resnet", "sdt_v2"}
    for size in ("digits", "28", "32"):
        assert {model_info(n)["family"] for n in list_models(f"*_{size}")} == families
