"""Nodes of registered models without a fast kernel: docs/engine.md says that they only move data."""

import pytest
import torch

import picojoule
from picojoule.deploy.engine import ISAS, Engine
from picojoule.graph import nodes as g
from picojoule.models import create_model, list_models, model_info

MOVES = {"Input", "Output", "Repeat", "Reshape", "Readout", "Concat", "Upsample"}


def scalar_nodes(graph: g.Graph, isa: str = "auto") -> dict[str, str]:
    """Nodes that nothing but the plain oracle runs: name -> type."""
    engine = Engine(graph, isa=isa)
    return {n.name: type(n).__name__ for n in graph.nodes if engine.kernels(n.name) == ["scalar"]}


@pytest.mark.parametrize("name", [*list_models(tiny=True), *list_models("*_digits")])
def test_all_that_computes_in_registered_models_is_fast(name: str) -> None:
    torch.manual_seed(0)
    x = torch.rand(2, *model_info(name)["image"])
    graph = picojoule.snap(picojoule.capture(create_model(name).eval(), x), 12, samples=x).graph()
    for isa in ISAS[1:]:
        slow = scalar_nodes(graph, isa)
        assert set(slow.values()) <= MOVES, f"{isa}: {slow}"
    planned = {row["name"]: row["kernel"] for row in Engine(graph).info()["nodes"]}
    used = {type(graph[n]).__name__ for n, kernel in planned.items() if kernel == "scalar"}
    assert used <= MOVES
