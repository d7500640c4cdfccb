"""Firing rates in the card: measured on the samples, checked by the reader, and not required."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import golden_graphs
from random_graphs import random_graph, random_inputs

from picojoule.core.errors import FormatError, PackError
from picojoule.deploy import dumps, load, loads, shipped, write
from picojoule.graph import rates, reference


def measured(graph: Any, seed: int = 0) -> dict[str, list[float]]:
    inputs = random_inputs(graph, 4, seed)
    return rates.measure(
        graph, [{k: v[at : at + 2] for k, v in inputs.items()} for at in (0, 2)], reference.run
    )


def test_rates_are_shares_of_set_bits() -> None:
    """By hand from the values of every spike edge."""
    kinds = set()
    for seed in range(40):
        graph = random_graph(seed)
        found = measured(graph, seed)
        edges = rates.spike_edges(graph)
        assert set(found) == set(edges) - {node.key for node in graph.outputs}
        values = reference.run(graph, random_inputs(graph, 4, seed), watch=list(found))
        for name, row in found.items():
            kind, spikes = edges[name].edge.kind, values[name].numpy()
            kinds.add(kind.name)
            if kind.name == "ternary":
                wanted = [(spikes == 1).mean(), (spikes == -1).mean()]
            else:
                wanted = [(spikes // 2**bit % 2).mean() for bit in range(int(kind.high).bit_length())]
            np.testing.assert_allclose(row, wanted, atol=1e-5)
    assert kinds >= {"binary", "ternary", "integer"}


def test_rates_travel_in_the_file_and_reach_the_planner(tmp_path: Path) -> None:
    graph = golden_graphs.conv_lif()
    inputs = golden_graphs.inputs(graph, 4)
    card = {"rates": rates.measure(graph, [inputs], reference.run)}
    assert loads(dumps(graph, card))[1] == card
    model = load(write(tmp_path / "net.pj", graph, card))
    means = {name: float(np.mean(row)) for name, row in card["rates"].items()}
    rows = {row["name"]: row for row in model.info()["engine"]["nodes"]}
    seen = [n for n in graph.nodes if rows[n.name]["rate"] is not None]
    assert seen
    for node in seen:
        assert rows[node.name]["rate"] == pytest.approx(means[node.inputs[0]])
    before = load(write(tmp_path / "old.pj", graph))
    assert all(row["rate"] is None for row in before.info()["engine"]["nodes"])
    for key, value in before.engine(inputs).items():
        np.testing.assert_array_equal(model.engine(inputs)[key], value)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ([], "card.rates.*object"),
        ({"nobody": [0.1]}, "nobody"),
        ({"out": [0.1]}, "out"),
        ({"SPIKES": 0.1}, "one a bit-plane"),
        ({"SPIKES": [0.1, 0.2, 0.3]}, "needs 1 numbers"),
        ({"SPIKES": []}, "needs 1 numbers"),
        ({"SPIKES": [1.5]}, "0..1"),
        ({"SPIKES": [-0.1]}, "0..1"),
        ({"SPIKES": [True]}, "0..1"),
        ({"SPIKES": ["0.1"]}, "0..1"),
    ],
)
def test_bad_rates_are_refused_in_both_directions(change: Any, match: str, monkeypatch: Any) -> None:
    graph = golden_graphs.conv_lif()
    binary = next(k for k, n in rates.spike_edges(graph).items() if n.edge.kind.name == "binary")
    if isinstance(change, dict):
        change = {k.replace("SPIKES", binary): v for k, v in change.items()}
    with pytest.raises(PackError, match=match):
        dumps(graph, {"rates": change})
    monkeypatch.setattr(sys.modules["picojoule.deploy.write"], "check_rates", lambda *_: None)
    raw = dumps(graph, {"rates": change})
    with pytest.raises(FormatError, match=match):
        loads(raw)


@pytest.mark.parametrize("name", shipped())
def test_shipped_files_say_how_often_every_neuron_fires(name: str) -> None:
    model = load(name)
    graph, card = model.graph, model.card
    assert set(card["rates"]) == set(rates.spike_edges(graph)) - {node.inputs[0] for node in graph.outputs}
    assert all(0 < sum(row) < len(row) for row in card["rates"].values())
