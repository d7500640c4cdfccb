"""`pj train --estimate` against real epochs: how far off are peak memory and time?

    python benchmarks/train/estimate.py [--out FILE.json] [--recipes NAME ...] [--limit 4000] [--rounds 2]
                                        [--threads 1]

For every recipe, `rounds` times in turn: the estimate in its own process, then a real run of one epoch in
another. Real time is that of the epoch (its batches, validation and checkpoint), without imports, set-up and
the test split; real memory is the peak of the process at its end. `error` is estimate / real - 1; the medians
of the rounds count. The goal is 20 %. `+` adds settings to a recipe: `digits_vgg+train.checkpoint=block`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from machine import describe

from picojoule.learn import load_recipe
from picojoule.learn.estimate import estimate

RESULTS = Path(__file__).resolve().parents[1] / "results"
RECIPES = (
    "digits_vgg",
    "digits_vgg+model.T=16+train.checkpoint=block",
    "digits_vgg_online",
    "digits_sdt_v3",
    "fashion_vgg",
    "fashion_vgg+train.spike_aware=true",
    "mnist_sdt_v1",
    "nmnist_vgg",
    "cifar10_ms_resnet",
)
REAL = """
import json, sys, time
from picojoule.core.tune import tune
from picojoule.learn import Trainer, make_recipe
from picojoule.learn.estimate import peak_bytes
tune()
trainer = Trainer(make_recipe(json.loads(sys.argv[1])), sys.argv[2], quiet=True)
epoch, spent = trainer._epoch, []
def timed(*args):
    began = time.perf_counter()
    told = epoch(*args)
    spent.append(time.perf_counter() - began)
    return told
trainer._epoch = timed
trainer.fit()
print(json.dumps({"seconds": spent[0], "bytes": peak_bytes()}))
"""


def real(recipe: Any) -> dict[str, float]:
    """One epoch in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        line = [sys.executable, "-c", REAL, json.dumps(recipe.to_dict()), folder]
        done = subprocess.run(line, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def compare(name: str, limit: int, rounds: int) -> dict[str, Any]:
    """Medians of the estimate and of the real epoch, and how they differ."""
    name, *settings = name.split("+")
    size = [f"data.limit={limit}"] if not name.startswith("digits") else []
    once = ["train.epochs=1", "train.warmup_epochs=0", "train.checkpoint_minutes=1000"]
    recipe = load_recipe(name, [*once, *size, *settings])
    pairs = [(estimate(recipe), real(recipe)) for _ in range(rounds)]
    seconds = statistics.median(e.epoch_seconds for e, _ in pairs)
    peak = statistics.median(e.peak_bytes for e, _ in pairs)
    real_seconds = statistics.median(r["seconds"] for _, r in pairs)
    real_peak = statistics.median(r["bytes"] for _, r in pairs)
    return {
        "estimated_epoch_seconds": round(seconds, 3),
        "real_epoch_seconds": round(real_seconds, 3),
        "time_error": round(seconds / real_seconds - 1, 3),
        "estimated_peak_mib": round(peak / 2**20, 1),
        "real_peak_mib": round(real_peak / 2**20, 1),
        "memory_error": round(peak / real_peak - 1, 3),
        "rounds": rounds,
        "settings": size + settings,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="estimate against real epochs")
    parser.add_argument("--out", type=Path, default=RESULTS / "train_estimate.json")
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES))
    parser.add_argument("--limit", type=int, default=4000, help="training samples of the larger data sets")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(given.threads)
    made: dict[str, Any] = {"benchmark": "estimate", "recipes": {}}
    made |= json.loads(given.out.read_text()) if given.out.exists() else {}
    made["machine"] = describe("torch", "accelerate", threads=given.threads)
    for name in given.recipes:
        made["recipes"][name] = compare(name, given.limit, given.rounds)
        print(name, json.dumps(made["recipes"][name]), flush=True)
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main()
