"""Convolution, BatchNorm and neuron, in the two orders that spiking networks use.

    ConvNormNeuron:  spikes -> conv -> BN -> neuron -> spikes      (VGG, SEW, SDT stem)
    NeuronConvNorm:  membrane -> neuron -> conv -> BN -> membrane  (MS-ResNet, Meta-SpikeFormer)

Both fold: BatchNorm goes into the convolution, or into the thresholds of the neuron behind it.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from picojoule.neurons import Neuron
from picojoule.neurons.norm_native import hooked, norm_neuron

Maker = Callable[[], Neuron]
"""Makes one neuron layer; every call gives a new module."""


def conv_norm(
    c_in: int, c_out: int, kernel: int = 3, stride: int = 1, *, groups: int = 1, bias: bool = False
) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    """A convolution that keeps H, W at stride 1 (padding kernel // 2), and its BatchNorm."""
    conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=bias)
    return conv, nn.BatchNorm2d(c_out)


class ConvNorm(nn.Module):
    """x -> BN(conv(x)): rows [T*B, C_in, H, W] -> [T*B, C_out, H/stride, W/stride], real membranes."""

    def __init__(
        self, c_in: int, c_out: int, kernel: int = 3, stride: int = 1, *, groups: int = 1, bias: bool = False
    ) -> None:
        super().__init__()
        self.conv, self.norm = conv_norm(c_in, c_out, kernel, stride, groups=groups, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Rows in, rows out."""
        return self.norm(self.conv(x))


class ConvNormNeuron(nn.Module):
    """x -> neuron(BN(conv(x))): rows [T*B, C_in, H, W] -> spikes [T*B, C_out, H/stride, W/stride]."""

    fused = False  # see fuse_norm_

    def __init__(
        self,
        c_in: int,
        c_out: int,
        neuron: Maker,
        kernel: int = 3,
        stride: int = 1,
        *,
        groups: int = 1,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.conv, self.norm = conv_norm(c_in, c_out, kernel, stride, groups=groups, bias=bias)
        self.neuron = neuron()

    def forward(self, x: Tensor) -> Tensor:
        """Rows in, spikes out."""
        return norm_neuron(self.norm, self.neuron, self.conv(x), fused=self.fused)


class NeuronConvNorm(nn.Module):
    """u -> BN(conv(neuron(u))): membranes in, membranes out; the convolution sees spikes only."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        neuron: Maker,
        kernel: int = 3,
        stride: int = 1,
        *,
        groups: int = 1,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.neuron = neuron()
        self.conv, self.norm = conv_norm(c_in, c_out, kernel, stride, groups=groups, bias=bias)

    def forward(self, u: Tensor) -> Tensor:
        """Membranes [T*B, C_in, H, W] -> [T*B, C_out, H/stride, W/stride]."""
        return self.norm(self.conv(self.neuron(u)))


def chained(first: NeuronConvNorm, second: NeuronConvNorm, u: Tensor, fused: bool) -> Tensor:
    """second(first(u)); `fused` runs the first BatchNorm together with the second neuron."""
    if not fused or hooked(first, second):
        return second(first(u))
    spikes = norm_neuron(first.norm, second.neuron, first.conv(first.neuron(u)))
    return second.norm(second.conv(spikes))


class SpikingMLP(nn.Module):
    """Channel mixing of spiking Transformers, branch only (the caller adds the shortcut).

        y = BN(W2 neuron(BN(W1 neuron(u)))),   W1: C -> ratio*C,  W2: ratio*C -> C,  1x1 with bias

    Args:
        dim: channels C.
        neuron: makes a neuron layer.
        ratio: width of the hidden layer in units of C.
    Source: Spike-driven Transformer, arXiv:2307.01694; parameters 2*ratio*C^2 + (3*ratio + 3)*C.
    """

    fused = False  # see fuse_norm_

    def __init__(self, dim: int, neuron: Maker, ratio: float = 4) -> None:
        super().__init__()
        hidden = int(dim * ratio)
        self.up = NeuronConvNorm(dim, hidden, neuron, 1, bias=True)
        self.down = NeuronConvNorm(hidden, dim, neuron, 1, bias=True)

    def forward(self, u: Tensor) -> Tensor:
        """Membranes [T*B, C, H, W] -> [T*B, C, H, W]."""
        return chained(self.up, self.down, u, self.fused)
