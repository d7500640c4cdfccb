"""Puts packed runs into the package and writes their model cards.

    python scripts/make_zoo.py fashion_vgg_w1=runs/accuracy/fashion_vgg_w1 digits_vgg_w1=runs/demo-digits/...
    python scripts/make_zoo.py --rates

Each run must have been packed (`pj pack RUN`). The file's card gains the operations of one inference. With
`--rates` the firing rates of every shipped file are measured on validation images and written into its card;
the network stays as it is. docs/zoo.md is written anew from all shipped files.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from picojoule import data as datasets
from picojoule import deploy
from picojoule.cli.road import open_run, raw_inputs
from picojoule.graph import rates, reference
from picojoule.measure import measure_model

ROOT = Path(__file__).resolve().parents[1]
ZOO = ROOT / "src" / "picojoule" / "deploy" / "zoo"
PAGE = ROOT / "docs" / "zoo.md"
SAMPLES, BATCH = 500, 32

INTRO = """# Packed models that ship

These files lie inside the package and run offline, without torch:

```python
import picojoule.deploy

model = picojoule.deploy.load("digits_vgg_w1")
print(model.card["about"], model.card["classes"][:3])
```

or `pj run fashion_vgg_w1 image.png`. Pixels are 0..255; a Fashion-MNIST image is white on black, 28 x 28.
Every figure below stands in the file's own card (`pj inspect NAME`). *Parity*: the native engine gave the
reference interpreter's integers on every image of the test split, and the reference those of the snapped
model in float64. *Operations* are exact counts on the first 500 test images (all 360 of the digits); energy
is by the model named, which leaves out what [Measuring](measure.md) says. The card also holds the firing
rate of every spike edge on validation images, by which the engine chooses kernels. This page is written by
`scripts/make_zoo.py`.
"""


def ship(name: str, folder: Path) -> None:
    """Copy one packed run into the package, with operations in its card."""
    run = open_run(folder)
    (source,) = folder.glob("*.pj")
    graph, card = deploy.read(source)
    pixels, labels = raw_inputs(run)
    report = measure_model(
        source, pixels[:SAMPLES], labels=labels[:SAMPLES], name=name, dataset=run.task.data.part
    )
    energy = report.headline()
    recipe = {k: v for k, v in card["recipe"].items() if k != "start"}
    card |= {
        "name": name,
        "recipe": recipe,
        "operations": {
            "spikes": report.spikes,
            "synops": report.sop_exact,
            "macs": report.MAC,
            "energy_nj": energy.nj,
            "energy_model": energy.model,
            "samples": min(SAMPLES, len(labels)),
        },
        "payload_bytes": deploy.payload_bytes(graph),
    }
    deploy.write(ZOO / f"{name}.pj", graph, card)


def add_rates(name: str) -> None:
    """Measure how often the spikes of a shipped file fire, on images it was neither trained nor tested on."""
    path = ZOO / f"{name}.pj"
    graph, card = deploy.read(path)
    given = card["recipe"]["data"]
    data = datasets.load(given["name"]) if given["fold"] is None else datasets.digits_fold(given["fold"])
    images = np.asarray(data.val.x[: rates.RATE_SAMPLES], np.float64)
    pixels = np.floor(images * 255 / data.max_value + 0.5).astype(np.uint8)
    (entry,) = graph.inputs
    parts = ({entry.name: pixels[at : at + BATCH]} for at in range(0, len(pixels), BATCH))
    deploy.write(path, graph, card | {"rates": rates.measure(graph, parts, reference.run)})


def section(name: str) -> str:
    """The model card of one shipped file."""
    model: Any = deploy.load(name)
    card, test, ops = model.card, model.card["test"], model.card["operations"]
    recipe = card["recipe"]
    compress = recipe.get("compress") or "float"
    size = (ZOO / f"{name}.pj").stat().st_size
    rows = [
        ("network, data", card["about"]),
        ("licence of the data", card["data"]["licence"]),
        (
            "recipe",
            f"{recipe['model']['name']}, {recipe['train']['epochs']} epochs under `{compress}`, "
            f"seed {recipe['seed']}, from a float run",
        ),
        (
            "accuracy on the test split",
            f"{test['accuracy_packed']:.2f} % of {test['samples']}, trained {test['accuracy_trained']:.2f} %",
        ),
        ("same answer as the trained model", f"{test['agreement']:.2f} %"),
        ("parity", "exact" if test["parity"] and test["reference_equals_snapped"] else "broken"),
        ("payload, file", f"{card['payload_bytes']:,} bytes, {size:,} bytes"),
        (
            "spikes, synaptic operations, MACs per image",
            f"{ops['spikes']:,.0f}, {ops['synops']:,.0f}, {ops['macs']:,.0f}",
        ),
        ("energy per image", f"{ops['energy_nj']:,.0f} nJ by `{ops['energy_model']}`"),
    ]
    lines = [f"## {name}", "", "| | |", "|---|---|", *(f"| {a} | {b} |" for a, b in rows), ""]
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="*", metavar="NAME=RUN")
    parser.add_argument("--rates", action="store_true", help="measure the firing rates of all shipped files")
    given = parser.parse_args()
    for item in given.runs:
        name, _, folder = item.partition("=")
        ship(name, Path(folder))
    for name in deploy.shipped() if given.rates else ():
        add_rates(name)
    PAGE.write_text(INTRO + "\n" + "\n".join(section(n) for n in deploy.shipped()))


if __name__ == "__main__":
    main()
