"""A neuron of your own: first as a step function, then as a class that packs.

    python examples/03_own_neuron.py --epochs 8

The first neuron forgets faster after it has fired. As a step function it trains at once; it has no packed
form, because its decay depends on its state. The second has constants only, so it says what they are, and
packs bit for bit.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

import picojoule
from picojoule import data, deploy
from picojoule.core import kinds
from picojoule.core.errors import PackError
from picojoule.core.spec import NeuronSpec, spec
from picojoule.graph import reference
from picojoule.neurons import Membrane, Neuron, from_step, surrogate
from picojoule.neurons.fire import heaviside
from picojoule.neurons.step import StepNeuron

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=8)
options = parser.parse_args()
arctan = surrogate.get("atan")


# -- 1: a step function --------------------------------------------------------------------------------


class Restless(NamedTuple):
    """Membrane, and the spike of the step before."""

    v: Tensor
    s: Tensor


def forgetful(x: Tensor, state: Restless) -> tuple[Tensor, Restless, Tensor]:
    """h = (0.8 - 0.4 s[t-1]) v + x,  s = [h >= 1],  v = h - s."""
    h = (0.8 - 0.4 * state.s) * state.v + x
    s = heaviside(h - 1, arctan)
    return s, Restless(h - s, s), h


def from_function(T: int) -> Neuron:
    """The step function as a neuron of T steps."""
    return from_step(forgetful, lambda x0: Restless(torch.zeros_like(x0), torch.zeros_like(x0)), T=T)


# -- 2: a class that packs -----------------------------------------------------------------------------


class Costly(StepNeuron):
    """h = 0.8 v + x,  s = [h >= 1],  v = h - cost * s: a spike costs more than its threshold."""

    kind = kinds.binary

    def __init__(self, T: int = 4, cost: float = 1.4) -> None:
        super().__init__(T)
        self.cost = cost

    def begin(self, x0: Tensor) -> Membrane:
        return Membrane(torch.zeros_like(x0))

    def step(self, x: Tensor, state: Membrane) -> tuple[Tensor, Membrane, Tensor]:
        h = 0.8 * state.v + x
        s = heaviside(h - 1, arctan)
        return s, Membrane(h - self.cost * s), h

    def lower(self) -> NeuronSpec:
        return spec(self.kind, decay=0.8, thresholds=1.0, reset="soft", reset_value=self.cost)


# -- both in the same network --------------------------------------------------------------------------


def trained(neuron: object) -> nn.Module:
    """A small network with this neuron, trained on the digits."""
    torch.manual_seed(0)
    digits = data.load("digits")
    model = picojoule.create_model("spiking_vgg_digits", T=4, neuron=neuron)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.005)
    for _ in range(options.epochs):
        for x, y in data.loader(digits.train, 64, train=True, seed=0):
            loss = nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.eval()
    with torch.no_grad():
        x, y = next(iter(data.loader(digits.val, 200, train=False)))
        right = 100 * (model(x).argmax(1) == y).double().mean()
        print(f"{neuron.__name__:14s} {right:.1f} % on validation digits")
    return model


x = torch.from_numpy(data.load("digits").val.x[:50] / 16).float()  # [50, 1, 8, 8]
try:
    picojoule.pack(trained(from_function), x, grid=8)
except PackError as refused:
    print("packing the step function is refused, with the reason and the line:")
    print("\n".join(f"    {line}" for line in str(refused).splitlines()[:2]))

packed = picojoule.pack(trained(Costly), x, grid=8, progress=False)
with tempfile.TemporaryDirectory() as folder:
    net = deploy.load(deploy.write(Path(folder) / "costly.pj", packed.graph))
want = reference.run(packed.graph, x)["out"].numpy()
assert np.array_equal(net.integers(x.numpy())["out"], want), "engine and reference differ"
print("the packed class equals the reference interpreter, bit for bit")
