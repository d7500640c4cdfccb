"""Small graphs with chosen weights, so that counts can be done by hand."""

import numpy as np

from picojoule.core import kinds
from picojoule.graph import nodes as g


def single(node_type, weight, in_shape, out_shape, kind=kinds.binary, T=2, **fields):
    """Input of `kind` -> one Conv or Linear -> Output, T steps."""
    steps = T
    return g.Graph(
        (
            g.Input(name="x", edge=g.Edge(kind, in_shape, steps)),
            node_type(
                name="layer", inputs=("x",), edge=g.Edge(kinds.real, out_shape, steps), weight="w", **fields
            ),
            g.Output(name="out", inputs=("layer",), edge=g.Edge(kinds.real, out_shape, steps)),
        ),
        {"w": np.asarray(weight, dtype=np.float64)},
    )


def conv(weight, side, kind=kinds.binary, T=2, stride=1, padding=0, groups=1):
    """A 2-D convolution on [C, side, side] rows."""
    c_out, per_group, k, _ = weight.shape
    out = (side + 2 * padding - k) // stride + 1
    return single(
        g.Conv,
        weight,
        (per_group * groups, side, side),
        (c_out, out, out),
        kind,
        T,
        stride=(stride, stride),
        padding=((padding, padding),) * 2,
        groups=groups,
    )


def linear(weight, kind=kinds.binary, T=2):
    """A linear layer on [N] rows."""
    d_out, d_in = np.shape(weight)
    return single(g.Linear, weight, (d_in,), (d_out,), kind, T)


def product(kind_a, kind_b, n=3, k=4, m=5, T=2):
    """a [n, k] @ b [k, m]."""
    return g.Graph(
        (
            g.Input(name="a", edge=g.Edge(kind_a, (n, k), T)),
            g.Input(name="b", edge=g.Edge(kind_b, (k, m), T)),
            g.MatMul(name="layer", inputs=("a", "b"), edge=g.Edge(kinds.real, (n, m), T)),
            g.Output(name="out", inputs=("layer",), edge=g.Edge(kinds.real, (n, m), T)),
        )
    )
