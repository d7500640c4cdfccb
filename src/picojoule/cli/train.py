"""`pj train RECIPE`: train from a recipe, resumable bit for bit; `pj compress`: tune a run under a plan."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer

RECIPE = typer.Argument(help="A shipped recipe's name (pj list recipes) or a YAML file.")
SETTINGS = typer.Argument(None, help="Overrides such as train.epochs=3 model.T=2.")
FOLDER = typer.Option(None, "--out", "-o", help="Run folder; default runs/NAME.")
RESUME = typer.Option(False, "--resume", help="Go on from the folder's last checkpoint, bit for bit.")
QUIET = typer.Option(False, "--quiet", "-q", help="No progress.")
JSON = typer.Option(False, "--json", help="One JSON document for programs.")


def register(app: typer.Typer) -> None:
    """Add the verbs."""

    @app.command("train")
    def train(
        recipe: str = RECIPE,
        settings: list[str] = SETTINGS,
        out: Path | None = FOLDER,
        resume: bool = RESUME,
        anomaly: bool = typer.Option(
            False, "--detect-anomaly", help="Name the layer in which NaN or infinity is born; slow."
        ),
        estimate: bool = typer.Option(
            False, "--estimate", help="Only tell peak memory and time per epoch, from a few real steps."
        ),
        quiet: bool = QUIET,
        as_json: bool = JSON,
    ) -> None:
        """Train a network from a recipe.

        Examples: `pj train digits_vgg`, `pj train fashion_vgg train.epochs=3 --out runs/short`,
        `pj train digits_vgg --resume`, `pj train digits_vgg --estimate`.
        """
        from picojoule.learn import load_recipe

        given = [*(settings or []), *(["train.detect_anomaly=true"] if anomaly else [])]
        if estimate:
            _estimate(load_recipe(recipe, given), as_json)
            return
        _run(load_recipe(recipe, given), out, resume, quiet or as_json, as_json)

    @app.command("compress")
    def compress(
        run: Path = typer.Argument(help="Folder of a finished run to start from."),
        plan: str = typer.Argument(
            help="A preset (w8, w4, w3, w2, w1, ternary, subbit) or a plan's YAML file."
        ),
        settings: list[str] = typer.Argument(None, help="Overrides such as train.epochs=5 train.lr=0.001."),
        out: Path | None = FOLDER,
        resume: bool = RESUME,
        quiet: bool = QUIET,
        as_json: bool = JSON,
    ) -> None:
        """Fine-tune a trained run under a compression plan.

        Examples: `pj compress runs/digits_vgg w1`, `pj compress runs/digits_vgg plan.yaml train.epochs=5`.
        """
        recipe = compressed_recipe(run, plan, settings or [])
        _run(recipe, out, resume, quiet or as_json, as_json)


def _estimate(recipe: Any, as_json: bool) -> None:
    """What the run will take; nothing is written."""
    from rich.console import Console

    from picojoule.learn.estimate import estimate

    found = estimate(recipe)
    if as_json:
        times = {"epoch_seconds": found.epoch_seconds, "run_seconds": found.run_seconds}
        typer.echo(json.dumps({"recipe": recipe.name, **asdict(found), **times}))
        return
    out = Console(soft_wrap=True)
    gpu = f", {found.device_bytes / 2**20:,.0f} MiB on {found.device}" if found.device_bytes else ""
    out.print(f"peak memory    {found.peak_bytes / 2**20:,.0f} MiB{gpu}")
    step = f"{found.batches} batches of {1000 * found.step_seconds:,.1f} ms"
    rest = f"validation {found.validation_seconds:,.1f} s, checkpoint {found.checkpoint_seconds:,.2f} s"
    out.print(f"time per epoch {found.epoch_seconds:,.1f} s: {step}, {rest}")
    out.print(f"the whole run  {found.run_seconds:,.0f} s for {found.epochs} epochs, {found.threads} threads")


def compressed_recipe(run: Path, plan: str, settings: list[str]) -> Any:
    """The recipe of a finished run, started from its weights and compressed by `plan`."""
    import yaml

    from picojoule.compress import CompressPlan
    from picojoule.core.errors import ConfigError
    from picojoule.learn.config import make_recipe, override

    config = run / "config.yaml"
    if not config.is_file() or not (run / "weights.safetensors").is_file():
        raise ConfigError(f"{run} is no finished run; train one with `pj train RECIPE --out {run}`")
    values = yaml.safe_load(config.read_text())
    file = Path(plan)
    is_file = file.suffix in (".yaml", ".yml")
    values["compress"] = CompressPlan.from_yaml(file).to_dict() if is_file else plan
    values["start"] = str(run)
    values["name"] = f"{values['name']}_{file.stem}"
    return make_recipe(override(values, settings))


def _run(recipe: Any, out: Path | None, resume: bool, quiet: bool, as_json: bool) -> None:
    from picojoule.core.tune import tune
    from picojoule.learn import Trainer

    tune()  # freed tensors stay in the process
    folder = out or Path("runs") / recipe.name
    trainer = Trainer(recipe, folder, resume=resume, quiet=quiet)
    try:
        result = trainer.fit()
    except KeyboardInterrupt:
        again = f"the same command with --resume goes on from step {trainer.at.step}"
        typer.echo(f"stopped; {folder} holds a checkpoint, {again}", err=True)
        raise
    if not trainer.accelerator.is_main_process:
        return  # one of several processes reports
    if as_json:
        typer.echo(json.dumps({**asdict(result), "recipe": recipe.to_dict()}))
    else:
        show(recipe, result)


def show(recipe: Any, result: Any) -> None:
    """The result as a table for people."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{recipe.name}: {recipe.model.name} on {recipe.data.name}", title_justify="left")
    table.add_column("")
    table.add_column("", justify="right")
    rows = [
        ("test accuracy", f"{result.test_accuracy:.2f} % of {result.test_samples}"),
        ("validation accuracy", f"{result.val_accuracy:.2f} %"),
        ("epochs, steps", f"{result.epochs}, {result.steps} ({result.stopped})"),
        ("parameters", f"{result.parameters:,}"),
        ("time", f"{result.seconds:.0f} s"),
        ("folder", result.folder),
    ]
    for row in rows:
        table.add_row(*row)
    Console().print(table)
