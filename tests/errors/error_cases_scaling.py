"""Errors of memory, several processes, learning rules and `pj doctor`."""

from __future__ import annotations

import os
from pathlib import Path
from unittest import mock

import torch
from error_cases import case
from torch import nn

import picojoule
from picojoule import learn, neurons, timeline
from picojoule.layers import EventLimits
from picojoule.learn.feed import Feed
from picojoule.learn.losses import TET
from picojoule.learn.parallel import Workers
from picojoule.learn.setup import load_data
from picojoule.lint.loading import load_model

SECTION = "Memory, processes and rules"


class TwoProcesses(Workers):
    """What a run sees of two processes that shard; there is no group."""

    def __init__(self, *_: object) -> None:
        super().__init__("ddp", "no", 1)
        self.sharded = True


@case(SECTION, "A batch that cannot be divided over the processes.", "`data.batch` is that of all processes.")
def _(folder: Path) -> None:
    recipe = learn.load_recipe("digits_vgg", ["data.batch=31"])
    Feed(load_data(recipe), recipe, rank=0, world=2)


@case(SECTION, "Fewer samples than processes.", "Start fewer processes.")
def _(folder: Path) -> None:
    recipe = learn.load_recipe("digits_vgg", ["data.batch=8", "data.limit=3"])
    Feed(load_data(recipe), recipe, rank=0, world=4)


@case(SECTION, "`accelerate launch --use_fsdp`.", "[Scaling](scaling.md) says how to shard.")
def _(folder: Path) -> None:
    with mock.patch.dict(os.environ, {"ACCELERATE_USE_FSDP": "true"}):
        Workers("ddp", "no", 1)


@case(SECTION, "Sharding together with recomputation by time.", "Recompute by block.")
def _(folder: Path) -> None:
    with mock.patch("picojoule.learn.loop.Workers", TwoProcesses):
        settings = ["train.parallel=fsdp2", "train.checkpoint=time"]
        learn.Trainer(learn.load_recipe("digits_vgg", settings), folder / "run", quiet=True)


@case(
    SECTION,
    "Recomputation by time while BatchNorm trains, in a network without blocks.",
    "[Memory](memory.md) says what `time` is for.",
)
def _(folder: Path) -> None:
    layers = (timeline.Entry(4), nn.Linear(4, 4), nn.BatchNorm1d(4), neurons.LIF(4))
    learn.checkpoint_(nn.Sequential(*layers), "time")


@case(SECTION, "Recomputation by block in a network without blocks.", "Name them by path.")
def _(folder: Path) -> None:
    learn.checkpoint_(nn.Linear(4, 4), "block")


@case(SECTION, "A loss over all steps with a rule that sees one at a time.", "Choose one of the two.")
def _(folder: Path) -> None:
    settings = ["train.rule=sltt", "train.loss.name=tet"]
    learn.Trainer(learn.load_recipe("digits_vgg", settings), folder / "run", quiet=True)


@case(SECTION, "TET on logits that are averaged over time.", "Let the network end in `timeline.Readout`.")
def _(folder: Path) -> None:
    TET()(torch.zeros(8, 10), torch.zeros(8, dtype=torch.long))


@case(SECTION, "A density that is none, for event kernels.", "A share between 0 and 1.")
def _(folder: Path) -> None:
    picojoule.spike_aware_(nn.Linear(8, 8), limits=EventLimits(forward=30))


@case(SECTION, "An estimate of no steps.", "Leave `steps` out, or give more.")
def _(folder: Path) -> None:
    from picojoule.learn.estimate import estimate

    estimate(learn.load_recipe("digits_vgg"), steps=0)


@case(SECTION, "`pj doctor` with a name that the file does not have.", "Write the name suggested.")
def _(folder: Path) -> None:
    file = folder / "model.py"
    file.write_text("from torch import nn\nnet = nn.Linear(2, 2)\n")
    load_model(file, "nett")


@case(SECTION, "`pj doctor` with a class whose arguments it cannot know.", "Name a function that makes one.")
def _(folder: Path) -> None:
    file = folder / "model.py"
    file.write_text("def net(width):\n    return width\n")
    load_model(file, "net")
