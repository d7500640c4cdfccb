"""SDSA-3: the attention of Meta-SpikeFormer (SDT-V2), linear in tokens, with RepConv projections.

    S = neuron(u);   Q, K, V = neuron(BN(RepConv(S)))
    Y = 0.125 * Q (K^T V)  per head;   out = BN(RepConv(gate(Y))),   gate = LIF with threshold 0.5

K^T V and Q (K^T V) are integer additions. Source: arXiv:2404.03663, official code.
"""

from __future__ import annotations

from torch import Tensor, nn

from picojoule.core.errors import ConfigError
from picojoule.layers.blocks import Maker
from picojoule.layers.esdsa import linear_attention
from picojoule.layers.repconv import RepConv


class RepConvNorm(nn.Module):
    """BN(RepConv(x)): rows [T*B, C, H, W] -> [T*B, C, H, W]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = RepConv(dim, dim)
        self.norm = nn.BatchNorm2d(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Rows in, rows out."""
        return self.norm(self.conv(x))


class SDSA3(nn.Module):
    """SDSA-3, branch only: membranes [T*B, C, H, W] -> [T*B, C, H, W].

    Args:
        dim: channels C.
        neuron: makes a neuron layer.
        gate: makes the neuron behind the attention; the paper's is LIF with threshold 0.5.
        heads: number of heads; divides C.
        scale: factor in front of Q (K^T V).
    """

    def __init__(self, dim: int, neuron: Maker, gate: Maker, heads: int = 8, scale: float = 0.125) -> None:
        super().__init__()
        if dim % heads:
            raise ConfigError(f"heads must divide the width, got {heads} heads for {dim} channels")
        self.heads, self.scale = heads, scale
        self.neuron = neuron()
        self.q, self.k, self.v = (nn.Sequential(RepConvNorm(dim), neuron()) for _ in range(3))
        self.gate = gate()
        self.proj = RepConvNorm(dim)

    def forward(self, u: Tensor) -> Tensor:
        """Membranes in, branch membranes out."""
        s = self.neuron(u)
        y = linear_attention(self.q(s), self.k(s), self.v(s), self.heads)  # [T*B, C, H, W] integers
        return self.proj(self.gate(y * self.scale))

    def extra_repr(self) -> str:
        return f"heads={self.heads}, scale={self.scale:.4g}"
