"""The queue of trainings behind the table of twins: spiking nets, their 4- and 1-bit forms, and ANN twins.

A twin is the same architecture with ReLU in the place of every neuron, one step, trained with the same
settings. Every job gets a share of the time that is left; its epochs follow from a measured step. So these
are budgeted trainings with one seed, and the report says how many images each network saw.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import nn

import picojoule
from picojoule import deploy, graph
from picojoule.cli.road import INPUT_FRAC, open_run, raw_inputs, with_bytes
from picojoule.graph import reference
from picojoule.learn import Trainer, make_recipe
from picojoule.learn.feed import Feed
from picojoule.learn.setup import Task, make_model, prepare

PARTS = ("float", "w4", "w1", "ann")
SIZES = {"fashion": 28, "cifar10": 32}
DATA: dict[str, dict[str, Any]] = {
    "fashion": {"name": "fashion-mnist", "batch": 64, "augment": {"flip": True}},
    "cifar10": {"name": "cifar10-10k", "batch": 50, "augment": {"crop": 4, "flip": True}},
}
TRAIN: dict[str, Any] = {"lr": 0.002, "ema": 0.99, "weight_decay": 0.02, "loss": {"label_smoothing": 0.05}}
GATE = 500  # validation images that choose the grid
PARITY = 100  # test images on which the engine is compared with the reference interpreter


@dataclass(frozen=True)
class Job:
    """One training: network, data, part of `PARTS`, and its share of the time."""

    net: str
    data: str
    part: str
    weight: float

    @property
    def base(self) -> str:
        """Folder of the float run."""
        return f"{self.data}_{self.net}"

    @property
    def name(self) -> str:
        """Folder of this run."""
        return self.base if self.part == "float" else f"{self.base}_{self.part}"

    @property
    def model(self) -> str:
        """Registered name of the network."""
        stem = "spiking_vgg" if self.net == "vgg" else self.net
        return f"{stem}_{SIZES[self.data]}"


def queue() -> list[Job]:
    """All jobs, the most wanted first; weights are relative."""
    order = (
        ("vgg", "cifar10", 240),
        ("vgg", "fashion", 200),
        ("sdt_v3", "fashion", 130),
        ("ms_resnet", "cifar10", 200),
        ("sdt_v1", "fashion", 170),
        ("ms_resnet", "fashion", 120),
        ("sdt_v3", "cifar10", 200),
        ("sdt_v1", "cifar10", 240),
    )
    jobs = []
    for net, data, weight in order:
        ann = weight * (0.25 if net == "sdt_v1" else 0.9)
        shares = {"float": weight, "w1": weight / 3, "w4": weight / 3, "ann": ann}
        jobs += [Job(net, data, part, share) for part, share in shares.items()]
    return jobs


def networks() -> list[Job]:
    """The float job of each network of the table."""
    nets = ("vgg", "ms_resnet", "sdt_v1", "sdt_v3")
    return [Job(net, data, "float", 0) for data in DATA for net in nets]


def values(job: Job, epochs: int, limit: int | None, runs: Path) -> dict[str, Any]:
    """The recipe as plain values."""
    tuned = job.part in ("w4", "w1")
    train = {**TRAIN, "epochs": epochs, "warmup_epochs": 0.1 * epochs}
    if tuned:
        train["lr"] = TRAIN["lr"] / 2
    return {
        "name": job.name,
        "model": {"name": job.model},
        "data": {**DATA[job.data], "limit": limit},
        "train": train,
        "compress": job.part if tuned else None,
        "start": str(runs / job.base) if tuned else None,
        "notes": "budgeted training of the engine benchmark, one seed",
    }


def ann_model(recipe: Any, classes: int, channels: int) -> nn.Module:
    """The recipe's architecture with ReLU instead of neurons and one step."""
    args = {**recipe.model.args, "T": 1, "neuron": lambda T: nn.ReLU()}
    model = recipe.model.model_copy(update={"args": args})
    return make_model(recipe.model_copy(update={"model": model}), classes, channels)


