"""`pj doctor`: what this machine and installation offer, and the command for what is missing."""

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
    def doctor(as_json: bool = typer.Option(False, "--json", help="One JSON document for programs.")) -> None:
        """Show versions, extras, the native engine, data folders and what to install.

        Examples: `pj doctor`, `pj doctor --json`.
        """
        found = report()
        if as_json:
            typer.echo(json.dumps(found))
        else:
            show(found)


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
