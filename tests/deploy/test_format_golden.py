"""The packed format is pinned: golden files must read, write and run the same forever."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import golden_graphs
from random_graphs import random_graph

from picojoule.deploy import dumps, loads, payload_bytes, read
from picojoule.deploy.engine import Engine
from picojoule.deploy.format import split
from picojoule.deploy.schema import write_node
from picojoule.graph import nodes as g

NAMES = sorted(golden_graphs.GRAPHS)


def same(a: g.Graph, b: g.Graph) -> None:
    """Both graphs have equal nodes and equal constants where a node reads them."""
    assert [write_node(node) for node in a.nodes] == [write_node(node) for node in b.nodes]
    for node, other in zip(a.nodes, b.nodes):
        for field, name in g.tensor_fields(node).items():
            x, y = np.asarray(a.tensors[name]), b.tensors[name]
            assert x.shape == y.shape, (node.name, field)
            np.testing.assert_array_equal(x, y)
            assert (y.dtype.kind in "fb" or x.dtype.kind in "fb") <= (y.dtype.kind == x.dtype.kind)
        if isinstance(node, g.Scan):
            same(node.body, other.body)


@pytest.mark.parametrize("name", NAMES)
def test_bytes_are_canonical(name: str) -> None:
    raw = (golden_graphs.GOLDEN / f"{name}.pj").read_bytes()
    assert dumps(golden_graphs.GRAPHS[name](), golden_graphs.CARD) == raw
    assert dumps(*loads(raw)) == raw


@pytest.mark.parametrize("name", NAMES)
def test_reads_back_and_runs(name: str) -> None:
    graph, card = read(golden_graphs.GOLDEN / f"{name}.pj")
    assert card == golden_graphs.CARD
    same(golden_graphs.GRAPHS[name](), graph)
    expected = json.loads((golden_graphs.GOLDEN / f"{name}.json").read_text())
    found = Engine(graph)(golden_graphs.inputs(graph, 2))
    assert {key: value.tolist() for key, value in found.items()} == expected


@pytest.mark.parametrize("name", NAMES)
def test_reference_gives_the_golden_outputs(name: str) -> None:
    reference = pytest.importorskip("picojoule.graph.reference")
    graph, _ = read(golden_graphs.GOLDEN / f"{name}.pj")
    expected = json.loads((golden_graphs.GOLDEN / f"{name}.json").read_text())
    found = reference.run(graph, golden_graphs.inputs(graph, 2))
    assert {key: value.tolist() for key, value in found.items()} == expected


@pytest.mark.parametrize("name", NAMES)
def test_safetensors_opens_it(name: str) -> None:
    """Ordinary tools can look inside."""
    load = pytest.importorskip("safetensors.numpy").load
    raw = (golden_graphs.GOLDEN / f"{name}.pj").read_bytes()
    theirs, ours = load(raw), split(raw)
    assert set(theirs) == set(ours)
    for key, value in ours.items():
        np.testing.assert_array_equal(theirs[key], value)


@pytest.mark.parametrize("name", NAMES)
def test_payload_is_what_the_file_holds(name: str) -> None:
    raw = (golden_graphs.GOLDEN / f"{name}.pj").read_bytes()
    held = sum(v.nbytes for k, v in split(raw).items() if k.startswith("const."))
    assert payload_bytes(loads(raw)[0]) == held


def test_random_graphs_round_trip() -> None:
    for seed in range(60):
        graph = random_graph(seed)
        raw = dumps(graph, {"seed": seed})
        back, card = loads(raw)
        assert card == {"seed": seed}
        same(graph, back)
        assert dumps(back, card) == raw


def test_no_machine_path_leaves_with_the_file() -> None:
    graph = golden_graphs.conv_lif()
    node = graph.nodes[1]
    moved = g.Conv(
        **{f: getattr(node, f) for f in node.__dataclass_fields__} | {"source": "/home/me/net.py:3"}
    )
    graph = graph.replace(nodes=(graph.nodes[0], moved, *graph.nodes[2:]))
    raw = dumps(graph)
    assert b"/home/me" not in raw
    assert loads(raw)[0].nodes[1].source == ""
