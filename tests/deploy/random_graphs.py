"""Random snapped graphs with proven bounds: the common food of the engine, the file format and the exporters.

    graph = random_graph(seed)                 # any mixture of nodes
    inputs = random_inputs(graph, batch, seed) # data that its inputs accept

Every fixed edge holds enough bits for the worst case, computed here independently of the library.
"""

from __future__ import annotations

import numpy as np
from graph_builder import Builder, bits_for

from picojoule.core import kinds
from picojoule.graph import nodes as g

MAX_BITS = 44  # of an edge: sums of what follows stay below 2^53


def _step(b: Builder, x: str) -> str:
    """One random stage on a map [C, *space] with small integers."""
    space = len(b.edge(x).shape) - 1
    match b.pick(
        "conv", "conv", "conv", "conv", "residual", "pool", "misc", "misc", "concat", "time", "attention"
    ):
        case "conv":
            y = b.conv(x)
            return b.neuron(b.affine(y) if b.chance(0.2) else y)
        case "residual":
            inner = b.neuron(b.conv(x, same=True, out=8))
            return b.neuron(b.join(b.conv(inner, same=True, out=8), b.conv(x, same=True, out=8)))
        case "pool":
            y = b.pool(x)
            return b.neuron(y) if b.edge(y).kind.name == "fixed" else y
        case "concat":
            return b.concat(x, b.neuron(b.conv(x, same=True, out=4)))
        case "time" if b.edge(x).steps:
            return b.neuron(b.pick(b.timemix, b.scan)(x), axis=0)
        case "attention" if space == 2:
            return _attention(b, x)
        case _:
            y = b.pick(b.moves, b.lut, b.upsample, b.affine)(x)
            if b.edge(y).kind.name == "fixed" or len(b.edge(y).shape) != space + 1:
                y = b.neuron(y, axis=0)
            return y


def _attention(b: Builder, x: str) -> str:
    """Tokens, three projections, Q (K^T V) or logic, back to a map."""
    C, H, W = b.edge(x).shape
    D = b.pick(4, 8)
    tokens = b.view(x, (C, H * W), ("permute", (1, 0)))
    q, k, v = (b.neuron(b.linear(tokens, D), axis=-1, kind=kinds.binary) for _ in range(3))
    if b.chance(0.3):
        gate = b.add(
            g.Logic, (q, k), kinds.binary, b.edge(q).shape, b.edge(q).steps, op=b.pick("and", "or", "iand")
        )
        y = b.mul(gate, v)
    elif b.chance(0.5):
        heads = [b.view(t, (H * W, 2, D // 2), ("permute", (1, 0, 2))) for t in (q, v)]
        keys = b.view(k, (H * W, 2, D // 2), ("permute", (1, 2, 0)))
        y = b.matmul(heads[0], b.matmul(keys, heads[1]))
        y = b.add(
            g.Reshape, (y,), b.edge(y).kind, (H * W, D), b.edge(y).steps,
            moves=(("permute", (1, 0, 2)), ("view", (H * W, D))),
        )  # fmt: skip
    else:
        mask = b.neuron(b.total(k, (0,), keepdim=True), axis=-1, kind=kinds.binary)
        y = b.mul(q, mask)
    y = b.neuron(b.linear(y, C), axis=-1)
    return b.view(b.view(y, (H * W, C), ("permute", (1, 0))), (C, H, W))


def random_graph(seed: int, *, causal: bool = False) -> g.Graph:
    """A random snapped graph.

    Args:
        seed: decides everything.
        causal: keep drawing until the graph can be streamed.
    """
    rng = np.random.default_rng(seed)
    while True:
        graph = _draw(rng)
        if not causal or all(n.causal for n in graph.nodes if isinstance(n, g.TimeMix)):
            return graph


def _draw(rng: np.random.Generator) -> g.Graph:
    b = Builder(rng, int(rng.choice([1, 2, 3, 4, 7])))
    space = b.pick(1, 2, 2, 2, 2, 3)
    side = {1: 12, 2: 6, 3: 4}[space]
    shape = (b.pick(1, 3, 5, 40), *(int(rng.integers(side // 2, side + 1)) for _ in range(space)))
    if b.chance(0.5):
        x = b.image(shape)
        if b.chance(0.5):
            x = b.neuron(b.conv(b.repeat(x)))
        else:
            x = b.neuron(b.repeat(b.affine(b.conv(x))))
    else:
        x = b.events(shape)
    for _ in range(int(rng.integers(1, 5))):
        if b.edge(x).size > 3000:
            break
        x = _step(b, x)
    if b.chance(0.3):
        b.output(x, "spikes")
    x = b.total(x, tuple(range(1, len(b.edge(x).shape)))) if b.chance(0.5) else b.view(x, (b.edge(x).size,))
    x = b.linear(x)
    if b.chance(0.3):
        x = b.neuron(x)
    x = b.readout(x) if b.chance(0.8) else x
    if b.edge(x).steps == 0 and b.chance(0.3):
        x = b.affine(x)
    b.output(x, "out")
    graph = b.graph()
    widest = max(n.edge.kind.bits for n in graph.nodes)
    membranes = max((n.v_bits for n in graph.nodes if isinstance(n, g.Neuron)), default=0)
    return graph if max(widest, membranes) <= MAX_BITS else _draw(rng)


def random_inputs(graph: g.Graph, batch: int, seed: int) -> dict[str, np.ndarray]:
    """Data for every input: bytes for tables, spikes of their kind, floats (also beyond the range) else."""
    rng = np.random.default_rng(seed + 7919)
    data: dict[str, np.ndarray] = {}
    for node in graph.inputs:
        shape = (batch, *((node.edge.steps,) if node.edge.steps else ()), *node.edge.shape)
        kind = node.edge.kind
        if node.table is not None:
            data[node.name] = rng.integers(0, 256, shape).astype(np.uint8)
        elif kind.is_spikes:
            rate = rng.choice([0.02, 0.1, 0.4, 0.9])
            values = rng.integers(kind.low, kind.high + 1, shape) * (rng.random(shape) < rate)
            data[node.name] = values.astype(rng.choice([np.int8, np.float32, np.int64]))
        else:
            spread = kind.high * 2.0**-kind.frac * 0.6
            data[node.name] = (rng.standard_normal(shape) * spread).astype(
                rng.choice([np.float32, np.float64])
            )
    return data


__all__ = ["Builder", "bits_for", "random_graph", "random_inputs"]
