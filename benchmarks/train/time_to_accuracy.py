"""Wall time and memory until an accuracy is reached: picojoule and SpikingJelly, everything else equal.

    python benchmarks/train/time_to_accuracy.py [--out FILE.json] [--sets fashion-mnist cifar10-10k]
        [--seeds 0] [--minutes 6] [--threads 1]      # with 2 threads: about 2 and 4 minutes, 1 and 1.5

Both train the same layers from the same weights on the same batches with AdamW and a cosine over the planned
epochs; only the neurons (and `spike_aware_`) differ: LIF, T = 4, atan slope, hard detached reset.

Validation accuracy is taken twice an epoch, outside the clock; the run ends when it reaches the target, at
the end of the plan, or after --minutes of training. The test accuracy of these weights stands beside
it. CIFAR-10 is the part of 10,000 training images. Each run is a process of its own (memory: its high-water
mark); finished runs in --out are kept, so that the command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from machine import describe
from whole_step import Jelly

import picojoule
from picojoule import data as datasets
from picojoule.core.tune import tune
from picojoule.learn import make_recipe
from picojoule.learn.feed import Feed
from picojoule.models.spiking_vgg import SpikingVGG
from picojoule.neurons import LIF

# data set: target in percent, epochs planned, batch, layout, highest learning rate, augmentation
PLANS: dict[str, dict[str, Any]] = {
    "fashion-mnist": {"target": 90.0, "epochs": 5, "batch": 64, "layout": "32/2-64/2-96-128/2", "lr": 3e-3},
    "cifar10-10k": {
        "target": 55.0,
        "epochs": 16,
        "batch": 64,
        "layout": "32/2-64/2-128/2",
        "lr": 3e-3,
        "augment": {"flip": True, "crop": 2},
    },
}
LIBRARIES = ("picojoule", "spikingjelly")


def make(library: str, plan: dict[str, Any], channels: int, seed: int) -> nn.Module:
    """The network with the same weights for both."""
    torch.manual_seed(seed)
    neuron: Any = (
        Jelly if library == "spikingjelly" else lambda T: LIF(T, surrogate="atan", detach_reset=True)
    )
    model = SpikingVGG(10, channels, 4, neuron, plan["layout"])
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return picojoule.spike_aware_(model) if library == "picojoule" else model


@torch.no_grad()
def accuracy(model: nn.Module, feed: Feed, split: str) -> float:
    """Percent right."""
    model.eval()
    right = seen = 0
    for x, y in feed.evaluation(split):
        found = model(x.contiguous(memory_format=torch.channels_last)).argmax(1)
        right, seen = right + int((found == y).sum()), seen + len(y)
    model.train()
    return 100 * right / seen


def run(name: str, library: str, seed: int, minutes: float) -> dict[str, Any]:
    """One training run."""
    plan = PLANS[name]
    data = datasets.load(name)
    section = {"name": name, "batch": plan["batch"], "augment": plan.get("augment", {})}
    feed = Feed(data, make_recipe({"model": {"name": "spiking_vgg"}, "data": section, "seed": seed}))
    model = make(library, plan, data.train.x.shape[1], seed).train()
    optimizer = torch.optim.AdamW(model.parameters(), plan["lr"], weight_decay=0.05)
    total, done, spent = plan["epochs"] * feed.batches, 0, 0.0
    history: list[dict[str, float]] = []
    while done < total and spent < 60 * minutes:
        batches = feed.train()
        begin = time.perf_counter()
        for x, y in batches:
            rate = min(1.0, (done + 1) / (0.3 * feed.batches)) * 0.5 * (1 + math.cos(math.pi * done / total))
            for group in optimizer.param_groups:
                group["lr"] = plan["lr"] * rate
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x.contiguous(memory_format=torch.channels_last)), y)
            loss.backward()
            optimizer.step()
            done += 1
            late = spent + time.perf_counter() - begin >= 60 * minutes
            if late or done % max(feed.batches // 2, 1) == 0:
                spent += time.perf_counter() - begin
                row = {"seconds": spent, "epoch": done / feed.batches, "val": accuracy(model, feed, "val")}
                history.append(row)
                print(
                    f"  {library} {row['epoch']:.1f} epochs, {spent:.0f} s: {row['val']:.2f} %",
                    file=sys.stderr,
                )
                if row["val"] >= plan["target"] or spent >= 60 * minutes:
                    break
                begin = time.perf_counter()
        else:
            spent += time.perf_counter() - begin
            continue
        break
    status = Path("/proc/self/status").read_text()
    return {
        "set": name,
        "library": library,
        "seed": seed,
        "target": plan["target"],
        "reached": bool(history) and history[-1]["val"] >= plan["target"],
        "seconds": spent,
        "batches": done,
        "val": history[-1]["val"] if history else 0.0,
        "test": accuracy(model, feed, "test"),
        "peak_mib": int(status.partition("VmHWM:")[2].split()[0]) / 1024,
        "history": history,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Time until an accuracy.")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--sets", nargs="+", choices=PLANS, default=list(PLANS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--minutes", type=float, default=6.0, help="of training, a run")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        tune(threads=args.threads)
        name, library, seed = args.child
        print(json.dumps(run(name, library, int(seed), args.minutes)))
        return
    result: dict[str, Any] = {
        "benchmark": "time_to_accuracy",
        "machine": describe("torch", "spikingjelly", threads=args.threads),
        "plans": PLANS,
        "results": [],
    }
    if args.out and args.out.exists():
        result["results"] = json.loads(args.out.read_text())["results"]
    finished = {(r["set"], r["library"], r["seed"]) for r in result["results"]}
    for name in args.sets:
        for seed in args.seeds:
            for library in LIBRARIES:
                if (name, library, seed) in finished:
                    continue
                command = [sys.executable, __file__, "--child", name, library, str(seed)]
                command += ["--minutes", str(args.minutes), "--threads", str(args.threads)]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                row = json.loads(done.stdout.splitlines()[-1])
                result["results"].append(row)
                print(
                    f"{name} {library} seed {seed}: {row['val']:.2f} % after {row['seconds']:.0f} s, test "
                    f"{row['test']:.2f} %, peak {row['peak_mib']:.0f} MiB"
                    + ("" if row["reached"] else f"  ({row['target']:.0f} % not reached)"),
                    flush=True,
                )
                if args.out:
                    args.out.parent.mkdir(parents=True, exist_ok=True)
                    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
