"""Kernels measured on this machine: a table beside the packed file, `FILE.pj.tune.json`.

    {"format": "picojoule tune", "version": 1, "file_sha256", "machine": {"processor", "isa", "engine"},
     "nodes": {name: {"kernel", "boundary", "us": {kernel: microseconds}}}}

`deploy.load` applies a table of the same file, processor, instruction set and engine; any other is left alone
and a warning says why. The table only chooses among kernels that give the same integers.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from picojoule.core.errors import FormatError, PackError
from picojoule.deploy import format as container
from picojoule.deploy import timing
from picojoule.deploy.write import write_bytes
from picojoule.graph import nodes as g
from picojoule.graph.rates import plane_counts, planes_of

FORMAT, VERSION = "picojoule tune", 1
ROUNDS = 15
LOW, HIGH = 0.1, 0.45  # rates between which the cost of events is drawn as a line
PAIRS = (("event_bits", "static_bits"), ("event_rows", "dense_bytes"))  # the second's cost knows no rate
_KEYS = {"format", "version", "file_sha256", "machine", "nodes"}

Array = np.ndarray


def table_path(source: str | os.PathLike[str]) -> Path:
    """Where the table of a packed file lies."""
    path = Path(source)
    return path.with_name(path.name + ".tune.json")


def identity(isa: str) -> dict[str, str]:
    """The machine as tables know it.

    Args:
        isa: instruction set of the engine.
    """
    from picojoule.core.native import native

    return {"processor": timing.machine(), "isa": isa, "engine": native().__version__}


def tune(
    graph: g.Graph,
    inputs: dict[str, Array],
    *,
    rates: dict[str, Any] | None = None,
    isa: str = "auto",
    rounds: int = ROUNDS,
    tick: Callable[[str], None] = lambda node: None,
) -> dict[str, dict[str, Any]]:
    """The fastest kernel of every node that has several, with all times; other nodes as the planner has them.

    Args:
        graph: stage "snapped".
        inputs: one batch of samples as they will come, by input name.
        rates: of the card.
        isa: instruction set.
        rounds: calls of each kernel, taken in turn; the smallest time of every step counts.
        tick: called with the name of each node before it is measured.
    Returns:
        Node name -> kernel, us by kernel (of one sample through the whole net), and boundary: the share of
        set input bits from which the kernel whose cost knows no rate beats events (`PAIRS`).
    """
    from picojoule.deploy.engine import Engine

    plain = Engine(graph, isa=isa, rates=rates)
    if plain.info()["isa"] == "scalar":
        raise PackError("isa 'scalar' has one kernel a node; tune with 'auto' or another instruction set")
    found: dict[str, dict[str, Any]] = {}
    for node in graph.nodes:
        names = [name for name in plain.kernels(node.name) if name != "scalar"]
        if len(names) < 2:
            continue
        tick(node.name)
        engines: dict[str, Any] = {}
        for name in names:
            try:
                engines[name] = Engine(graph, isa=isa, rates=rates, kernels={node.name: name})
            except PackError:  # a neuron's kernel that the kernel of its synapse cannot feed
                continue
        times = _in_turn(engines, inputs, rounds)
        found[node.name] = {"kernel": min(times, key=times.__getitem__), "us": times}
        able = [pair for pair in PAIRS if set(pair) <= set(times)]
        for sparse, steady in sorted(able, key=lambda pair: found[node.name]["kernel"] not in pair)[:1]:
            found[node.name]["boundary"] = _boundary(graph, node, isa, rounds, sparse, steady)
    return found


def _in_turn(engines: dict[str, Any], inputs: dict[str, Array], rounds: int) -> dict[str, float]:
    """Microseconds a sample by kernel: smallest times of all steps, added up."""
    best: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, engine in engines.items():
            now = [row["us"] for row in timing.steps(engine, inputs, 1)]
            best[name] = [min(a, b) for a, b in zip(best.get(name, now), now)]
    return {name: round(sum(parts), 3) for name, parts in best.items()}


def _boundary(graph: g.Graph, node: g.Node, isa: str, rounds: int, sparse: str, steady: str) -> float:
    """Rate at which events by kernel `sparse` cost what `steady` costs, from a synapse (and neuron)."""
    from picojoule.deploy.engine import Engine

    edge = graph[node.inputs[0]].edge
    entry = g.Input(name="tune input", edge=edge)
    nodes: list[g.Node] = [entry, replace(node, inputs=(entry.name,))]
    readers = [n for n in graph.nodes if node.name in n.inputs]
    if len(readers) == 1 and isinstance(readers[0], g.Neuron):
        nodes.append(readers[0])
    nodes.append(
        g.Output(name="tune output", inputs=(nodes[-1].name,), edge=nodes[-1].edge, key="tune output")
    )
    alone = graph.replace(nodes=tuple(nodes))
    names = {n.name for n in nodes[1:-1]}

    def cost(kernel: str, rate: float) -> tuple[float, float]:
        """Share of set bits that was fed, and microseconds."""
        engine = Engine(alone, isa=isa, kernels={node.name: kernel})
        x = timing.synthetic(alone, 1, {"rates": {entry.name: [rate] * planes_of(edge.kind)}})
        values = x[entry.name]
        share = plane_counts(values, edge.kind).mean() / values.size
        found = [row for row in timing.steps(engine, x, rounds) if row["node"] in names]
        return float(share), sum(row["us"] for row in found if row["what"] != "unpack")

    (least, low), (most, high) = cost(sparse, LOW), cost(sparse, HIGH)
    fixed = cost(steady, LOW)[1]
    if high <= low or most <= least:
        return 1.0
    return round(float(np.clip(least + (fixed - low) / (high - low) * (most - least), 0.0, 1.0)), 4)


def write_table(source: str | os.PathLike[str], nodes: dict[str, dict[str, Any]], isa: str) -> Path:
    """Store a table beside a packed file, whole or not at all.

    Args:
        source: the packed file.
        nodes: what `tune` gave.
        isa: instruction set that was measured.
    Returns:
        Path of the table.
    """
    table = {
        "format": FORMAT,
        "version": VERSION,
        "file_sha256": _sha256(Path(source)),
        "machine": identity(isa),
        "nodes": nodes,
    }
    return write_bytes(table_path(source), json.dumps(table, indent=1).encode(), "the table")


def read_table(source: str | os.PathLike[str], isa: str) -> tuple[dict[str, dict[str, Any]] | None, str]:
    """The table beside a packed file when it belongs to it and to this machine, and a note about it.

    Args:
        source: the packed file.
        isa: instruction set of the engine that will use it.
    Returns:
        Rows by node name, or None; the note is empty when there is no table.
    """
    path = table_path(source)
    if not path.is_file():
        return None, ""
    try:
        table = _checked(path)
    except (FormatError, OSError) as wrong:
        return None, f"{path.name} is damaged and ignored ({wrong}); write it anew with `pj bench --tune`"
    here = identity(isa)
    if table["machine"] != here:
        differs = ", ".join(f"{k} {table['machine'].get(k)!r}, here {here[k]!r}" for k in here
                            if table["machine"].get(k) != here[k])  # fmt: skip
        return (
            None,
            f"{path.name} is of another machine and ignored ({differs}); measure with `pj bench --tune`",
        )
    if table["file_sha256"] != _sha256(Path(source)):
        return None, f"{path.name} belongs to another file and is ignored; measure with `pj bench --tune`"
    return table["nodes"], f"kernels from {path.name}"


def _checked(path: Path) -> dict[str, Any]:
    if path.stat().st_size > container.MAX_JSON:
        raise FormatError(f"more than {container.MAX_JSON} bytes")
    table = container.parse_json(path.read_bytes(), "table")
    if type(table) is not dict or set(table) != _KEYS:
        raise FormatError(f"field 'table': needs exactly {', '.join(sorted(_KEYS))}")
    if table["format"] != FORMAT or table["version"] != VERSION:
        raise FormatError(f"field 'version': this reader knows {FORMAT!r} {VERSION}")
    if type(table["machine"]) is not dict or type(table["nodes"]) is not dict:
        raise FormatError("fields 'machine' and 'nodes': must be objects")
    for name, row in table["nodes"].items():
        if type(row) is not dict or not {"kernel"} <= set(row) <= {"kernel", "boundary", "us"}:
            raise FormatError(f"field 'nodes.{name}': needs kernel, and may have boundary and us")
        boundary = row.get("boundary", 0)
        if type(row["kernel"]) is not str or type(boundary) not in (int, float) or not 0 <= boundary <= 1:
            raise FormatError(f"field 'nodes.{name}': kernel is a name, boundary a number in 0..1")
    return table


def _sha256(path: Path) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


__all__ = ["identity", "read_table", "table_path", "tune", "write_table"]
