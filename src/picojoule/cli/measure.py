"""`pj measure RUN_OR_FILE...`: what one inference costs; `pj compare RUN...`: many of them side by side."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import typer

TARGETS = typer.Argument(help="Run folders of pj train, .pj files, shipped names, or reports (.json).")
JSON = typer.Option(False, "--json", help="One JSON document for programs.")
CSV = typer.Option(None, "--csv", help="Write the table as CSV to this file.")
LATEX = typer.Option(None, "--latex", help="Write the table as LaTeX (booktabs) to this file.")
DATA = typer.Option(None, "--data", help="Data set for .pj files, e.g. digits; runs know theirs.")
PLOT = typer.Option(None, "--plot", help="Fronts: .png, .svg, .pdf or interactive .html.")
SAMPLES = typer.Option(1000, "--samples", "-n", min=1, help="Images of the test split.")

TERMINAL = (
    "network", "accuracy", "T", "w bits", "bytes", "SOP exact", "ops deployed", "total, stationary",
    "ANN int8 total",
)  # fmt: skip  # what fits 80 columns; --csv, --html and --json have all


def register(app: typer.Typer) -> None:
    """Add the verbs."""

    @app.command("measure")
    def measure(
        targets: list[str] = TARGETS,
        data: str | None = DATA,
        samples: int = SAMPLES,
        energy: list[str] = typer.Option([], "--energy", help="Further energy model: preset or chip.yaml."),
        every_step: bool = typer.Option(False, "--every-step", help="Count the first layer T times."),
        cost: bool = typer.Option(
            False, "--cost", help="Also time the native engine; for a run folder PyTorch, too."
        ),
        threads: int = typer.Option(1, "--threads", min=1, help="Threads of --cost."),
        html: Path | None = typer.Option(None, "--html", help="Write a self-contained report to this file."),
        save: Path | None = typer.Option(None, "--save", help="Folder for one JSON report a target."),
        plot: Path | None = PLOT,
        csv: Path | None = CSV,
        latex: Path | None = LATEX,
        as_json: bool = JSON,
    ) -> None:
        """Count operations on real images, price them by formula, and report.

        Examples: `pj measure runs/digits_vgg --html report.html`, `pj measure net.pj --data digits --json`,
        `pj measure runs/a runs/b --csv table.csv`, `pj measure net.pj --data digits --energy chip.yaml`.
        """
        options: dict[str, Any] = {
            "energy_models": energy,
            "first_layer": "every step" if every_step else "cached",
        }
        timing = threads if cost else None
        quiet = as_json or not sys.stderr.isatty()
        reports = [report_of(t, data, samples, options, timing, progress=not quiet) for t in targets]
        if save is not None:
            save.mkdir(parents=True, exist_ok=True)
            for target, report in zip(targets, reports):
                report.save(save / f"{Path(target).stem}.json")
        finish(reports, html, csv, latex, plot, as_json)
        if not as_json:
            for report in reports:
                report.show()
            if len(reports) > 1:
                show(reports)

    @app.command("compare")
    def compare(
        targets: list[str] = TARGETS,
        data: str | None = DATA,
        samples: int = SAMPLES,
        plot: Path | None = PLOT,
        html: Path | None = typer.Option(None, "--html", help="Write a self-contained report to this file."),
        csv: Path | None = CSV,
        latex: Path | None = LATEX,
        as_json: bool = JSON,
    ) -> None:
        """One table of many networks, and accuracy against energy and bytes.

        Examples: `pj compare runs/*`, `pj compare a.json b.json --plot fronts.svg --latex table.tex`.
        """
        quiet = as_json or not sys.stderr.isatty()
        reports = [report_of(t, data, samples, {}, None, progress=not quiet) for t in targets]
        finish(reports, html, csv, latex, plot, as_json)
        if not as_json:
            show(reports)


def report_of(
    target: str,
    data: str | None,
    samples: int,
    options: dict[str, Any],
    threads: int | None,
    *,
    progress: bool,
) -> Any:
    """Report of a run folder, a packed file, or one that was saved.

    Raises:
        ConfigError: neither of these, or a packed file without a data set.
    """
    from picojoule.measure import Report

    path = Path(target)
    if path.suffix == ".json":
        return Report.load(path)
    return (
        _of_run(path, samples, options, threads, progress)
        if path.is_dir()
        else _of_file(target, data, samples, options, threads, progress)
    )


def _of_run(path: Path, samples: int, options: dict[str, Any], threads: int | None, progress: bool) -> Any:
    from picojoule.cli.road import open_run, raw_inputs
    from picojoule.deploy import load
    from picojoule.measure import measure_cost, measure_model
    from picojoule.measure.cost import node_times, predicted_and_measured

    run = open_run(path)
    x, y = run.samples("test", samples)
    name = run.recipe.name
    dataset = f"{run.recipe.data.name}, test split"
    report = measure_model(run.model, x, labels=y, name=name, dataset=dataset, progress=progress, **options)
    if threads is not None:
        found = sorted(path.glob("*.pj"))
        packed = load(found[0]) if found else None
        raw = raw_inputs(run)[0][:1] if packed is not None else None
        measure_cost(packed, raw, run.model, x[:1], threads=threads).into(report)
        if packed is not None and raw is not None:
            report.node_times = predicted_and_measured(report, node_times(packed, raw))
    return report


def _of_file(
    target: str, data: str | None, samples: int, options: dict[str, Any], threads: int | None, progress: bool
) -> Any:
    from picojoule.core.errors import ConfigError
    from picojoule.deploy import load
    from picojoule.measure import measure_cost, measure_model
    from picojoule.measure.cost import node_times, predicted_and_measured

    model = load(target)
    wanted = data or data_of(model.card)
    if wanted is None:
        raise ConfigError(f"{target}: its card names no data set; say which, e.g. --data digits")
    x, y = file_inputs(model, wanted, samples)
    report = measure_model(model, x, labels=y, dataset=f"{wanted}, test split", progress=progress, **options)
    if threads is not None:
        measure_cost(model, x[:1], None, None, threads=threads).into(report)
        report.node_times = predicted_and_measured(report, node_times(model, x[:1]))
    return report


def data_of(card: dict[str, Any]) -> str | None:
    """Name of the data set that a card states."""
    recipe = card.get("recipe")
    found = card.get("data") or (recipe.get("data") if isinstance(recipe, dict) else None)
    return found.get("name") if isinstance(found, dict) else found


def file_inputs(model: Any, data: str, samples: int) -> tuple[Any, Any]:
    """Test images as the packed file takes them: bytes, or floats normalised as the training data was.

    Raises:
        ShapeError: the data's samples do not have the shape of the file's input.
    """
    import numpy as np
    import torch

    from picojoule import data as datasets
    from picojoule.core.errors import ShapeError
    from picojoule.data import augment

    held = datasets.load(data)
    if not hasattr(held.test, "x"):
        raise ShapeError(
            f"data set {data!r} holds recordings; measure the run folder instead of the packed file"
        )
    node = model.graph.inputs[0]
    x, y = np.asarray(held.test.x[:samples]), np.asarray(held.test.y[:samples])
    wanted = ((node.edge.steps,) if node.edge.steps else ()) + node.edge.shape
    if x.shape[1:] != wanted:
        raise ShapeError(f"{data!r} has samples {list(x.shape[1:])}, the packed file takes {list(wanted)}")
    if node.table is not None:
        return np.floor(x.astype(np.float64) * 255 / held.max_value + 0.5).astype(np.uint8), y
    plain = augment.standard(held)
    return plain(torch.from_numpy(x.copy()), torch.zeros(len(x), dtype=torch.long), torch.Generator())[0], y


def finish(
    reports: list[Any],
    html: Path | None,
    csv: Path | None,
    latex: Path | None,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Files and JSON that both verbs write."""
    from picojoule.measure import compare, write_html
    from picojoule.measure.compared import to_csv, to_latex, write_fronts

    rows = compare(reports)
    if html is not None:
        write_html(html, reports)
    if csv is not None:
        csv.write_text(to_csv(rows))
    if latex is not None:
        latex.write_text(to_latex(rows))
    if plot is not None:
        write_fronts(plot, rows)
    if as_json:
        typer.echo(json.dumps([r.to_dict() for r in reports]))


def show(reports: list[Any]) -> None:
    """The common table for people."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from picojoule.measure.html import COLUMN_MODELS, comparison_rows

    columns, rows = comparison_rows(reports)
    kept = [i for i, column in enumerate(columns) if column in TERMINAL]
    table = Table(
        title="per inference; energies by formula",
        title_justify="left",
        caption=COLUMN_MODELS,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for i in kept:
        table.add_column(columns[i], justify="right" if i else "left", no_wrap=i < 2, overflow="fold")
    for row in rows:
        table.add_row(*(escape(row[i]) for i in kept))
    Console().print(table)
