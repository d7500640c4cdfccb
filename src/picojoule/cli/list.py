"""`pj list [WHAT] [PATTERN]`: models, recipes, data sets, neurons, quantizers, shipped packed models."""

from __future__ import annotations

import fnmatch
import json
from typing import Any

import typer

WHAT = ("models", "recipes", "data", "neurons", "surrogates", "quantizers", "presets", "rules", "packed")


def register(app: typer.Typer) -> None:
    """Add the verb."""

    @app.command("list")
    def listing(
        what: str = typer.Argument("models", help=f"One of: {', '.join(WHAT)}."),
        pattern: str = typer.Argument("*", help="Shell pattern, e.g. 'sdt*'."),
        as_json: bool = typer.Option(False, "--json", help="One JSON document for programs."),
    ) -> None:
        """List what there is by name.

        Examples: `pj list`, `pj list models "sdt*"`, `pj list recipes --json`.
        """
        rows = [r for r in collect(what) if fnmatch.fnmatch(r["name"], pattern)]
        if as_json:
            typer.echo(json.dumps(rows))
        else:
            show(what, rows)


def collect(what: str) -> list[dict[str, Any]]:
    """Rows {name, about} of one sort of thing.

    Raises:
        ConfigError: `what` is none of WHAT.
    """
    from picojoule.core.errors import ConfigError, suggest

    if what not in WHAT:
        raise ConfigError(f"cannot list {what!r}; {suggest(what, WHAT)}")
    return _READERS[what]()


def _models() -> list[dict[str, Any]]:
    from picojoule.models import list_models, model_info

    return [
        {"name": n, "about": model_info(n)["doc"], "family": model_info(n)["family"]} for n in list_models()
    ]


def _recipes() -> list[dict[str, Any]]:
    from picojoule.learn.config import load_recipe, recipe_names

    found = []
    for name in recipe_names():
        r = load_recipe(name)
        about = r.notes or f"{r.model.name} on {r.data.name}, {r.train.epochs} epochs"
        found.append({"name": name, "about": about})
    return found


def _first_line(item: Any) -> str:
    return (item.__doc__ or "").strip().partition("\n")[0]


def _data() -> list[dict[str, Any]]:
    from picojoule.data import list_sets

    return [{"name": n, "about": ""} for n in list_sets()]


def _neurons() -> list[dict[str, Any]]:
    from picojoule.models.config import neuron_classes

    return [{"name": n, "about": _first_line(c)} for n, c in sorted(neuron_classes().items())]


def _registry(module: str, attribute: str) -> list[dict[str, Any]]:
    import importlib

    registry = getattr(importlib.import_module(module), attribute)
    return [{"name": n, "about": _first_line(registry.get(n))} for n in registry]


def _presets() -> list[dict[str, Any]]:
    from picojoule.compress import PRESETS

    return [{"name": n, "about": "compression preset for `pj compress RUN NAME`"} for n in PRESETS]


def _packed() -> list[dict[str, Any]]:
    from picojoule.deploy import shipped
    from picojoule.deploy.model import load

    return [{"name": n, "about": load(n).card.get("about", "")} for n in shipped()]


_READERS: dict[str, Any] = {
    "models": _models,
    "recipes": _recipes,
    "data": _data,
    "neurons": _neurons,
    "surrogates": lambda: _registry("picojoule.neurons.surrogate", "SURROGATES"),
    "quantizers": lambda: _registry("picojoule.compress", "QUANTIZERS"),
    "presets": _presets,
    "rules": lambda: _registry("picojoule.learn.rules", "RULES"),
    "packed": _packed,
}


def show(what: str, rows: list[dict[str, Any]]) -> None:
    """A table for people."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=f"{what} ({len(rows)})", title_justify="left")
    table.add_column("name", no_wrap=True)
    table.add_column("about")
    for row in rows:
        table.add_row(escape(row["name"]), escape(row["about"]))
    Console().print(table)
