"""Errors of recipes, plans, data and runs."""

from __future__ import annotations

import hashlib
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from error_cases import (
    DATA,
    PLANS,
    RECIPES,
    RUNS,
    case,
    full_disk,
)
from torch import nn

import picojoule
from picojoule import compress, data, learn
from picojoule.data import places

# -- recipes and models --------------------------------------------------------------------------------


@case(RECIPES, "An unknown field in a recipe.", "Write the field suggested.")
def _(folder: Path) -> None:
    learn.load_recipe("digits_vgg", ["train.epoch=3"])


@case(RECIPES, "A value out of range.", "Write a value that is allowed.")
def _(folder: Path) -> None:
    learn.load_recipe("digits_vgg", ["train.lr=-1"])


@case(RECIPES, "A setting on the command line that cannot be read.", "Write `section.field=value`.")
def _(folder: Path) -> None:
    learn.load_recipe("digits_vgg", ["epochs:3"])


@case(RECIPES, "An unknown recipe.", "`pj list recipes` names them; a file of your own ends in .yaml.")
def _(folder: Path) -> None:
    learn.load_recipe("digit_vgg")


@case(RECIPES, "An unknown model.", "`pj list models` names them.")
def _(folder: Path) -> None:
    picojoule.create_model("sdt_v3_digit")


@case(RECIPES, "An unknown argument of a model.", "`model.args` of a recipe holds constructor arguments.")
def _(folder: Path) -> None:
    picojoule.create_model("spiking_vgg_digits", num_class=10)


@case(RECIPES, "An unknown neuron.", "`pj list neurons` names them.")
def _(folder: Path) -> None:
    picojoule.create_model("spiking_vgg_digits", neuron="liff")


# -- plans ---------------------------------------------------------------------------------------------


def plan(text: str) -> compress.CompressPlan:
    return compress.CompressPlan.from_yaml(f"rules: [{text}]\n")


@case(
    PLANS, "A plan that names a layer the model does not have.", "Patterns are module paths with `*` and `?`."
)
def _(folder: Path) -> None:
    model = picojoule.create_model("spiking_vgg_tiny")
    compress.compress_(model, plan("{match: features.0.convs, weights: {method: lsq, bits: 4}}"))


@case(PLANS, "Bits out of range.", "Choose the method that has these bits.")
def _(folder: Path) -> None:
    plan("{match: '*', weights: {method: lsq, bits: 12}}")


@case(PLANS, "An unknown field.", "Write the field suggested.")
def _(folder: Path) -> None:
    plan("{match: '*', weight: {method: lsq}}")


@case(PLANS, "An unknown method.", "`pj list quantizers` names them.")
def _(folder: Path) -> None:
    plan("{match: '*', weights: {method: lqs}}")


@case(PLANS, "A ratio that removes every channel.", "Keep a part.")
def _(folder: Path) -> None:
    plan("{match: '*', prune: {ratio: 1.0}}")


@case(
    PLANS, "Pruning that would empty a small layer.", "Lower the ratio of this layer with a rule of its own."
)
def _(folder: Path) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(64, 10))
    compress.compress_(model, plan("{match: '0', prune: {ratio: 0.9}}"), torch.rand(2, 1, 8, 8))


@case(PLANS, "A layer that is quantized already.", "Take the old quantizers off first.")
def _(folder: Path) -> None:
    model = picojoule.create_model("spiking_vgg_tiny")
    compress.compress_(compress.compress_(model, compress.preset("w4")), compress.preset("w1"))


@case(PLANS, "An unknown preset.", "`pj list presets` names them.")
def _(folder: Path) -> None:
    compress.preset("w5")


# -- data ----------------------------------------------------------------------------------------------


def images(y: np.ndarray, count: int | None = None) -> data.ImageSet:
    x = np.zeros((len(y) if count is None else count, 1, 4, 4), np.uint8)
    read = lambda: data.Parts(x, y, x, y)  # noqa: E731
    return data.ImageSet("mine", "My set", ("no", "yes"), (1, 4, 4), "me", "CC0", read)


@case(DATA, "An unknown data set.", "`pj list data` names them.")
def _(folder: Path) -> None:
    data.load("fashion_mnist")


@case(
    DATA,
    "A data set that is in none of the places.",
    "Do what the message says; [Data](data.md) lists the places.",
)
def _(folder: Path) -> None:
    data.load("mnist", root=folder).train.x  # noqa: B018


@case(DATA, "Labels out of range.", "Labels count from 0, in the order of `classes`.")
def _(folder: Path) -> None:
    images(np.arange(40) % 3).train.y  # noqa: B018


