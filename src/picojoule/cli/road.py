"""From a run folder to a packed, checked file: what `pj pack` and `pj demo` share. Imports torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor, nn

from picojoule import deploy, graph
from picojoule.core.errors import ConfigError
from picojoule.graph import reference
from picojoule.graph.nodes import Graph, Input
from picojoule.learn import Recipe, load_checkpoint, load_weights, make_recipe
from picojoule.learn.feed import Feed
from picojoule.learn.setup import Task, prepare

GATE_SAMPLES = 2000
# The first layer is computed on 16-bit inputs either way, and coarser ones flip spikes of its neurons.
INPUT_FRAC = 12


@dataclass
class Run:
    """A finished run, opened: its recipe, data, and model in eval mode with the chosen weights."""

    folder: Path
    recipe: Recipe
    task: Task
    feed: Feed

    @property
    def model(self) -> nn.Module:
        """The trained model."""
        return self.task.model

    def samples(self, split: str, limit: int | None = None) -> tuple[Tensor, Tensor]:
        """Inputs as the model takes them, and labels, of "train", "val" or "test"; without augmentation."""
        xs, ys, seen = [], [], 0
        for x, y in self.feed.evaluation(split):
            xs.append(x)
            ys.append(y)
            seen += len(x)
            if limit is not None and seen >= limit:
                break
        return torch.cat(xs)[:limit], torch.cat(ys)[:limit]


def open_run(folder: Path) -> Run:
    """Open a run folder of `pj train` or `pj compress`.

    Raises:
        ConfigError: the folder holds no finished run.
        CheckpointError: its weights are damaged or belong to another architecture.
    """
    config, weights = folder / "config.yaml", folder / "weights.safetensors"
    if not config.is_file() or not weights.is_file():
        raise ConfigError(f"{folder} is no finished run; train one with `pj train RECIPE --out {folder}`")
    values = yaml.safe_load(config.read_text())
    recipe = make_recipe({**values, "start": None})
    task = prepare(recipe)
    load_weights(task.model, load_checkpoint(weights)["model"], str(weights))
    task.model.eval()
    return Run(folder, recipe, task, Feed(task.data, recipe))


def gate_samples(run: Run) -> tuple[Tensor, Tensor]:
    """Samples that choose the grid: validation, filled up from training to 2000; never the test split."""
    x, y = run.samples("val")
    if len(x) < GATE_SAMPLES:
        more_x, more_y = run.samples("train", GATE_SAMPLES - len(x))
        x, y = torch.cat([x, more_x]), torch.cat([y, more_y])
    return x, y


def byte_table(run: Run, node: Input) -> np.ndarray | None:
    """Integers [C, 256] of an 8-bit image's pixels, or None for inputs that are not images.

    Pixel p stands for the raw value round(p * max_value / 255), normalised as in training.
    """
    data = run.task.data
    shape = node.edge.shape
    if data.steps is not None or len(shape) != 3 or node.edge.kind.name != "fixed":
        return None
    raw = np.floor(np.arange(256) * data.max_value / 255 + 0.5).astype(np.uint8)
    pixels = torch.from_numpy(np.broadcast_to(raw[:, None, None, None], (256, shape[0], 1, 1)).copy())
    values = run.feed.plain(pixels, torch.zeros(256, dtype=torch.long), torch.Generator())[0]
    scaled = np.floor(values.double().numpy() * 2.0**node.edge.kind.frac + 0.5)
    table = np.clip(scaled, node.edge.kind.low, node.edge.kind.high)
    return np.ascontiguousarray(table.reshape(256, shape[0]).T.astype(np.int64))


def with_bytes(run: Run, snapped: Graph) -> Graph:
    """The graph with a table at its input, so that a packed file takes images as they are stored."""
    node = snapped.inputs[0]
    table = byte_table(run, node) if len(snapped.inputs) == 1 and node.table is None else None
    if table is None:
        return snapped
    name = f"{node.name}.table"
    nodes = tuple(replace(n, table=name) if n.name == node.name else n for n in snapped.nodes)
    return snapped.replace(nodes=nodes, tensors={**snapped.tensors, name: table})


def raw_inputs(run: Run, split: str = "test") -> tuple[np.ndarray, np.ndarray]:
    """What a packed file takes for a split: pixels 0..255 for images, else the model's own inputs."""
    part = getattr(run.task.data, split)
    if run.task.data.steps is not None or part.x.ndim != 4:
        x, y = run.samples(split)
        return x.numpy(), y.numpy()
    pixels = np.floor(part.x.astype(np.float64) * 255 / run.task.data.max_value + 0.5).astype(np.uint8)
    return pixels, np.asarray(part.y)


@dataclass
class Packed:
    """A packed run: file, card, snapped graph, and the figures measured on the test split."""

    path: Path
    card: dict[str, Any]
    graph: Graph
    figures: dict[str, Any]


def pack_run(run: Run, path: Path, grid: str | int = "search", progress: bool = True) -> Packed:
    """Choose the grid on validation samples, write the file, and check it on the whole test split.

    Figures: accuracy of the trained model and of the packed file on the test split, agreement of their
    answers; `parity`, True when engine and reference gave the same integers on every test sample;
    `reference_equals_snapped`, True when the snapped model in float64 gives these numbers, too.
    """
    x, y = gate_samples(run)
    base = graph.Grid(input_frac=INPUT_FRAC)
    chosen = grid if isinstance(grid, str) else replace(base, frac=grid)
    result = graph.pack(run.model, x, y, grid=chosen, base=base, progress=progress)
    snapped = with_bytes(run, result.graph)
    figures = check_packed(run, snapped, result.model)
    data, recipe = run.task.data, run.recipe
    card = {
        **result.card,
        "name": recipe.name,
        "about": f"{recipe.model.name} on {data.part}",
        "classes": list(data.classes),
        "data": {"name": data.name, "part": data.part, "licence": data.licence, "source": data.source},
        "recipe": recipe.to_dict(),
        "test": figures,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    deploy.write(path, snapped, card)
    return Packed(path, card, snapped, figures)


@torch.no_grad()
def check_packed(run: Run, snapped: Graph, model: nn.Module) -> dict[str, Any]:
    """Test split: trained model, snapped model in float64, reference interpreter and engine side by side."""
    from picojoule.deploy.engine import Engine

    x, y = run.samples("test")
    trained = torch.cat([run.model(part) for part in x.split(250)]).argmax(1).numpy()
    raw, labels = raw_inputs(run)
    engine = Engine(snapped)
    model = model.double().eval()
    key, frac = snapped.outputs[0].key, snapped.outputs[0].edge.kind.frac
    same, exact, packed = True, True, []
    for start in range(0, len(raw), 250):
        part = raw[start : start + 250]
        ints = engine(part)
        expected = reference.run(snapped, part)
        same = same and all(np.array_equal(np.asarray(expected[k]), v) for k, v in ints.items())
        real = model(x[start : start + 250].double())
        real = (real[key] if isinstance(real, dict) else real).numpy()
        exact = exact and np.array_equal(real * 2.0**frac, np.asarray(expected[key]))
        packed.append(ints[key].argmax(1))
    answers = np.concatenate(packed)
    return {
        "samples": len(y),
        "accuracy_trained": 100 * float((trained == y.numpy()).mean()),
        "accuracy_packed": 100 * float((answers == labels).mean()),
        "agreement": 100 * float((answers == trained).mean()),
        "parity": bool(same),
        "reference_equals_snapped": bool(exact),
    }
