"""`pj bench FILE`: how fast a packed model is here; `--tune` measures every kernel and keeps the table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer

ROUNDS = 15  # of the node table


def register(app: typer.Typer) -> None:
    """Add the verb."""

    @app.command("bench")
    def bench(
        file: str = typer.Argument(help="A .pj file or the name of a shipped model."),
        threads: int = typer.Option(1, "--threads", min=1, help="Most threads of a call."),
        batch: int = typer.Option(1, "--batch", min=1, help="Samples of a call."),
        mode: str = typer.Option("auto", "--mode", help="auto, throughput or latency."),
        isa: str = typer.Option("auto", "--isa", help="Instruction set; `pj doctor` lists those here."),
        seconds: float = typer.Option(2.0, "--seconds", min=0.0, help="How long to time calls."),
        data: str = typer.Option(
            "", "--data", help="A .npy array of samples; noise at the file's rates else."
        ),
        tune: bool = typer.Option(False, "--tune", help="Measure all kernels, store FILE.tune.json."),
        use_table: bool = typer.Option(True, "--table/--no-table", help="Use a stored table."),
        as_json: bool = typer.Option(False, "--json", help="One JSON document for programs."),
    ) -> None:
        """Time a packed model on this machine, call by call and node by node.

        Examples: `pj bench digits.pj --threads 2 --batch 64`, `pj bench digits.pj --tune`.
        """
        tuned = store(file, data, isa, quiet=as_json) if tune else None
        found = report(
            file,
            threads=threads,
            batch=batch,
            mode=mode,
            isa=isa,
            seconds=seconds,
            data=data,
            table=use_table,
        )
        if tuned is not None:
            found["tuned"] = tuned
        if as_json:
            typer.echo(json.dumps(found))
        else:
            show(found)


def _inputs(model: Any, data: str, batch: int) -> tuple[dict[str, Any], str]:
    """One batch, and what it is: samples of an array in turn, or noise."""
    import numpy as np

    from picojoule.cli.run import read_input
    from picojoule.deploy.model import validate
    from picojoule.deploy.timing import synthetic

    if not data:
        return synthetic(model.graph, batch, model.card), "noise"
    samples = read_input(model, Path(data))
    samples = samples[np.arange(batch) % len(samples)]
    return validate(model.graph, samples), data


def store(file: str, data: str, isa: str, *, quiet: bool) -> dict[str, Any]:
    """Measure the kernels of every node and keep the table beside the file when the whole is no slower."""
    from rich.console import Console
    from rich.markup import escape

    from picojoule.deploy.model import load
    from picojoule.deploy.tune import gain, keep_table, tune

    model = load(file, isa=isa, tuned=False)
    x, _ = _inputs(model, data, 4)
    rates = model.card.get("rates")
    console = Console(stderr=True, quiet=quiet)
    with console.status("measuring kernels") as status:
        nodes = tune(
            model.graph, x, rates=rates, isa=isa,
            tick=lambda node: status.update(f"measuring the kernels of {escape(node)}"),
        )  # fmt: skip
        ratio = gain(model.graph, x, nodes, rates=rates, isa=isa)
    path = keep_table(model.source, nodes, model.engine.info()["isa"], ratio)
    console.print(
        f"a call takes {ratio:.3f} of its time without the table; "
        + (f"stored {escape(path.name)}" if path else "no table is stored, the planner's kernels stay")
    )
    return {"ratio": ratio, "stored": path is not None}


def report(
    file: str, *, threads: int, batch: int, mode: str, isa: str, seconds: float, data: str, table: bool
) -> dict[str, Any]:
    """Latency, throughput and the times of every step."""
    from picojoule.deploy import timing
    from picojoule.deploy.model import load

    model = load(file, threads=threads, mode=mode, isa=isa, tuned=table)
    x, what = _inputs(model, data, batch)
    calls = timing.calls(model.engine, x, seconds)
    info = model.engine.info()
    return {
        "source": model.source,
        "machine": timing.machine(),
        "isa": info["isa"],
        "threads": threads,
        "mode": mode,
        "batch": batch,
        "data": what,
        "table": model.tune_note,
        "latency": calls,
        "samples_per_second": batch / calls["median_ms"] * 1e3,
        "arena_bytes": info["arena_bytes"],
        "steps": timing.steps(model.engine, x, ROUNDS),
    }


def show(found: dict[str, Any]) -> None:
    """Tables for people."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    out = Console()
    latency = found["latency"]
    out.print(
        f"{escape(found['source'])}: {found['isa']}, {found['threads']} threads, batch {found['batch']}, "
        f"data: {escape(found['data'])}"
    )
    out.print(
        f"a call takes {latency['median_ms']:.3f} ms (median; p95 {latency['p95_ms']:.3f}, least "
        f"{latency['min_ms']:.3f}, of {latency['calls']}): {found['samples_per_second']:.0f} samples/s"
    )
    if found["table"]:
        out.print(escape(found["table"]))
    table = Table(title="one sample on one thread", title_justify="left", box=None, header_style="bold")
    for name in ("node", "what ran", "us", "share", "other kernel"):
        table.add_column(name, justify="left" if name in ("node", "what ran") else "right")
    for row in found["steps"]:
        other = f"{row['switched']} of {found['batch']}" if row["switched"] else ""
        table.add_row(
            escape(row["node"]), escape(row["what"]), f"{row['us']:.1f}", f"{100 * row['share']:.1f} %", other
        )
    out.print(table)
