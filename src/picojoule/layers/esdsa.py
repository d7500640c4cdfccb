"""E-SDSA: the attention of Spike-driven Transformer V3 (base), with value expansion and no softmax.

    S = neuron(u);   Q, K = neuron(BN(W S)) with C channels,   V = neuron(BN(W S)) with ratio*C channels
    Y = 2 / sqrt(d) * (Q K^T) V  per head, d = C / heads;   out = BN(W neuron(Y)),  1x1 convolutions, no bias

Q, K and V are spike counts, so (Q K^T) V and Q (K^T V) are the same integers: the first costs N^2 d, the
second N d^2 additions. Source: arXiv:2411.16061, official code (which multiplies Q K^T first).
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from picojoule.core.errors import ConfigError
from picojoule.layers.blocks import ConvNorm, ConvNormNeuron, Maker

ORDERS = ("kv", "qk")


def linear_attention(q: Tensor, k: Tensor, v: Tensor, heads: int, order: str = "kv") -> Tensor:
    """Attention without softmax over channel-first tokens: Q (K^T V) per head.

        y[e, n] = sum_m sum_d q[d, n] k[d, m] v[e, m]

    Args:
        q, k: [rows, C, H, W].
        v: [rows, E, H, W].
        heads: number of heads; divides C and E.
        order: "kv" multiplies K^T V first, "qk" multiplies Q K^T first; equal on integers.
    Returns:
        [rows, E, H, W], not scaled.
    """
    side = q.shape[-2:]
    q, k, v = (part.flatten(2).unflatten(1, (heads, -1)) for part in (q, k, v))  # [rows, heads, d or e, N]
    if order == "kv":
        y = (v @ k.transpose(-1, -2)) @ q  # [rows, heads, e, d] @ [rows, heads, d, N]
    else:
        y = v @ (k.transpose(-1, -2) @ q)  # [rows, heads, e, N] @ [rows, heads, N, N]
    return y.flatten(1, 2).unflatten(-1, side)


class ESDSA(nn.Module):
    """E-SDSA, branch only: membranes [T*B, C, H, W] -> [T*B, C, H, W].

    Args:
        dim: channels C.
        neuron: makes a neuron layer.
        heads: number of heads; divides C.
        ratio: value expansion, 4 in the paper.
        order: "kv" or "qk", see `linear_attention`.
    Parameters: (2 + 2*ratio) C^2 + (2*ratio + 6) C with BatchNorm.
    """

    def __init__(self, dim: int, neuron: Maker, heads: int = 8, ratio: int = 4, order: str = "kv") -> None:
        super().__init__()
        if dim % heads:
            raise ConfigError(f"heads must divide the width, got {heads} heads for {dim} channels")
        if order not in ORDERS:
            raise ConfigError(f"order must be 'kv' or 'qk', got {order!r}")
        self.heads, self.order = heads, order
        self.scale = 2 / math.sqrt(dim / heads)
        self.neuron = neuron()
        self.q = ConvNormNeuron(dim, dim, neuron, 1)
        self.k = ConvNormNeuron(dim, dim, neuron, 1)
        self.v = ConvNormNeuron(dim, dim * ratio, neuron, 1)
        self.out_neuron = neuron()
        self.proj = ConvNorm(dim * ratio, dim, 1)

    def forward(self, u: Tensor) -> Tensor:
        """Membranes in, branch membranes out."""
        s = self.neuron(u)
        y = linear_attention(self.q(s), self.k(s), self.v(s), self.heads, self.order)
        return self.proj(self.out_neuron(y * self.scale))  # y: [T*B, ratio*C, H, W] integers / D^3

    def extra_repr(self) -> str:
        return f"heads={self.heads}, scale={self.scale:.4g}, order={self.order!r}"