def task_of(recipe: Any, part: str) -> Task:
    """Data and model of a recipe; for "ann" the twin."""
    task = prepare(recipe)
    if part == "ann":
        task.model = ann_model(recipe, len(task.data.classes), task.data.train.x.shape[1])
    return task


def step_seconds(task: Task, recipe: Any) -> float:
    """Wall seconds of a training step on this machine as it is now."""
    model = task.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    batches = Feed(task.data, recipe).train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-6)
    spent = []
    for _, (x, y) in zip(range(7), batches, strict=False):
        began = time.perf_counter()
        loss = task.criterion(model(x.contiguous(memory_format=torch.channels_last)), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        spent.append(time.perf_counter() - began)
    return float(np.mean(spent[2:]))


def length(job: Job, seconds: float, runs: Path) -> tuple[int, int | None]:
    """Epochs and images an epoch that fit into `seconds`; a twin takes those of its float run."""
    base = runs / job.base / "config.yaml"
    if job.part == "ann" and base.is_file():
        found = yaml.safe_load(base.read_text())
        return found["train"]["epochs"], found["data"]["limit"]
    recipe = make_recipe(values(job, 1, None, runs))
    task = task_of(recipe, job.part)
    cost = step_seconds(task, recipe)
    batch, images = recipe.data.batch, len(task.data.train)
    steps = max(20, int(seconds / cost))
    epochs = steps * batch / images
    return (round(epochs), None) if epochs >= 1.5 else (1, min(images, steps * batch))


def run_job(job: Job, runs: Path, seconds: float) -> None:
    """Train, or go on with, one job; a quantized one is packed afterwards."""
    folder = runs / job.name
    torch.set_num_threads(1)
    picojoule.tune()
    if not (folder / "result.json").is_file():
        if (folder / "config.yaml").is_file():
            recipe = make_recipe(yaml.safe_load((folder / "config.yaml").read_text()))
        else:
            recipe = make_recipe(values(job, *length(job, seconds, runs), runs))
        task = task_of(recipe, job.part)
        result = Trainer(recipe, folder, resume=True, quiet=True, task=task).fit()
        print(job.name, result.epochs, "epochs", result.steps, "steps", result.test_accuracy, flush=True)
    if job.part in ("w4", "w1") and not (folder / "packed.json").is_file():
        print(job.name, pack_quickly(folder), flush=True)


def pack_quickly(folder: Path) -> dict[str, Any]:
    """Choose the grid, write the file, and compare it with model and reference on the test split."""
    run = open_run(folder)
    x, y = run.samples("val", GATE)
    base = graph.Grid(input_frac=INPUT_FRAC)
    result = graph.pack(run.model, x, y, base=base, budget_s=8.0, gate=0.5, progress=False)
    snapped = with_bytes(run, result.graph)
    path = folder / f"{folder.name}.pj"
    deploy.write(path, snapped, {**result.card, "name": folder.name})
    engine = deploy.load(path, threads=1)
    raw, labels = raw_inputs(run)
    answers = engine.predict(np.ascontiguousarray(raw))
    got, want = engine(np.ascontiguousarray(raw[:PARITY])), reference.run(snapped, raw[:PARITY])
    integers = got if isinstance(got, np.ndarray) else next(iter(got.values()))
    key, frac = snapped.outputs[0].key, snapped.outputs[0].edge.kind.frac
    figures = {
        "accuracy_packed": 100 * float((answers == labels).mean()),
        "samples": len(labels),
        "parity": bool(np.array_equal(integers, np.asarray(want[key]) / 2.0**frac)),
        "parity_samples": PARITY,
        "payload_bytes": deploy.payload_bytes(snapped),
        "paper_bytes": result.card["paper_bytes"],
        "file_bytes": path.stat().st_size,
        "pack": result.figures,
    }
    (folder / "packed.json").write_text(json.dumps(figures))
    return {k: v for k, v in figures.items() if k != "pack"}
