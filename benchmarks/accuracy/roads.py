"""Accuracy on real images: float, compressed, packed; with the three figures of exactness.

    python benchmarks/accuracy/roads.py digits            # 5 stratified folds, two networks, float and 1 bit
    python benchmarks/accuracy/roads.py fashion           # one run each: float, 1 bit
    python benchmarks/accuracy/roads.py cifar10 nmnist    # needs the data

Runs are kept in --runs and resumed when interrupted. JSON goes to benchmarks/results/accuracy_NAME.json.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from machine import describe

from picojoule.cli.road import open_run, pack_run
from picojoule.deploy import payload_bytes
from picojoule.learn import Trainer, load_recipe, make_recipe

RESULTS = Path(__file__).resolve().parents[1] / "results"

# name -> (recipe, overrides, plans, fine-tuning epochs, fine-tuning learning rate)
ROADS: dict[str, list[dict[str, Any]]] = {
    "digits": [
        {"recipe": r, "plans": ["w1"], "tune": 10, "lr": 0.002, "set": [f"data.fold={k}"], "tag": f"_fold{k}"}
        for r in ("digits_sdt_v3", "digits_vgg")
        for k in range(5)
    ],
    "fashion": [
        {"recipe": "fashion_vgg", "plans": ["w1", "w4"], "tune": 8, "lr": 0.0015, "set": [], "tag": ""}
    ],
    "cifar10": [
        {"recipe": "cifar10_vgg", "plans": ["w4", "w1"], "tune": 6, "lr": 0.0015, "set": [], "tag": ""}
    ],
    "nmnist": [{"recipe": "nmnist_vgg", "plans": ["w1"], "tune": 15, "lr": 0.0015, "set": [], "tag": ""}],
}


def one_run(recipe: Any, folder: Path) -> dict[str, Any]:
    """Train (or read back) one run."""
    done = folder / "result.json"
    if not done.is_file():
        Trainer(recipe, folder, resume=True).fit()
    return json.loads(done.read_text())


def road(spec: dict[str, Any], runs: Path) -> list[dict[str, Any]]:
    """Float run, then each plan fine-tuned from it and packed."""
    base = load_recipe(spec["recipe"], spec["set"])
    name = base.name + spec["tag"]
    rows = []
    result = one_run(base, runs / name)
    rows.append({"run": name, "weights": "float", **brief(result)})
    for plan in spec["plans"]:
        values = base.to_dict()
        values |= {"name": f"{name}_{plan}", "compress": plan, "start": str(runs / name)}
        values["train"] |= {"epochs": spec["tune"], "lr": spec["lr"]}
        folder = runs / f"{name}_{plan}"
        result = one_run(make_recipe(values), folder)
        row = {"run": f"{name}_{plan}", "weights": plan, **brief(result)}
        kept = folder / "packed.json"
        if not kept.is_file():
            packed = pack_run(open_run(folder), folder / f"{name}_{plan}.pj")
            figures = {
                **packed.figures,
                "payload_bytes": payload_bytes(packed.graph),
                "pack": packed.card.get("figures"),
            }
            kept.write_text(json.dumps({**figures, "file_bytes": packed.path.stat().st_size}))
        row["packed"] = json.loads(kept.read_text())
        rows.append(row)
    return rows


def brief(result: dict[str, Any]) -> dict[str, Any]:
    """The part of a result that is worth committing."""
    keys = ("test_accuracy", "test_samples", "val_accuracy", "epochs", "seconds", "parameters", "stopped")
    return {k: result[k] for k in keys}


def pooled(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Folds of one network and weight format pooled, with the spread over folds."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["run"].partition("_fold")[0], row["weights"]), []).append(row)
    found = []
    for (name, weights), group in groups.items():
        n = np.array([r["test_samples"] for r in group])
        acc = np.array([r["test_accuracy"] for r in group])
        item = {"network": name, "weights": weights, "folds": len(group), "samples": int(n.sum())}
        item["accuracy"] = float((acc * n).sum() / n.sum())
        item["std_over_folds"] = float(acc.std(ddof=1)) if len(group) > 1 else None
        item["binomial_se"] = 100 * math.sqrt(item["accuracy"] / 100 * (1 - item["accuracy"] / 100) / n.sum())
        if "packed" in group[0]:
            for key in ("accuracy_packed", "agreement"):
                item[key] = float((np.array([r["packed"][key] for r in group]) * n).sum() / n.sum())
            item["parity"] = all(r["packed"]["parity"] for r in group)
            item["payload_bytes"] = group[0]["packed"]["payload_bytes"]
        found.append(item)
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="+", choices=sorted(ROADS))
    parser.add_argument("--runs", type=Path, default=Path("runs/accuracy"))
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for name in args.names:
        rows = [row for spec in ROADS[name] for row in road(spec, args.runs)]
        report = {
            "name": name,
            "machine": describe("torch", threads=args.threads),
            "summary": pooled(rows),
            "runs": rows,
        }
        path = RESULTS / f"accuracy_{name}.json"
        path.write_text(json.dumps(report, indent=2) + "\n")
        print(json.dumps(report["summary"], indent=2))


if __name__ == "__main__":
    main()
