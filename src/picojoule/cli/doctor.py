"""`pj doctor`: what this machine and installation offer; `pj doctor model.py:net`: traps in a network."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import typer

# Extra -> (module to look for, distribution) of each package it brings.
EXTRAS: dict[str, tuple[tuple[str, str], ...]] = {
    "train": (
        ("torch", "torch"),
        ("accelerate", "accelerate"),
        ("sklearn", "scikit-learn"),
        ("tensorboard", "tensorboard"),
        ("matplotlib", "matplotlib"),
    ),
    "events": (("h5py", "h5py"), ("tonic", "tonic")),
    "audio": (("soundfile", "soundfile"), ("scipy", "scipy")),
    "images": (("kornia", "kornia"), ("PIL", "pillow")),
    "plots": (("plotly", "plotly"),),
    "nir": (("nir", "nir"),),
    "onnx": (("onnx", "onnx"), ("onnxscript", "onnxscript")),
}
BASE = ("numpy", "safetensors", "typer", "rich", "pyyaml", "pydantic")


def register(app: typer.Typer) -> None:
    """Add the verb."""

    @app.command("doctor")
    def doctor(
        model: str = typer.Argument(None, help="A network to check, e.g. model.py:net; the file is run."),
        shape: str = typer.Option(
            None, "--input", help="Shape of one sample, e.g. 1,28,28: also run the network on random samples."
        ),
        as_json: bool = typer.Option(False, "--json", help="One JSON document for programs."),
    ) -> None:
        """Show versions, extras, the native engine, data folders and what to install; or check a network.

        Exit code 1 where the network has a finding of level error.

        Examples: `pj doctor`, `pj doctor --json`, `pj doctor model.py:net --input 1,28,28`.
        """
        if model is not None:
            raise typer.Exit(_check(model, shape, as_json))
        found = report()
        if as_json:
            typer.echo(json.dumps(found))
        else:
            show(found)


def _check(target: str, shape: str | None, as_json: bool) -> int:
    """Lint a file, and the network it makes where one is named; 1 where there is an error."""
    from picojoule.core.errors import ConfigError
    from picojoule.lint import check_source
    from picojoule.lint.loading import load_model, split_target

    path, name = split_target(target)
    if shape is not None and name is None:
        raise ConfigError(f"--input runs a network; name it, e.g. {path}:net")
    findings = check_source(path)
    if name is not None:
        from picojoule.lint.running import check_modules, check_run

        net = load_model(path, name)
        findings += check_modules(net)
        if shape is not None:
            findings += check_run(net, _numbers(shape))
    if as_json:
        typer.echo(json.dumps({"model": target, "findings": [f.to_dict() for f in findings]}))
    else:
        _show_findings(target, findings)
    return int(any(f.level == "error" for f in findings))


def _numbers(shape: str) -> tuple[int, ...]:
    from picojoule.core.errors import ConfigError

    words = shape.replace("x", ",").split(",")
    if not all(w.strip().isdigit() and int(w) > 0 for w in words):
        raise ConfigError(f"cannot read the shape {shape!r}; write the shape of one sample, e.g. 1,28,28")
    return tuple(int(w) for w in words)


def _show_findings(target: str, findings: list[Any]) -> None:
    from rich.console import Console
    from rich.text import Text

    out = Console(soft_wrap=True)
    colours = {"error": "bold red", "warning": "yellow", "note": "dim"}
    for f in findings:
        head = Text.assemble(f"{f.where}: ", (f.level, colours[f.level]), f" [{f.rule}] {f.message}")
        out.print(head, highlight=False)
        out.print(Text(f"    {f.advice}"), highlight=False)
    counts = {level: sum(f.level == level for f in findings) for level in colours}
    told = ", ".join(f"{n} {level}{'s' if n != 1 else ''}" for level, n in counts.items() if n)
    out.print(Text(f"{target}: {told or 'nothing found'}"), highlight=False)


def report() -> dict[str, Any]:
    """Everything as plain data; looks for packages without importing them."""
    import picojoule
    from picojoule.deploy.model import shipped

    return {
        "picojoule": picojoule.__version__,
        "python": platform.python_version(),
        "executable": sys.executable,
        "system": f"{platform.system()} {platform.machine()}",
        "base": {name: _version(name) for name in BASE},
        "extras": {extra: _extra(extra, packages) for extra, packages in EXTRAS.items()},
        "engine": _engine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "data": _data(),
        "shipped": shipped(),
    }


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _extra(name: str, packages: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    found = {
        dist: _version(dist) or "present" for module, dist in packages if importlib.util.find_spec(module)
    }
    missing = [dist for _, dist in packages if dist not in found]
    return {
        "found": found,
        "missing": missing,
        "install": f"pip install 'picojoule[{name}]'" if missing else None,
    }


def _engine() -> dict[str, Any]:
    """The native engine on a net of one node: whether it loads, and the instruction set it chose."""
    from picojoule.core import kinds
    from picojoule.graph import nodes as n

    edge = n.Edge(kinds.binary, (1,))
    pair = (n.Input(name="x", edge=edge), n.Output(name="y", inputs=("x",), edge=edge))
    try:
        from picojoule.deploy.engine import Engine

        info = Engine(n.Graph(pair, stage="snapped")).info()
    except ImportError as missing:
        return {
            "found": False,
            "why": str(missing),
            "install": "pip install --force-reinstall --no-deps picojoule",
        }
    return {"found": True, "isa": info["isa"], "threads": info["threads"]}


def _data() -> list[dict[str, Any]]:
    """Folders in the order in which data sets are looked for."""
    from picojoule.data.places import SYSTEM, VARIABLE, cache_dir

    given = os.environ.get(VARIABLE)
    places = [(f"${VARIABLE}", Path(given))] if given else []
    places += [("system", SYSTEM), ("cache", cache_dir())]
    return [
        {
            "place": place,
            "path": str(path),
            "found": path.is_dir(),
            "entries": sorted(entry.name for entry in path.iterdir())[:20] if path.is_dir() else [],
        }
        for place, path in places
    ]


def show(found: dict[str, Any]) -> None:
    """Tables for people."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    out = Console()
    out.print(
        f"picojoule {found['picojoule']}, Python {found['python']}, {found['system']}, {found['cores']} cores"
    )
    engine = found["engine"]
    if engine["found"]:
        out.print(f"native engine: yes, instruction set {engine['isa']}")
    else:
        out.print(f"native engine: [red]missing[/red] ({escape(engine['why'])}); {escape(engine['install'])}")
    table = Table("extra", "present", "missing", "to get it")
    base = {k: v for k, v in found["base"].items() if v}
    table.add_row("(base)", _list(base), ", ".join(sorted(set(found["base"]) - set(base))), "")
    for name, extra in found["extras"].items():
        table.add_row(
            name, _list(extra["found"]), ", ".join(extra["missing"]), escape(extra["install"] or "")
        )
    out.print(table)
    for place in found["data"]:
        state = ", ".join(place["entries"]) or "empty" if place["found"] else "not there"
        out.print(f"data ({place['place']}): {escape(place['path'])}: {escape(state)}")
    out.print(f"shipped models: {', '.join(found['shipped']) or 'none'}")


def _list(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())
