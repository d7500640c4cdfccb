"""How time grows with steps, firing rate, channels, image size, batch and threads; as JSON and one picture.

    python benchmarks/engine/growth.py            # about two minutes, and draws
    python benchmarks/engine/growth.py --draw     # only the picture, from the JSON

One 1-bit 3x3 convolution with LIF (128 channels, 16x16 pixels, T = 4, 10 % firing, 2 fraction bits unless the
axis says otherwise), time inside the engine; batch and threads: whole calls of the six-convolution net.
Beside it onnxruntime int8 on one step of the ANN of that shape. Curves of one panel are measured interleaved.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import annet
import numpy as np
import peers
from clock import Report, Sampler, interleave, wall
from machine import describe
from shapes import Cell, Net, Shape, body, one_layer

from layers import engine_samplers

HERE = Path(__file__).resolve().parent
OUT = HERE.parent / "results" / "engine_growth.json"
PICTURE = HERE.parents[1] / "docs" / "img" / "engine_growth.svg"
AXES: dict[str, tuple[str, tuple[float, ...]]] = {
    "T": ("time steps", (1, 2, 4, 8, 16)),
    "rate": ("firing rate", (0.01, 0.02, 0.05, 0.1, 0.2, 0.4)),
    "channels": ("channels", (32, 64, 128, 256, 512)),
    "side": ("pixels a side", (4, 8, 16, 32, 64)),
    "batch": ("images a call", (1, 2, 4, 8, 16, 32)),
    "threads": ("threads", (1, 2)),
}
FORMS = {"1-bit": Cell("1"), "1-bit, 16 fraction bits": Cell("1", frac=16), "4-bit": Cell("4")}
ORT = "onnxruntime int8, ANN, one step"


def layer_net(axis: str, value: float, cell: Cell) -> tuple[Net, Shape]:
    """The layer at one place of an axis."""
    T, rate, channels, side = cell.T, cell.rate, 128, 16
    if axis == "T":
        T = int(value)
    elif axis == "rate":
        rate = value
    elif axis == "channels":
        channels = int(value)
    else:
        side = int(value)
    shape = Shape("conv", channels, channels, side)
    return one_layer(shape, Cell(cell.bits, T, cell.frac, rate, cell.levels)), shape


def layer_curves(axis: str, rounds: int) -> dict[str, Any]:
    """Kernel time along T, rate, channels or side."""
    samplers: dict[str, Sampler] = {}
    for value in AXES[axis][1]:
        shape = Shape("conv", 128, 128, 16)
        for name, cell in FORMS.items():
            net, shape = layer_net(axis, value, cell)
            samplers[f"{name}|{value}"] = engine_samplers(net, 1, 3)[0]["kernel"]
        if axis in ("channels", "side") or value == AXES[axis][1][0]:
            model, x = annet.onnx_bytes([shape], 1, True)
            samplers[f"{ORT}|{value}"] = wall(peers.onnxruntime_call(model, x, 1), 3)
    return curves(AXES[axis][1], interleave(samplers, rounds))


def net_curves(axis: str, rounds: int) -> dict[str, Any]:
    """Time of whole calls of the six-convolution net along batch or threads (milliseconds an image)."""
    from picojoule.deploy.engine import Engine

    samplers: dict[str, Sampler] = {}
    net = body(Cell("1"))
    for value in AXES[axis][1]:
        threads = int(value) if axis == "threads" else 1
        pause = 0.005 if axis == "threads" else 0.0
        for batch in (1, 16) if axis == "threads" else (int(value),):
            more = f", {batch} images" if axis == "threads" else ""
            x = np.repeat(net.x, batch, 0)
            with peers.without_torch():
                engine = Engine(net.graph(), threads=threads, rates=net.planes)
            samplers[f"1-bit{more}|{value}"] = each(wall(lambda e=engine, x=x: e(x), 1, pause), batch)
            model, y = annet.onnx_bytes(annet.body_parts(), batch, True)
            samplers[f"{ORT}{more}|{value}"] = each(
                wall(peers.onnxruntime_call(model, y, threads), 1, pause), batch
            )
    return curves(AXES[axis][1], interleave(samplers, rounds))


def each(sample: Sampler, batch: int) -> Sampler:
    """The same by image."""
    return lambda: sample() / batch


def curves(values: Iterable[float], times: dict[str, Any]) -> dict[str, Any]:
    """{curve: [[value, median ms], ...]}; a curve of one point is drawn as a line across."""
    found: dict[str, list[list[float]]] = {}
    for key, time in times.items():
        name, _, value = key.rpartition("|")
        found.setdefault(name, []).append([float(value), time["median"]])
    return {"values": list(values), "ms": found}


def draw(sections: dict[str, Any], path: Path) -> None:
    """Six panels, logarithmic where the axis spans decades."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "picojoule", "font.size": 8})
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(2, 3, figsize=(10, 6.4), layout="constrained")
    colours = {"1-bit": "#0a6", "1-bit, 16 fraction bits": "#48c", "4-bit": "#c70", ORT: "#999"}
    for panel, (axis, (title, values)) in zip(panels.flat, AXES.items()):
        for name, points in sections[axis]["ms"].items():
            base = name.rpartition(", ")[0] if name.endswith("images") else name
            style = "--" if name.endswith("16 images") or base == ORT else "-"
            xs, ys = zip(*(points if len(points) > 1 else [[v, points[0][1]] for v in values]))
            panel.plot(xs, ys, style, marker="o", ms=3, lw=1.2, label=name, color=colours.get(base, "#333"))
        panel.set_xscale("log")
        panel.set_yscale("log")
        panel.set_xticks(values, [f"{v:g}" for v in values])
        panel.minorticks_off()
        panel.set_xlabel(title)
        panel.set_ylabel("ms an image" if axis in ("batch", "threads") else "ms")
        panel.grid(alpha=0.3, lw=0.5)
        panel.legend(fontsize=6, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=90)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fresh", action="store_true", help="measure everything again")
    parser.add_argument("--draw", action="store_true", help="measure nothing")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--picture", type=Path, default=PICTURE)
    args = parser.parse_args()
    if not args.draw:
        head = {"machine": describe("onnxruntime"), "rounds": args.rounds}
        report = Report(args.out, head, args.fresh)
        for axis in AXES:
            make = net_curves if axis in ("batch", "threads") else layer_curves
            report.section(axis, lambda axis=axis, make=make: make(axis, args.rounds))
        report.save()
    draw(json.loads(args.out.read_text())["sections"], args.picture)


if __name__ == "__main__":
    main()
