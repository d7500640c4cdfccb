"""`pj pack RUN`: snap a trained run onto integer grids and write its `.pj` file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer


def register(app: typer.Typer) -> None:
    """Add the verb."""

    @app.command("pack")
    def pack(
        run: Path = typer.Argument(help="Folder of a finished run."),
        out: Path | None = typer.Option(None, "--out", "-o", help="The file; default RUN/NAME.pj."),
        grid: str = typer.Option(
            "search", "--grid", help="Fraction bits 0..32, or 'search' for the smallest that pass."
        ),
        quiet: bool = typer.Option(False, "--quiet", "-q", help="No progress."),
        as_json: bool = typer.Option(False, "--json", help="One JSON document for programs."),
    ) -> None:
        """Pack a trained run into a file that runs on any CPU, and check it on the test split.

        Examples: `pj pack runs/digits_vgg_w1`, `pj pack runs/digits_vgg_w1 --grid 8 -o digits.pj --json`.
        """
        from picojoule.core.errors import ConfigError

        if grid != "search" and not grid.isdigit():
            raise ConfigError(f"--grid is a number of fraction bits or 'search', got {grid!r}")
        packed = packed_run(run, out, grid if grid == "search" else int(grid), not (quiet or as_json))
        if as_json:
            typer.echo(
                json.dumps({"file": str(packed.path), "bytes": packed.path.stat().st_size, **packed.figures})
            )
        else:
            show(packed)


def packed_run(run: Path, out: Path | None, grid: str | int, progress: bool) -> Any:
    """Open, pack and check a run."""
    from picojoule.cli.road import open_run, pack_run

    opened = open_run(run)
    return pack_run(opened, out or run / f"{opened.recipe.name}.pj", grid, progress)


def show(packed: Any) -> None:
    """The figures as a table for people."""
    from rich.console import Console
    from rich.table import Table

    from picojoule.deploy import payload_bytes

    f = packed.figures
    table = Table(title=str(packed.path), title_justify="left")
    table.add_column("")
    table.add_column("", justify="right")
    table.add_row("file", f"{packed.path.stat().st_size:,} bytes")
    table.add_row("payload", f"{payload_bytes(packed.graph):,} bytes")
    table.add_row("accuracy, trained", f"{f['accuracy_trained']:.2f} % of {f['samples']}")
    table.add_row("accuracy, packed", f"{f['accuracy_packed']:.2f} %")
    table.add_row("same answer", f"{f['agreement']:.2f} %")
    table.add_row("engine == reference", "every integer" if f["parity"] else "NO: please report this")
    Console().print(table)
