"""Packed runs on the engine against the model they were packed from in PyTorch eager, interleaved.

    python benchmarks/engine/trained_nets.py RUN [RUN ...] --out benchmarks/engine/trained_nets.json

A RUN is a folder of `pj train` with its packed file. One thread each, real test images, float32 eager in
inference mode as trained (no compile, no export). Every round times both, so that a busy machine slows them
alike; a number is the minimum over the rounds. `agree` is the share of images given the same class.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def minima(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Smallest seconds of every call; the first round warms up and is not counted."""
    best = dict.fromkeys(calls, float("inf"))
    for index in range(rounds + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if index:
                best[name] = min(best[name], time.perf_counter() - start)
    return best


def measure(folder: Path, batches: list[int], rounds: int) -> dict[str, Any]:
    """Images per second of the engine and of PyTorch for one run."""
    import torch

    from picojoule import deploy
    from picojoule.cli.road import open_run, raw_inputs

    run = open_run(folder)
    packed = deploy.load(next(folder.glob("*.pj")), threads=1)
    model = run.model
    row: dict[str, Any] = {"run": folder.name}
    images = run.samples("test", max(batches))[0]
    takes_bytes = packed.graph.inputs[0].table is not None
    pixels = raw_inputs(run)[0] if takes_bytes else images.numpy()
    for batch in batches:
        raw, floats = np.ascontiguousarray(pixels[:batch]), images[:batch]
        with torch.inference_mode():
            best = minima({"engine": lambda: packed(raw), "torch": lambda: model(floats)}, rounds)  # noqa: B023
            classes = model(floats)
        row[f"batch_{batch}"] = {
            "engine_images_s": batch / best["engine"],
            "torch_images_s": batch / best["torch"],
            "times_faster": best["torch"] / best["engine"],
        }
        found = packed(raw)
        scores = found if isinstance(found, np.ndarray) else next(iter(found.values()))
        row["agree"] = float((scores.argmax(-1) == classes.argmax(-1).numpy()).mean())
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 64])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    import torch
    from machine import describe

    torch.set_num_threads(1)
    rows = []
    for folder in given.runs:
        rows.append(measure(folder, given.batches, given.rounds))
        print(json.dumps(rows[-1]))
    if given.out:
        found = {"machine": describe("torch", threads=1), "rounds": given.rounds, "runs": rows}
        given.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
