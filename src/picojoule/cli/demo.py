"""`pj demo`: the whole road on real images in one command; what `make demo` runs."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import typer

# Data set -> settings of its runs: model, float epochs, fine-tuning epochs, data section, learning rate.
PLANS: dict[str, dict[str, Any]] = {
    "digits": {
        "models": ("sdt_v3_digits", "spiking_vgg_digits"),
        "epochs": 16,
        "tune": 8,
        "data": {"name": "digits", "batch": 64},
        "train": {"lr": 0.004, "warmup_epochs": 1, "loss": {"label_smoothing": 0.1}},
    },
    "fashion-mnist": {
        "models": ("sdt_v3_28", "spiking_vgg_28"),
        "epochs": 5,
        "tune": 3,
        "data": {"name": "fashion-mnist", "batch": 128, "augment": {"crop": 2, "flip": True}},
        "train": {"lr": 0.003, "warmup_epochs": 1, "ema": 0.998, "loss": {"label_smoothing": 0.05}},
    },
}
BITS = ("float", "w4", "w1")
WEIGHT_BITS = {"float": "32", "w4": "4", "w1": "1"}
COLUMNS = ("bits", "acc", "packed", "kB", "spikes", "synops", "nJ", "native/s", "torch/s", "parity")
MEASURED = 500  # test samples that spikes and operations are counted on


def register(app: typer.Typer) -> None:
    """Add the verb."""

    @app.command("demo")
    def demo(
        data: str = typer.Option("digits", "--data", help=f"One of: {', '.join(PLANS)}."),
        out: Path | None = typer.Option(None, "--out", "-o", help="Folder; default runs/demo-DATA."),
        threads: int = typer.Option(0, "--threads", min=0, help="Threads for training; 0 takes all cores."),
        quiet: bool = typer.Option(False, "--quiet", "-q", help="No progress."),
        as_json: bool = typer.Option(False, "--json", help="One JSON document for programs."),
    ) -> None:
        """Train, compress, measure, pack and run two small spiking networks on real images.

        Interrupted, the same command goes on where it stopped; a finished stage is not repeated.
        Examples: `pj demo`, `pj demo --data fashion-mnist`.
        """
        found = run_demo(data, out or Path("runs") / f"demo-{data}", threads, quiet or as_json)
        if as_json:
            typer.echo(json.dumps(found))
        else:
            show(found)


def run_demo(data: str, out: Path, threads: int = 0, quiet: bool = False) -> dict[str, Any]:
    """All stages; returns the rows of the table and where the files are.

    Raises:
        ConfigError: no plan for this data set.
        DataError: the data set is not on this machine; the message says how to get it.
    """
    from picojoule.core.errors import ConfigError, suggest
    from picojoule.core.tune import tune

    if data not in PLANS:
        raise ConfigError(f"the demo knows no data set {data!r}; {suggest(data, PLANS)}")
    tune(threads or None)
    started = time.monotonic()
    say = _Say(quiet)
    rows, reports = [], []
    for model in PLANS[data]["models"]:
        for bits in BITS:
            row, report = _stage(data, model, bits, out, say)
            rows.append(row)
            reports.append(report)
    html = _write_report(out, data, reports, rows)
    found = {"data": data, "rows": rows, "report": str(html), "seconds": time.monotonic() - started}
    (out / "demo.json").write_text(json.dumps(found, indent=2))
    return found


class _Say:
    """Headlines on stderr."""

    def __init__(self, quiet: bool) -> None:
        from rich.console import Console

        self.quiet, self.console = quiet, Console(stderr=True)

    def __call__(self, text: str) -> None:
        if not self.quiet:
            self.console.print(f"[bold cyan]{text}")


def recipe_of(data: str, model: str, bits: str, out: Path) -> Any:
    """The recipe of one run of the demo."""
    from picojoule.learn import make_recipe

    plan = PLANS[data]
    compressed = bits != "float"
    train = {**plan["train"], "epochs": plan["tune"] if compressed else plan["epochs"]}
    if compressed:
        train["lr"] = plan["train"]["lr"] / 2
    values: dict[str, Any] = {
        "name": f"{model}_{bits}",
        "model": {"name": model},
        "data": plan["data"],
        "train": train,
    }
    if compressed:
        values |= {"compress": bits, "start": str(out / f"{model}_float")}
    return make_recipe(values)


def _stage(data: str, model: str, bits: str, out: Path, say: _Say) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train (or resume), measure, pack and time one run; finished work is read back."""
    folder = out / f"{model}_{bits}"
    done = folder / "stage.json"
    if done.is_file():
        kept = json.loads(done.read_text())
        return kept["row"], kept["report"]
    from picojoule.learn import Trainer

    recipe = recipe_of(data, model, bits, out)
    if not (folder / "result.json").is_file():
        say(f"train {recipe.name}")
        Trainer(recipe, folder, resume=True, quiet=say.quiet).fit()
    say(f"measure, pack and run {recipe.name}")
    row, report = _finish(folder, model, bits, not say.quiet)
    done.write_text(json.dumps({"row": row, "report": report}))
    return row, report


