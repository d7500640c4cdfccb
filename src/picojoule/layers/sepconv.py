"""SepConv with a neuron before each convolution, and the convolution block of Spike-driven Transformer V3.

    SepConv(u)   = BN(pw2 neuron(BN(dw neuron(BN(pw1 neuron(u))))))    pw1: C -> 2C, dw: k x k, pw2: 2C -> C
    ConvBlock(u) : u <- u + SepConv(u)
                   u <- u + BN(conv3x3 neuron(BN(conv3x3 neuron(u))))     C -> ratio*C -> C

V2 and SpikeYOLO have no neuron between dw and pw2, so that pw2 sees real numbers; here every convolution sees
spikes. Source: arXiv:2411.16061, official code; parameters of SepConv 4C^2 + 2k^2 C + 10C.
"""

from __future__ import annotations

from torch import Tensor, nn

from picojoule.layers.blocks import Maker, NeuronConvNorm


class SepConv(nn.Module):
    """Separable convolution, branch only: membranes [T*B, C, H, W] -> [T*B, C, H, W].

    Args:
        dim: channels C.
        neuron: makes a neuron layer.
        kernel: side of the depthwise kernel; 7 in convolution stages, 3 in Transformer blocks.
        ratio: hidden channels in units of C.
    """

    def __init__(self, dim: int, neuron: Maker, kernel: int = 7, ratio: int = 2) -> None:
        super().__init__()
        hidden = dim * ratio
        self.pw1 = NeuronConvNorm(dim, hidden, neuron, 1)
        self.dw = NeuronConvNorm(hidden, hidden, neuron, kernel, groups=hidden)
        self.pw2 = NeuronConvNorm(hidden, dim, neuron, 1)

    def forward(self, u: Tensor) -> Tensor:
        """Membranes in, branch membranes out."""
        return self.pw2(self.dw(self.pw1(u)))


class ConvBlock(nn.Module):
    """SepConv and two dense 3x3 convolutions, each with a membrane shortcut.

    Args:
        dim: channels C.
        neuron: makes a neuron layer.
        kernel: side of SepConv's depthwise kernel.
        ratio: hidden channels of the dense pair in units of C.
    """

    def __init__(self, dim: int, neuron: Maker, kernel: int = 7, ratio: float = 4) -> None:
        super().__init__()
        hidden = int(dim * ratio)
        self.sep = SepConv(dim, neuron, kernel)
        self.conv1 = NeuronConvNorm(dim, hidden, neuron, 3)
        self.conv2 = NeuronConvNorm(hidden, dim, neuron, 3)

    def forward(self, u: Tensor) -> Tensor:
        """Membranes [T*B, C, H, W] -> [T*B, C, H, W]."""
        u = u + self.sep(u)
        return u + self.conv2(self.conv1(u))
