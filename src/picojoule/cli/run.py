"""`pj run FILE INPUT`: execute a packed model on an image or an array."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import typer

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
TOP = 5  # classes shown to people


def register(app: typer.Typer) -> None:
    """Add the verb."""

    @app.command("run")
    def run(
        file: str = typer.Argument(help="A .pj file or the name of a shipped model."),
        data: str = typer.Argument(help="An image (PNG, JPEG) or a .npy array, one sample or a batch."),
        as_json: bool = typer.Option(False, "--json", help="One JSON document for programs."),
        threads: int = typer.Option(1, "--threads", min=1, help="Most threads of the engine."),
    ) -> None:
        """Run a packed model on an image or an array and show its outputs.

        Examples: `pj run digits.pj seven.png`, `pj run digits.pj batch.npy --json --threads 2`.
        """
        found = execute(file, Path(data), threads)
        if as_json:
            typer.echo(json.dumps(found))
        else:
            show(found)


def execute(source: str, data: Path, threads: int) -> dict[str, Any]:
    """Outputs of every sample, with labels and class names where the output is [B, K]."""
    from picojoule.deploy.model import load

    model = load(source, threads=threads)
    x = read_input(model, data)
    outputs = model(x)
    named = outputs if isinstance(outputs, dict) else {model.graph.outputs[0].key: outputs}
    found: dict[str, Any] = {"source": model.source, "input": str(data), "batch": int(x.shape[0])}
    found["outputs"] = {key: value.tolist() for key, value in named.items()}
    if len(named) == 1:
        (scores,) = named.values()
        if scores.ndim == 2:
            labels = scores.argmax(axis=1).tolist()
            classes = model.card.get("classes") or []
            found["labels"] = labels
            found["classes"] = [classes[i] if i < len(classes) else str(i) for i in labels]
            found["names"] = classes
    return found


def read_input(model: Any, path: Path) -> np.ndarray:
    """A batch for the model's only input from an array file or an image.

    Raises:
        DataError: the file is absent or no array or image.
        ShapeError: the model has several inputs, or the image has the wrong number of channels.
    """
    from picojoule.core.errors import DataError, ShapeError

    if len(model.graph.inputs) != 1:
        names = [node.name for node in model.graph.inputs]
        raise ShapeError(
            f"pj run feeds one input, this model has {names}; use picojoule.deploy.load in Python"
        )
    if not path.is_file():
        raise DataError(f"no file {str(path)!r}; give an image ({', '.join(IMAGES)}) or a .npy array")
    node = model.graph.inputs[0]
    rank = len(node.edge.shape) + (1 if node.edge.steps else 0)
    if path.suffix.lower() == ".npy":
        try:
            array = np.load(path, allow_pickle=False)
        except ValueError as wrong:
            raise DataError(f"{str(path)!r} is no plain .npy array: {wrong}") from None
        return array[None] if array.ndim == rank else array
    if path.suffix.lower() not in IMAGES:
        raise DataError(f"{path.name!r} is neither an image ({', '.join(IMAGES)}) nor a .npy array")
    return read_image(model, path)


def read_image(model: Any, path: Path) -> np.ndarray:
    """An image [1, C, H, W] as the model's input wants it: bytes, or floats in 0..1 normalised by the card.

    The card's `mean` and `std` (one number a channel, of values in 0..1) are applied to float inputs.
    """
    from picojoule.core.errors import DataError, ShapeError, need_extra

    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise need_extra("pillow", "images") from None
    node = model.graph.inputs[0]
    shape = node.edge.shape
    if len(shape) != 3 or shape[0] not in (1, 3) or node.edge.steps:
        raise ShapeError(
            f"this model takes rows {list(shape)} with T={node.edge.steps}, not images; give a .npy array"
        )
    try:
        with Image.open(path) as image:
            image = image.convert("L" if shape[0] == 1 else "RGB").resize((shape[2], shape[1]))
            pixels = (
                np.asarray(image, np.uint8).reshape(shape[1], shape[2], shape[0]).transpose(2, 0, 1)[None]
            )
    except (UnidentifiedImageError, OSError) as wrong:
        raise DataError(f"cannot read the image {str(path)!r}: {wrong}") from None
    if node.table is not None:
        return np.ascontiguousarray(pixels)
    mean, std = (np.asarray(model.card.get(key, default)) for key, default in (("mean", 0.0), ("std", 1.0)))
    scaled = (pixels / 255.0 - mean.reshape(-1, 1, 1)) / std.reshape(-1, 1, 1)
    return scaled.astype(np.float32)


def show(found: dict[str, Any]) -> None:
    """A table for people: the best classes, or the ranges of the outputs."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    out = Console()
    if "labels" not in found:
        for key, value in found["outputs"].items():
            array = np.asarray(value)
            out.print(
                f"{escape(key)}: {list(array.shape)}, {array.min(initial=0):g}..{array.max(initial=0):g}"
            )
        return
    (scores,) = found["outputs"].values()
    table = Table(title=escape(found["input"]), title_justify="left")
    for name in ("sample", "class", "score"):
        table.add_column(name, justify="left" if name == "class" else "right")
    most = TOP if len(scores) == 1 else 1
    for i, row in enumerate(scores):
        for k in sorted(range(len(row)), key=lambda k: -row[k])[:most]:
            name = found["names"][k] if k < len(found["names"]) else str(k)
            table.add_row(str(i), escape(name), f"{row[k]:g}")
    out.print(table)
