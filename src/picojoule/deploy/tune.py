"""Kernels measured on this machine: a table beside the packed file, `FILE.pj.tune.json`.

    {"format": "picojoule tune", "version": 1, "file_sha256", "machine": {"processor", "isa", "engine"},
     "nodes": {name: {"kernel", "boundary", "us": {kernel: microseconds}}}}

`deploy.load` applies a table of the same file, processor, instruction set and engine; any other is left alone
and a warning says why. The table only chooses among kernels that give the same integers.
"""

from __future__ import annotations

import json
import os
import time
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
ROUNDS, CALLS = 25, 101
MARGIN = 0.03  # of the time of a step; less is noise
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
    """The kernel of every node that has several: the planner's own, or another that wins by more than noise.

    Node after node, every other kernel takes turns with the plan found so far. Of both, only those steps
    count that differ or lie beside the node. Another kernel is kept when the median over the rounds of its
    time by that of the plan is below 1 - `MARGIN`, and it wins in three of four rounds.

    Args:
        graph: stage "snapped".
        inputs: one batch of samples as they will come, by input name.
        rates: of the card.
        isa: instruction set.
        rounds: calls of each kernel, taken in turn.
        tick: called with the name of each node before it is measured.
    Returns:
        Node name -> kernel, us by kernel (least time of one sample in the steps that count), and boundary:
        the share of set input bits from which the kernel whose cost knows no rate beats events (`PAIRS`).
    """
    from picojoule.deploy.engine import Engine

    plain = Engine(graph, isa=isa, rates=rates)
    if plain.info()["isa"] == "scalar":
        raise PackError("isa 'scalar' has one kernel a node; tune with 'auto' or another instruction set")
    found: dict[str, dict[str, Any]] = {}
    better: dict[str, dict[str, Any]] = {}
    for node in graph.nodes:
        names = [name for name in plain.kernels(node.name) if name != "scalar"]
        if len(names) < 2:
            continue
        tick(node.name)
        so_far = Engine(graph, isa=isa, rates=rates, tuned=better)
        (own,) = (row for row in so_far.info()["nodes"] if row["name"] == node.name)
        planned = own["kernel"].split("+")[-1]
        engines: dict[str, Any] = {planned: so_far}
        for name in names:
            try:
                engines.setdefault(
                    name, Engine(graph, isa=isa, rates=rates, tuned=better, kernels={node.name: name})
                )
            except PackError:  # a neuron's kernel that the kernel of its synapse cannot feed
                continue
        row = found[node.name] = _in_turn(graph, node, engines, inputs, rounds)
        if row["kernel"] == planned:
            if own["boundary"] is not None:
                row["boundary"] = own["boundary"]
            continue
        better[node.name] = row
        for sparse, steady in PAIRS:
            if row["kernel"] in (sparse, steady) and {sparse, steady} <= set(row["us"]):
                met = _boundary(graph, node, isa, rounds, sparse, steady)
                row["boundary"] = _beyond(met, rates, node, row["kernel"] == steady)
    return found


def _in_turn(
    graph: g.Graph, node: g.Node, engines: dict[str, Any], inputs: dict[str, Array], rounds: int
) -> dict[str, Any]:
    """The kernel to take and the least times of all; the first engine is the plan so far."""
    labels = {
        name: {(row["node"], row["what"]) for row in timing.steps(engine, inputs, 1)}
        for name, engine in engines.items()
    }
    common = set.intersection(*labels.values())
    beside = {node.name, *node.inputs, *(n.name for n in graph.nodes if node.name in n.inputs)}
    times: dict[str, list[float]] = {name: [] for name in engines}
    for turn in range(rounds):
        for name in sorted(engines, reverse=turn % 2 == 1):
            rows = timing.steps(engines[name], inputs, 1)
            counts = [r for r in rows if r["node"] in beside or (r["node"], r["what"]) not in common]
            times[name].append(sum(r["us"] for r in counts))
    planned, *others = engines
    best, kept = 1.0 - MARGIN, planned
    for name in others:
        ratios = np.array(times[name]) / np.maximum(times[planned], 1e-9)
        if np.median(ratios) < best and np.quantile(ratios, 0.75) < 1:
            best, kept = float(np.median(ratios)), name
    return {"kernel": kept, "us": {name: round(min(some), 3) for name, some in times.items()}}


def _beyond(met: float, rates: dict[str, Any] | None, node: g.Node, steady: bool) -> float:
    """The boundary, a factor of two from the usual rate on the side where the samples themselves had it."""
    known = (rates or {}).get(node.inputs[0])
    if not known:
        return met
    usual = float(np.mean(known))
    return round(min(met, usual / 2) if steady else max(met, min(1.0, 2 * usual)), 4)


def gain(
    graph: g.Graph,
    inputs: dict[str, Array],
    nodes: dict[str, dict[str, Any]],
    *,
    rates: dict[str, Any] | None = None,
    isa: str = "auto",
    rounds: int = CALLS,
) -> float:
    """Time of a call with a table by the time without, the median over pairs of calls; above 1 it is slower.

    Args:
        graph: stage "snapped".
        inputs: one batch of samples.
        nodes: what `tune` gave.
        rates: of the card.
        isa: instruction set.
        rounds: pairs of calls.
    """
    from picojoule.deploy.engine import Engine

    plain, tuned = Engine(graph, isa=isa, rates=rates), Engine(graph, isa=isa, rates=rates, tuned=nodes)
    ratios = []
    for turn in range(rounds + 1):
        pair = {}
        for engine in (plain, tuned) if turn % 2 else (tuned, plain):
            start = time.perf_counter()
            engine(inputs)
            pair[engine] = time.perf_counter() - start
        ratios.append(pair[tuned] / pair[plain])
    return float(np.median(ratios[1:]))


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


def keep_table(
    source: str | os.PathLike[str], nodes: dict[str, dict[str, Any]], isa: str, ratio: float
) -> Path | None:
    """Store a table that does not slow the file down; else take away one that lies there.

    Args:
        source: the packed file.
        nodes: what `tune` gave.
        isa: instruction set that was measured.
        ratio: what `gain` gave.
    Returns:
        Path of the table, or None when there is none now.
    """
    if ratio <= 1:
        return write_table(source, nodes, isa)
    table_path(source).unlink(missing_ok=True)
    return None


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
    import hashlib  # loads OpenSSL, 3.5 MiB that a file without a table does not need

    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


__all__ = ["gain", "identity", "keep_table", "read_table", "table_path", "tune", "write_table"]
