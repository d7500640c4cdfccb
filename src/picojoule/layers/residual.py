"""Residual blocks of the three spiking ResNet families, by where the neuron sits relative to the sum.

    MSBlock    u <- S(u) + BN(conv neuron(BN(conv neuron(u))))         membranes; arXiv:2112.08954
    SEWBlock   s <- join(neuron(BN(conv neuron(BN(conv s)))), S(s))     spikes;    arXiv:2102.04159
    PostBlock  s <- neuron(BN(conv neuron(BN(conv s))) + S(s))          spikes, sum of currents

S is the identity, or a 1x1 convolution with BatchNorm (and a neuron in SEW) where the shape changes.
"""

from __future__ import annotations

from torch import Tensor, nn

from picojoule.layers.blocks import ConvNorm, ConvNormNeuron, Maker, NeuronConvNorm, chained
from picojoule.layers.joins import Join
from picojoule.neurons.norm_native import hooked, norm_neuron


class MSBlock(nn.Module):
    """Membrane-shortcut block: membranes [T*B, C_in, H, W] -> [T*B, C_out, H/stride, W/stride].

    The 1x1 shortcut of a shape change reads membranes, as published: it costs multiplications.
    """

    expansion = 1
    fused = False  # see fuse_norm_

    def __init__(self, c_in: int, width: int, neuron: Maker, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = NeuronConvNorm(c_in, width, neuron, 3, stride)
        self.conv2 = NeuronConvNorm(width, width, neuron, 3)
        changes = stride != 1 or c_in != width
        self.shortcut = ConvNorm(c_in, width, 1, stride) if changes else nn.Identity()

    def forward(self, u: Tensor) -> Tensor:
        """Membranes in, membranes out."""
        return self.shortcut(u) + chained(self.conv1, self.conv2, u, self.fused)


class SEWBlock(nn.Module):
    """Spike-element-wise block: spikes [T*B, C_in, H, W] -> spikes or counts [T*B, C_out, H/s, W/s].

    Args:
        c_in, width: channels in and out.
        neuron: makes a neuron layer.
        stride: of the first convolution and the shortcut.
        op: how branch and shortcut meet, see `joins`.
    """

    expansion = 1

    def __init__(self, c_in: int, width: int, neuron: Maker, stride: int = 1, op: str = "add") -> None:
        super().__init__()
        self.conv1 = ConvNormNeuron(c_in, width, neuron, 3, stride)
        self.conv2 = ConvNormNeuron(width, width, neuron, 3)
        changes = stride != 1 or c_in != width
        self.shortcut = ConvNormNeuron(c_in, width, neuron, 1, stride) if changes else nn.Identity()
        self.join = Join(op)

    def forward(self, s: Tensor) -> Tensor:
        """Spikes in, spikes out."""
        return self.join(self.conv2(self.conv1(s)), self.shortcut(s))


class SEWBottleneck(nn.Module):
    """SEW block of three convolutions 1x1, 3x3, 1x1 with four times the channels at its end."""

    expansion = 4

    def __init__(self, c_in: int, width: int, neuron: Maker, stride: int = 1, op: str = "add") -> None:
        super().__init__()
        c_out = width * self.expansion
        self.conv1 = ConvNormNeuron(c_in, width, neuron, 1)
        self.conv2 = ConvNormNeuron(width, width, neuron, 3, stride)
        self.conv3 = ConvNormNeuron(width, c_out, neuron, 1)
        changes = stride != 1 or c_in != c_out
        self.shortcut = ConvNormNeuron(c_in, c_out, neuron, 1, stride) if changes else nn.Identity()
        self.join = Join(op)

    def forward(self, s: Tensor) -> Tensor:
        """Spikes in, spikes out."""
        return self.join(self.conv3(self.conv2(self.conv1(s))), self.shortcut(s))


class PostBlock(nn.Module):
    """Block whose neuron comes after the sum: spikes [T*B, C_in, H, W] -> spikes [T*B, C_out, H/s, W/s]."""

    expansion = 1
    fused = False  # see fuse_norm_

    def __init__(self, c_in: int, width: int, neuron: Maker, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = ConvNormNeuron(c_in, width, neuron, 3, stride)
        self.conv2 = ConvNorm(width, width, 3)
        changes = stride != 1 or c_in != width
        self.shortcut = ConvNorm(c_in, width, 1, stride) if changes else nn.Identity()
        self.neuron = neuron()

    def forward(self, s: Tensor) -> Tensor:
        """Spikes in, spikes out."""
        if not self.fused or hooked(self.conv2):
            return self.neuron(self.conv2(self.conv1(s)) + self.shortcut(s))
        current = self.conv2.conv(self.conv1(s))
        return norm_neuron(self.conv2.norm, self.neuron, current, added=self.shortcut(s))
