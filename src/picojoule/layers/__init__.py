"""Layers between neurons: convolution blocks, joins, shared-mask dropout, attention; one paper a file."""

from picojoule.layers.blocks import ConvNorm, ConvNormNeuron, NeuronConvNorm, SpikingMLP
from picojoule.layers.drop import Dropout, DropPath
from picojoule.layers.joins import Join, join

__all__ = [
    "ConvNorm",
    "ConvNormNeuron",
    "DropPath",
    "Dropout",
    "Join",
    "NeuronConvNorm",
    "SpikingMLP",
    "join",
]