def _finish(folder: Path, model: str, bits: str, progress: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    from picojoule.cli.road import open_run, pack_run, raw_inputs
    from picojoule.cli.timing import images_per_second
    from picojoule.deploy import payload_bytes
    from picojoule.measure import measure_model

    run = open_run(folder)
    part = run.task.data.part
    row: dict[str, Any] = {"model": model, "weights": bits, "bits": WEIGHT_BITS[bits]}
    if bits == "float":
        x, y = run.samples("test", MEASURED)
        report = measure_model(run.model, x, labels=y, name=run.recipe.name, dataset=part)
        row["accuracy"] = json.loads((folder / "result.json").read_text())["test_accuracy"]
        row["payload_bytes"] = 4 * sum(p.numel() for p in run.model.parameters())
        row["images_s_torch"] = images_per_second(run, None)[1]
    else:
        packed = pack_run(run, folder / f"{run.recipe.name}.pj", progress=progress)
        pixels, labels = raw_inputs(run)
        report = measure_model(
            packed.path, pixels[:MEASURED], labels=labels[:MEASURED], name=run.recipe.name, dataset=part
        )
        f = packed.figures
        row |= {
            "accuracy": f["accuracy_trained"],
            "accuracy_packed": f["accuracy_packed"],
            "parity": f["parity"],
        }
        row |= {
            "agreement": f["agreement"],
            "payload_bytes": payload_bytes(packed.graph),
            "file": str(packed.path),
        }
        row["images_s_native"], row["images_s_torch"] = images_per_second(run, packed)
    energy = report.headline()
    row |= {
        "spikes": report.spikes,
        "synops": report.sop_exact,
        "energy_nj": energy.nj,
        "energy_model": energy.model,
    }
    return row, report.to_dict()


def _write_report(out: Path, data: str, reports: list[dict[str, Any]], rows: list[dict[str, Any]]) -> Path:
    from picojoule.measure import Report, write_html

    path = out / "report.html"
    write_html(path, [Report.from_dict(r) for r in reports], title=f"picojoule demo on {data}", rows=rows)
    return path


def _short(value: float) -> str:
    """Three digits and a letter: 1234 -> 1.23k."""
    for limit, letter in ((1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g}{letter}"
    return f"{value:.0f}"


def _table(model: str, rows: list[dict[str, Any]]) -> Any:
    """The rows of one network; fits 80 columns."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=model, title_justify="left", box=SIMPLE_HEAD)
    table.pad_edge, table.collapse_padding = False, True
    for name in COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    for r in rows:
        packed = "accuracy_packed" in r
        table.add_row(
            r["bits"],
            f"{r['accuracy']:.2f}",
            f"{r['accuracy_packed']:.2f}" if packed else "-",
            f"{r['payload_bytes'] / 1000:.1f}",
            _short(r["spikes"]),
            _short(r["synops"]),
            f"{r['energy_nj']:,.0f}",
            _short(r["images_s_native"]) if packed else "-",
            _short(r["images_s_torch"]),
            ("exact" if r["parity"] else "BROKEN") if packed else "-",
        )
    return table


def show(found: dict[str, Any]) -> None:
    """The closing table."""
    from rich.console import Console

    console = Console()
    console.print(f"[bold]picojoule on {found['data']}, test split")
    for model in dict.fromkeys(r["model"] for r in found["rows"]):
        console.print(_table(model, [r for r in found["rows"] if r["model"] == model]))
    console.print(
        "bits: of a weight. acc, packed: accuracy in % of the trained model and of its file. kB: payload. "
        "spikes, synops (synaptic operations), nJ: per image, energy by the model "
        f"'{found['rows'][-1]['energy_model']}' (docs/measure.md says what it leaves out). native/s, "
        "torch/s: images a second on one thread. exact: the engine gave the reference interpreter's integers "
        "on every image."
    )
    console.print(f"report  {found['report']}")
    for r in found["rows"]:
        if "file" in r:
            console.print(f"packed  {r['file']}")
    console.print(f"{found['seconds']:.0f} s")
