"""From a recipe to a model and data, with every check that can be made before training starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from picojoule import data as datasets
from picojoule import timeline
from picojoule.compress import CompressPlan, compress_, preset
from picojoule.core.errors import CheckpointError, ConfigError, DataError
from picojoule.layers import spike_aware_
from picojoule.learn.checkpoint import load_checkpoint, load_weights
from picojoule.learn.config import Recipe
from picojoule.learn.feed import as_arrays
from picojoule.learn.losses import TET, CrossEntropy
from picojoule.models import create_model


@dataclass
class Task:
    """Everything a run needs: data splits, model, loss, and the plan that was applied."""

    data: Any
    model: nn.Module
    criterion: nn.Module
    plan: CompressPlan | None
    recipe: Recipe


def load_data(recipe: Recipe) -> Any:
    """The recipe's data set; digits may name one of five folds."""
    d = recipe.data
    if d.fold is not None:
        if d.name != "digits":
            raise ConfigError(f"data.fold belongs to the data set 'digits', not to {d.name!r}")
        return datasets.digits_fold(d.fold)
    return datasets.load(d.name, root=d.root, download=d.download)


def make_plan(recipe: Recipe) -> CompressPlan | None:
    """The compression plan of a recipe: a preset's name, a plan written out, or None."""
    if recipe.compress is None:
        return None
    if isinstance(recipe.compress, str):
        return preset(recipe.compress)
    return CompressPlan.from_dict(recipe.compress)


def make_model(recipe: Recipe, classes: int, channels: int, steps: int | None = None) -> nn.Module:
    """The float model of a recipe, with freshly seeded weights."""
    torch.manual_seed(recipe.seed)
    args = dict(recipe.model.args)
    args.setdefault("num_classes", classes)
    args.setdefault("in_channels", channels)
    T = recipe.model.T
    if T is not None:
        args["T"] = T
    if steps is not None:
        args.setdefault("mode", "frames")
        if T is not None and steps != T:
            raise ConfigError(
                f"model.T={T} but the data has {steps} steps; set model.T={steps} or the data's options.T={T}"
            )
        args["T"] = steps
    return create_model(recipe.model.name, **args)


def start_weights(path_text: str) -> tuple[dict[str, Tensor], str]:
    """Weights to start from: a run folder or a checkpoint file."""
    path = Path(path_text)
    if path.is_dir():
        path = path / "weights.safetensors"
    if not path.exists():
        raise CheckpointError(f"start: nothing at {path}; name a finished run's folder or a checkpoint file")
    state = load_checkpoint(path)
    return state["model"], str(path)


def prepare(recipe: Recipe, data: Any = None) -> Task:
    """Load the data, build the model, load start weights, attach compression; check all of it.

    Raises:
        ConfigError, DataError, CheckpointError: what is wrong and what to write instead.
    """
    data = as_arrays(load_data(recipe) if data is None else data, recipe.data.options)
    sample = data.train.x.shape[1:]
    steps = getattr(data, "steps", None)
    classes = len(data.classes)
    channels = sample[1] if steps is not None else sample[0]
    plan = make_plan(recipe)
    model = make_model(recipe, classes, channels, steps)
    if recipe.start is not None:
        weights, origin = start_weights(recipe.start)
        load_weights(model, weights, origin)
    if plan is not None:
        compress_(model, plan, torch.zeros(2, *sample))
    if recipe.train.spike_aware:
        spike_aware_(model)
    _check_outputs(model, torch.zeros(2, *sample), classes)
    loss = recipe.train.loss
    criterion: nn.Module = (
        TET(loss.tet_lambda, loss.tet_means, loss.label_smoothing)
        if loss.name == "tet"
        else CrossEntropy(loss.label_smoothing)
    )
    return Task(data, model, criterion, plan, recipe)


@torch.no_grad()
def _check_outputs(model: nn.Module, example: Tensor, classes: int) -> None:
    training = model.training
    try:
        out = model.eval()(example)
    except RuntimeError as error:
        raise DataError(
            f"the model cannot take samples of shape {tuple(example.shape[1:])}: {error}; choose a network "
            "for this kind of data, or other data.options"
        ) from error
    model.train(training)
    if out.shape != (example.shape[0], classes):
        raise DataError(
            f"the model answers {tuple(out.shape)} to {tuple(example.shape)}, the data has {classes} "
            f"classes; expected ({example.shape[0]}, {classes}): set model.args.num_classes"
        )


def set_readouts(model: nn.Module, mode: str) -> list[tuple[timeline.Readout, str]]:
    """Switch all readouts to `mode`; returns what they were, for `restore_readouts`."""
    before = [(m, m.mode) for m in model.modules() if isinstance(m, timeline.Readout)]
    for module, _ in before:
        module.mode = mode
    return before


def restore_readouts(before: list[tuple[timeline.Readout, str]]) -> None:
    """Undo `set_readouts`."""
    for module, mode in before:
        module.mode = mode
