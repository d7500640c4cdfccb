"""`pj inspect FILE`: what a packed file holds, node by node."""

from __future__ import annotations

import json
from typing import Any

import typer


def register(app: typer.Typer) -> None:
    """Add the verb."""

    @app.command("inspect")
    def inspect(
        file: str = typer.Argument(help="A .pj file or the name of a shipped model."),
        as_json: bool = typer.Option(False, "--json", help="One JSON document for programs."),
    ) -> None:
        """Show the nodes, the sizes and the card of a packed file.

        Examples: `pj inspect digits.pj`, `pj inspect digits.pj --json`.
        """
        found = report(file)
        if as_json:
            typer.echo(json.dumps(found))
        else:
            show(found)


def report(source: str) -> dict[str, Any]:
    """Nodes with kind, rows, bits, bytes, bounds and kernel; sizes; the card."""
    from picojoule.deploy.constants import stored
    from picojoule.deploy.model import load
    from picojoule.graph import nodes as n
    from picojoule.graph.check import analyse

    model = load(source)
    info = model.info()
    constants = stored(model.graph)
    bounds = analyse(model.graph)
    engine = {row["name"]: row for row in info["engine"].get("nodes", [])}
    rows = []
    for node, row in zip(model.graph.nodes, n.describe(model.graph)):
        names = list(n.tensor_fields(node).values()) + [k for k in constants if k.startswith(f"{node.name}/")]
        weight = constants.get(getattr(node, "weight", ""))
        rows.append(
            row
            | {
                "bits": weight.bits if weight else None,
                "bytes": sum(constants[name].bytes for name in names if name in constants),
                "low": bounds.edges[node.name][0],
                "high": bounds.edges[node.name][1],
                "kernel": engine.get(node.name, {}).get("kernel"),
                "kernel_bytes": engine.get(node.name, {}).get("bytes"),
                "rate": _rate(info["card"], node.name),
                "rate_in": engine.get(node.name, {}).get("rate"),
                "other_kernel": engine.get(node.name, {}).get("other") or None,
                "boundary": engine.get(node.name, {}).get("boundary"),
                "why": engine.get(node.name, {}).get("why") or None,
            }
        )
    info["nodes"] = rows
    info["file_bytes"] = _size(info["source"])
    return info


def _rate(card: dict[str, Any], name: str) -> float | None:
    """Share of set bits that packing measured on a spike edge, over its bit-planes."""
    row = card.get("rates", {}).get(name)
    return sum(row) / len(row) if row else None


def _reason(row: dict[str, Any]) -> str:
    """Why a kernel was chosen, and where a sample takes another."""
    if row["boundary"] is None:
        return row["why"] or ""
    beyond = "above" if row["other_kernel"] in ("static_bits", "dense_bytes") else "below"
    return f"{row['why']}; {row['other_kernel']} {beyond} {100 * row['boundary']:.0f} %"


def _size(path: str) -> int:
    from pathlib import Path

    return Path(path).stat().st_size


WIDE = 130  # columns of a terminal that shows every column of the table


def show(found: dict[str, Any]) -> None:
    """Tables for people; narrow terminals leave out what a node reads, its integers and why."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    out = Console()
    columns = ["node", "name", "kind", "rows", "T", "w bits", "bytes", "fires", "kernel"]
    if out.width >= WIDE:
        columns[2:2] = ["reads"]
        columns[-2:-2] = ["integers"]
        columns.append("why")
    table = Table(title=escape(found["source"]), title_justify="left", box=None, header_style="bold")
    for name in columns:
        right = name in ("T", "w bits", "bytes", "fires")
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    for row in found["nodes"]:
        cells = {
            "node": row["type"],
            "name": row["name"],
            "reads": ", ".join(row["inputs"]),
            "kind": row["kind"].replace(" ", ""),
            "rows": "x".join(map(str, row["shape"])) or "1",
            "T": row["steps"] or "-",
            "w bits": row["bits"] or "",
            "bytes": row["bytes"] or "",
            "integers": f"{row['low']}..{row['high']}",
            "fires": "" if row["rate"] is None else f"{100 * row['rate']:.1f} %",
            "kernel": row["kernel"] or "",
            "why": _reason(row),
        }
        table.add_row(*(escape(str(cells[name])) for name in columns))
    out.print(table)
    paper = found["paper_bytes"]
    out.print(
        f"file {found['file_bytes']} B, payload_bytes {found['payload_bytes']}: sum of ceil(numel * bits / 8)"
    )
    out.print(f"paper_bytes {paper if paper is not None else 'not stated in the card'}")
    engine = found["engine"]
    out.print(
        f"engine: {engine.get('isa')}, working memory of one sample {engine.get('arena_bytes')} B, "
        f"state {engine.get('state_bytes')} B"
    )
    if found["tune"]:
        out.print(escape(found["tune"]))
    if found["card"]:
        card = Table(title="card", title_justify="left", show_header=False)
        for key, value in _flat(found["card"]):
            card.add_row(escape(key), escape(value if isinstance(value, str) else json.dumps(value)))
        out.print(card)


def _flat(card: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Entries of a card with the keys of inner objects joined by dots."""
    rows: list[tuple[str, Any]] = []
    for key, value in card.items():
        rows += (
            _flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else [(prefix + key, value)]
        )
    return rows
