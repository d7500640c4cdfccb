"""Firing rates and open surrogate windows of real training, layer by layer, for whole_step.py to replay.

    python benchmarks/train/rates.py [--out FILE.json] [--nets resnet18 vgg11 sdt_v1 sdt_v3] [--minutes 25]
        [--batch 32] [--surrogate rect] [--threads 1] [--run FOLDER]

The networks of whole_step.py (LIF, tau 2, hard detached reset, T = 4) are trained on the part of CIFAR-10
with 10,000 images, mirrored and cropped, with AdamW at 1e-3 (a tenth of an epoch warm, then constant) until
the minutes are over. Every fourth step each neuron's firing rate is taken, and the share of membranes inside
the window of its surrogate. `epoch 1` is the mean over the first epoch as far as it got, `late` over the last
tenth of a run of one and a half or more, and no less than 20 records; each says which steps and images it
covers. `curve` holds [step, rate, open share], means over the layers. The file is written as the run goes.

--run FOLDER takes `late` of the one net of --nets from a finished run of `pj train` instead: its weights on
20 batches of its training data.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from machine import describe
from whole_step import NETS, lif

import picojoule
from picojoule import data as datasets
from picojoule.core.tune import tune
from picojoule.layers import EventLimits
from picojoule.learn import load_checkpoint, make_recipe
from picojoule.learn.feed import Feed
from picojoule.learn.setup import prepare
from picojoule.neurons import LIF
from picojoule.neurons.open_window import window_of
from picojoule.neurons.surrogate import get

SET = "cifar10-10k"
EVERY, LEAST = 4, 20
LR = 1e-3


class Recorder:
    """Firing rate and open share of every neuron of a model in the steps that are asked for."""

    def __init__(self, model: nn.Module) -> None:
        self.names = [name for name, m in model.named_modules() if isinstance(m, LIF)]
        self.on = False
        self.fired: dict[str, float] = {}
        self.opened: dict[str, float] = {}
        for name, module in model.named_modules():
            if isinstance(module, LIF):
                module.register_forward_hook(self._note(name))

    def _note(self, name: str) -> Any:
        def note(_: nn.Module, __: Any, out: Tensor) -> None:
            if not self.on:
                return
            self.fired[name] = float(out.detach().mean())
            window = window_of(out, 1) or window_of(out, -1)
            if window is not None:
                self.opened[name] = window.rate

        return note

    def take(self) -> tuple[list[float], list[float]]:
        """Rates and shares in module order, of the step that has just run."""
        return [self.fired[n] for n in self.names], [self.opened[n] for n in self.names if n in self.opened]


def mean(rows: list[dict[str, Any]], batch: int) -> dict[str, Any]:
    """One phase: the mean of some records."""
    count = len(rows)
    columns = {key: [r[key] for r in rows] for key in ("fired", "opened")}
    return {
        "steps": [rows[0]["step"], rows[-1]["step"]],
        "epoch": round(rows[-1]["epoch"], 2),
        "images": rows[-1]["step"] * batch,
        "loss": round(sum(r["loss"] for r in rows) / count, 4),
        "train_accuracy": round(sum(r["right"] for r in rows) / count, 2),
        **{
            key: [round(sum(column) / count, 5) for column in zip(*values)] for key, values in columns.items()
        },
    }


def phases(records: list[dict[str, Any]], batch: int, names: list[str]) -> dict[str, Any]:
    """What the file keeps of a run."""
    first = [r for r in records if r["epoch"] <= 1]
    late = records[-max(len(records) // 10, LEAST) :]
    curve = [
        [r["step"], round(sum(r["fired"]) / len(r["fired"]), 4), round(sum(r["opened"]) / len(names), 4)]
        for r in records[:: max(len(records) // 40, 1)]
    ]
    made = {"layers": names, "epoch 1": mean(first, batch), "curve": curve}
    return made | ({"late": mean(late, batch)} if records[-1]["epoch"] > 1.5 else {})


def train(net: str, args: argparse.Namespace) -> Any:
    """Train for the minutes; yields the phases after every twentieth record."""
    recipe = {"model": {"name": "spiking_vgg"}, "seed": 0}
    section = {"name": SET, "batch": args.batch, "augment": {"flip": True, "crop": 4}}
    feed = Feed(datasets.load(SET), make_recipe({**recipe, "data": section}))
    torch.manual_seed(0)
    model = NETS[net](neuron=lif(args.surrogate), T=4).train()
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    picojoule.spike_aware_(model, limits=EventLimits(input=1.0))  # every window is published
    recorder = Recorder(model)
    optimizer = torch.optim.AdamW(model.parameters(), LR, weight_decay=0.05)
    records: list[dict[str, Any]] = []
    step, until = 0, time.monotonic() + 60 * args.minutes
    while time.monotonic() < until:
        for x, y in feed.train():
            for group in optimizer.param_groups:
                group["lr"] = LR * min(1.0, (step + 1) / (0.1 * feed.batches))
            recorder.on = step % EVERY == 0
            out = model(x.contiguous(memory_format=torch.channels_last))
            loss = F.cross_entropy(out, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if recorder.on:
                fired, opened = recorder.take()
                right = 100 * float((out.argmax(1) == y).float().mean())
                told = {
                    "step": step,
                    "epoch": step / feed.batches,
                    "loss": float(loss.detach()),
                    "right": right,
                }
                records.append({**told, "fired": fired, "opened": opened})
                if len(records) % 5 == 0:
                    yield phases(records, args.batch, recorder.names)
            step += 1
            if time.monotonic() >= until:
                break
        else:
            feed.next_epoch()
            continue
    yield phases(records, args.batch, recorder.names)


@torch.no_grad()
def finished(folder: Path, surrogate: str) -> dict[str, Any]:
    """`late` of a run that has ended: its network, data and weights, in training mode."""
    recipe = make_recipe(yaml.safe_load((folder / "config.yaml").read_text()))
    task = prepare(recipe)
    model = task.model.train()
    model.load_state_dict(load_checkpoint(folder / "weights.safetensors")["model"])
    told = json.loads((folder / "result.json").read_text())
    for module in model.modules():
        if isinstance(module, LIF):
            module.rule = replace(module.rule, surrogate=get(surrogate))
    picojoule.spike_aware_(model, limits=EventLimits(input=1.0))  # every window is published
    recorder, feed = Recorder(model), Feed(task.data, recipe)
    recorder.on = True
    records = []
    for step, (x, y) in zip(range(20), feed.train()):
        with torch.enable_grad():  # windows are published with spikes that have a gradient
            out = model(x).detach()
        fired, opened = recorder.take()
        loss = float(F.cross_entropy(out, y)) if y.dim() == 1 else 0.0
        right = 100 * float((out.argmax(1) == y).float().mean())
        told_now = {"step": step, "epoch": told["epochs"], "loss": loss, "right": right}
        records.append({**told_now, "fired": fired, "opened": opened})
    late = mean(records, recipe.data.batch) | {"steps": [told["steps"]] * 2}
    return {"layers": recorder.names, "late": late | {"images": told["steps"] * recipe.data.batch}}


def main() -> None:
    parser = argparse.ArgumentParser(description="Firing rates of real training.")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    parser.add_argument("--minutes", type=float, default=25.0)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--surrogate", default="rect")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--run", type=Path, help="a finished run of the same network")
    args = parser.parse_args()
    if args.run and len(args.nets) != 1:
        parser.error("--run belongs to one network; name it with --nets")
    tune(threads=args.threads)
    result: dict[str, Any] = {"benchmark": "rates", "results": {}}
    if args.out and args.out.exists():
        result = json.loads(args.out.read_text())
    result["machine"] = describe("torch", threads=args.threads)
    settings = {"set": SET, "batch": args.batch, "surrogate": args.surrogate, "optimizer": f"AdamW, {LR}"}
    for net in args.nets:
        for found in [finished(args.run, args.surrogate)] if args.run else train(net, args):
            known = result["results"].get(net, {}) if args.run else settings
            result["results"][net] = {**known, **found}
            late = found.get("late") or found["epoch 1"]
            fired, opened = (sum(late[key]) / len(late[key]) for key in ("fired", "opened"))
            head = {k: v for k, v in late.items() if k not in ("fired", "opened")}
            print(f"{net}: fires {fired:.3f}, open {opened:.3f}, {head}", flush=True)
            if args.out:
                args.out.parent.mkdir(parents=True, exist_ok=True)
                args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
