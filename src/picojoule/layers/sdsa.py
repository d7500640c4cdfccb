"""SDSA: the attention of Spike-driven Transformer V1, only masks and additions.

    S = neuron(u);   Q, K, V = neuron(BN(W S))                          1x1 convolutions without bias
    a = gate( sum_n K[n] * V[n] )        one value a channel, n over the N = H*W tokens
    out = BN(W (Q * a) + b)              1x1 convolution with bias

With binary spikes and the paper's gate (LIF, tau 2, input divided by tau, threshold 0.5) the gate is an OR
over tokens of K AND V, without memory: h = x/2 >= 0.5 iff at least one coincidence. So one coincidence opens
the channel; other thresholds make the gate stateful. Heads change nothing, so there are none here; the
official code holds an unused 8x8 convolution a block, which its parameter counts include.
Source: arXiv:2307.01694, official code.
"""

from __future__ import annotations

from torch import Tensor, nn

from picojoule.layers.blocks import ConvNorm, ConvNormNeuron, Maker


class SDSA(nn.Module):
    """SDSA, branch only: membranes [T*B, C, H, W] -> [T*B, C, H, W].

    Args:
        dim: channels C.
        neuron: makes a neuron layer.
        gate: makes the neuron behind the sum over tokens; the paper's is LIF with threshold 0.5.
    Parameters: 4 C^2 + 9 C with BatchNorm. Additions behind Q, K, V: at most 2 N C a step.
    """

    def __init__(self, dim: int, neuron: Maker, gate: Maker) -> None:
        super().__init__()
        self.neuron = neuron()
        self.q = ConvNormNeuron(dim, dim, neuron, 1)
        self.k = ConvNormNeuron(dim, dim, neuron, 1)
        self.v = ConvNormNeuron(dim, dim, neuron, 1)
        self.gate = gate()
        self.proj = ConvNorm(dim, dim, 1, bias=True)

    def mask(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Q where the channel's gate is open: spikes [T*B, C, H, W] each -> [T*B, C, H, W]."""
        open_ = self.gate((k * v).sum((-2, -1), keepdim=True))  # [T*B, C, 1, 1]
        return q * open_

    def forward(self, u: Tensor) -> Tensor:
        """Membranes in, branch membranes out."""
        s = self.neuron(u)
        return self.proj(self.mask(self.q(s), self.k(s), self.v(s)))