@case(DATA, "An empty split.", "Look whether the reader found its files.")
def _(folder: Path) -> None:
    images(np.zeros(0, np.int64)).train.y  # noqa: B018


@case(DATA, "Too few samples to hold some out for validation.", "Give more samples.")
def _(folder: Path) -> None:
    images(np.arange(4) % 2).val.y  # noqa: B018


@case(DATA, "A file with another checksum than the published one.", "Delete it and fetch it again.")
def _(folder: Path) -> None:
    file = folder / "train-images.gz"
    file.write_bytes(b"not these bytes")
    places.verify(file, hashlib.sha256(b"these bytes").hexdigest())


@case(DATA, "Event frames with other steps than the recipe's T.", "Say T once: in `data.options.steps`.")
def _(folder: Path) -> None:
    from picojoule.learn.setup import prepare

    events = images(np.arange(40) % 2)
    frames = data.ImageSet(
        "mine", "My events", events.classes, (6, 2, 4, 4), "me", "CC0",
        lambda: data.Parts(*(np.zeros((40, 6, 2, 4, 4), np.uint8), np.arange(40) % 2) * 2), steps=6,
    )  # fmt: skip
    recipe = learn.make_recipe({"model": {"name": "spiking_vgg_events", "T": 4}, "data": {"name": "mine"}})
    prepare(recipe, frames)


# -- runs ----------------------------------------------------------------------------------------------

SHORT = ["train.epochs=0", "data.limit=64"]


@case(RUNS, "A folder that holds a run already.", "`--resume` goes on; `--out` names another folder.")
def _(folder: Path) -> None:
    recipe = learn.load_recipe("digits_vgg", SHORT)
    learn.train(recipe, folder / "run", quiet=True)
    learn.Trainer(recipe, folder / "run", quiet=True)


@case(
    RUNS,
    "Resuming with other settings.",
    "A resumed run equals one that was never interrupted, or is refused.",
)
def _(folder: Path) -> None:
    learn.train(learn.load_recipe("digits_vgg", SHORT), folder / "run", quiet=True)
    recipe = learn.load_recipe("digits_vgg", [*SHORT, "train.lr=0.1"])
    learn.Trainer(recipe, folder / "run", resume=True, quiet=True)


@case(RUNS, "A start from nothing.", "Name the folder of a finished run.")
def _(folder: Path) -> None:
    learn.Trainer(
        learn.load_recipe("digits_vgg", [*SHORT, f"start={folder / 'old'}"]), folder / "run", quiet=True
    )


@case(RUNS, "Weights of another architecture.", "Use the model that made them, with the same arguments.")
def _(folder: Path) -> None:
    learn.train(learn.load_recipe("digits_vgg", SHORT), folder / "old", quiet=True)
    recipe = learn.load_recipe("digits_sdt_v3", [*SHORT, f"start={folder / 'old'}"])
    learn.Trainer(recipe, folder / "run", quiet=True)


@case(RUNS, "A damaged checkpoint.", "An older one, or `best.safetensors` of the same run, may be whole.")
def _(folder: Path) -> None:
    path = folder / "last.safetensors"
    path.write_bytes(b"\x40" + bytes(63))
    learn.load_checkpoint(path)


@case(
    RUNS,
    "The disk is full at a checkpoint. The older checkpoint is whole.",
    "Free space, and go on with `--resume`.",
)
def _(folder: Path) -> None:
    with full_disk():
        learn.save_checkpoint(folder / "last.safetensors", {"step": 3})


@case(RUNS, "The loss is no number. No weight has changed.", "Do what the message says.")
def _(folder: Path) -> None:
    recipe = learn.load_recipe("digits_vgg", ["train.epochs=1", "data.limit=64", "train.rule=bptt"])
    trainer = learn.Trainer(recipe, folder / "run", quiet=True)
    trainer.criterion = lambda out, y: out.sum() * float("nan")
    trainer.fit()


@case(RUNS, "Compressing a folder that holds no finished run.", "Train it to the end first.")
def _(folder: Path) -> None:
    from picojoule.cli.train import compressed_recipe

    compressed_recipe(folder / "nothing", "w1", [])


@case(RUNS, "An optional package is absent.", "Install the extra named.")
def _(folder: Path) -> None:
    from picojoule.data.augment import RandAugment

    with mock.patch.dict(
        "sys.modules", {f"kornia{part}": None for part in ("", ".augmentation", ".augmentation.auto")}
    ):
        RandAugment(2, 9)(torch.rand(2, 3, 8, 8), torch.zeros(2), torch.Generator())
