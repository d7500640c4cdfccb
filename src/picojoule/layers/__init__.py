"""Layers between neurons: convolution blocks, joins, shared-mask dropout, attention; one paper a file."""

from picojoule.layers.blocks import ConvNorm, ConvNormNeuron, NeuronConvNorm, SpikingMLP
from picojoule.layers.drop import Dropout, DropPath
from picojoule.layers.esdsa import ESDSA
from picojoule.layers.event_conv import EventLimits
from picojoule.layers.fuse import fuse_norm_
from picojoule.layers.joins import Join, join
from picojoule.layers.repconv import RepConv, merge_repconv_
from picojoule.layers.residual import MSBlock, PostBlock, SEWBlock, SEWBottleneck
from picojoule.layers.sdsa import SDSA
from picojoule.layers.sdsa3 import SDSA3
from picojoule.layers.sepconv import ConvBlock, SepConv
from picojoule.layers.spike_aware import is_spike_aware, spike_aware_

__all__ = [
    "ESDSA",
    "SDSA",
    "SDSA3",
    "ConvBlock",
    "ConvNorm",
    "ConvNormNeuron",
    "DropPath",
    "Dropout",
    "EventLimits",
    "Join",
    "MSBlock",
    "NeuronConvNorm",
    "PostBlock",
    "RepConv",
    "SEWBlock",
    "SEWBottleneck",
    "SepConv",
    "SpikingMLP",
    "fuse_norm_",
    "is_spike_aware",
    "join",
    "merge_repconv_",
    "spike_aware_",
]
