"""BatchNorm and the neuron behind it in one pass, switched on for a model: `picojoule.fuse_norm_(model)`."""

from __future__ import annotations

from itertools import pairwise, zip_longest

from torch import Tensor, nn

from picojoule.layers.blocks import ConvNormNeuron, SpikingMLP
from picojoule.layers.residual import MSBlock, PostBlock
from picojoule.neurons.leaky import LeakyNeuron
from picojoule.neurons.norm_native import NORMS, norm_neuron

BLOCKS = (ConvNormNeuron, SpikingMLP, MSBlock, PostBlock)


class FusedSequential(nn.Sequential):
    """A chain whose BatchNorms run together with the neurons that follow them; names and order unchanged."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """As nn.Sequential."""
        layers, skip = list(self), False
        for layer, after in zip_longest(layers, layers[1:]):
            if skip:
                skip = False
            elif _pair(layer, after):
                x, skip = norm_neuron(layer, after, x), True
            else:
                x = layer(x)
        return x


def _pair(layer: nn.Module, after: nn.Module | None) -> bool:
    return type(layer) in NORMS and isinstance(after, LeakyNeuron)


def fuse_norm_(model: nn.Module, on: bool = True) -> nn.Module:
    """Run BatchNorm and the neuron behind it in one pass on a CPU, in place; returns the model.

    It acts on ConvNormNeuron, PostBlock, MSBlock and SpikingMLP, and on every nn.Sequential in which a
    neuron follows a BatchNorm. Parameters, buffers and names stay as they are, so checkpoints fit both
    forms. Wherever the kernels do not apply (see `neurons.norm_neuron`), and in capture and export, the
    modules are called one after the other as before; so are BatchNorms shared between processes.

    Args:
        model: any model.
        on: False switches back.

    >>> from picojoule.neurons import LIF
    >>> model = fuse_norm_(nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), LIF(2)))
    >>> type(model).__name__, type(fuse_norm_(model, on=False)).__name__
    ('FusedSequential', 'Sequential')
    """
    for module in model.modules():
        if isinstance(module, BLOCKS):
            module.fused = on
        elif on and type(module) is nn.Sequential:
            layers = list(module)
            if any(_pair(a, b) for a, b in pairwise(layers)):
                module.__class__ = FusedSequential
        elif not on and type(module) is FusedSequential:
            module.__class__ = nn.Sequential  # type: ignore[assignment]
    return model


__all__ = ["FusedSequential", "fuse_norm_"]
