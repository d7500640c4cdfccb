"""Errors of time, neurons, capturing and packing."""

from __future__ import annotations

from pathlib import Path

import torch
from error_cases import (
    CAPTURE,
    GOLDEN,
    TIME,
    Net,
    case,
    full_disk,
)
from torch import Tensor, nn

import picojoule
from picojoule import deploy, graph
from picojoule.neurons import LIF, PSN, Membrane, from_step

# -- time and neurons ----------------------------------------------------------------------------------


@case(
    TIME, "The data has another number of steps than the model.", "Cut or pad the data, or change the model."
)
def _(folder: Path) -> None:
    Net(mode="frames")(torch.rand(2, 6, 8))


@case(
    TIME,
    "A neuron gets rows that are no whole number of steps: usually data that nobody folded.",
    "Put a `timeline.Entry` at the front of the model, or fold the sequence yourself.",
)
def _(folder: Path) -> None:
    nn.Sequential(nn.Linear(8, 8), LIF(T=4))(torch.rand(6, 8))


@case(TIME, "A stream over a model in which a module looks at later steps.", "Use a causal module.")
def _(folder: Path) -> None:
    picojoule.stream(Net(PSN(T=4)))


@case(
    TIME,
    "The next chunk of a stream holds another number of samples.",
    "State belongs to samples. Start a stream for each batch, or `reset()` the one you have.",
)
def _(folder: Path) -> None:
    stream = picojoule.stream(Net())
    stream(torch.rand(2, 8), T=1)
    stream(torch.rand(5, 8), T=1)


@case(
    TIME,
    "Other steps for a model with parameters of shape T.",
    "Build the model anew; its weights for the old T mean nothing for the new one.",
)
def _(folder: Path) -> None:
    picojoule.set_steps(Net(PSN(T=4)), 8)


@case(
    TIME,
    "NaN in a current while anomaly detection is on (`train.detect_anomaly=true` in a recipe).",
    "The module named is the first neuron that saw it, so the fault lies between it and the neuron before.",
)
def _(folder: Path) -> None:
    model = Net()
    with torch.no_grad():
        model.first.weight[0, 0] = float("nan")
    with torch.autograd.set_detect_anomaly(True):
        model(torch.rand(2, 8))


# -- capturing and packing -----------------------------------------------------------------------------


class Mixing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(8, -1, 8).mean(1)


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.sum() > 3 else x


@case(CAPTURE, "A model that fixes the batch.", "Keep the leading axis free in the line named.")
def _(folder: Path) -> None:
    picojoule.capture(Net(Mixing()), torch.rand(2, 8))


@case(
    CAPTURE,
    "A model whose path depends on the values of a tensor.",
    "Compute both ways and choose with `torch.where`, or keep the decision outside the model.",
)
def _(folder: Path) -> None:
    picojoule.capture(Net(Branching()), torch.rand(2, 8))


@case(CAPTURE, "Packing a model with an operator that has no integer form.", "Do what the line says.")
def _(folder: Path) -> None:
    picojoule.pack(Net(nn.Sequential(nn.LayerNorm(8), nn.GELU())).eval(), torch.rand(20, 8), progress=False)


@case(
    CAPTURE,
    "Packing a neuron that has no constants.",
    "[Your own neuron](your-own-neuron.md) shows `lower()`.",
)
def _(folder: Path) -> None:
    def step(x: Tensor, state: Membrane) -> tuple[Tensor, Membrane]:
        s = (x + state.v >= 1).to(x.dtype)
        return s, Membrane(torch.tanh(x + state.v) - s)

    neuron = from_step(step, lambda x0: Membrane(torch.zeros_like(x0)), T=4, name="tanh_if")
    graph.require_packable(picojoule.capture(Net(neuron), torch.rand(2, 8)))


@case(CAPTURE, "A neuron emits other values than its kind says.", "Declare the kind that it has.")
def _(folder: Path) -> None:
    half = from_step(lambda x, state: ((x > 0) * 0.5, state), lambda x0: Membrane(x0), name="half")
    graph.check_kinds(picojoule.capture(Net(half), torch.rand(2, 8)), torch.rand(20, 8) * 9)


@case(
    CAPTURE,
    "Packing without samples.",
    "Give samples as the model takes them; 2,000 or more, never the test split.",
)
def _(folder: Path) -> None:
    picojoule.pack(Net(), torch.rand(0, 8), progress=False)


@case(CAPTURE, "A grid beyond its limits.", "16 fraction bits agree with any trained net that was tried.")
def _(folder: Path) -> None:
    graph.Grid(frac=40)


@case(
    CAPTURE,
    "The disk is full while a packed file is written. The older file of that name is whole.",
    "Free space, or write elsewhere.",
)
def _(folder: Path) -> None:
    integers, card = deploy.read(GOLDEN)
    with full_disk():
        deploy.write(folder / "net.pj", integers, card)
