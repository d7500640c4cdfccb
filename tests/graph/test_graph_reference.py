"""The reference interpreter: nodes against plain NumPy loops, both holders of integers, streams, errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from picojoule.core.errors import CausalityError, KindError, NonFiniteError, PackError, ShapeError
from picojoule.core.kinds import binary, fixed, integer, real, ternary
from picojoule.graph import nodes as g
from picojoule.graph import reference

RNG = np.random.default_rng(0)
WIDE = fixed(40, 0)


def net(*middle: g.Node, shape=(3, 5, 4), steps=0, kind=None, tensors=None, **edges) -> g.Graph:
    """x -> middle nodes -> out."""
    first = g.Input(name="x", edge=g.Edge(kind or fixed(8, 0), shape, steps))
    last = middle[-1] if middle else first
    out = g.Output(name="output", key="y", inputs=(last.name,), edge=last.edge)
    return g.Graph((first, *middle, out), dict(tensors or {}), "snapped")


def run(graph: g.Graph, x: np.ndarray) -> np.ndarray:
    """Both holders must agree."""
    a = reference.run(graph, x)["y"]
    b = reference.run(graph, x, dtype="int64")["y"]
    assert a.dtype == torch.int64
    assert torch.equal(a, b)
    return a.numpy()


def test_conv_matches_loops_with_stride_padding_dilation_groups() -> None:
    weight = RNG.integers(-7, 8, (6, 2, 3, 2)).astype(np.int8)
    bias = RNG.integers(-20, 20, 6)
    node = g.Conv(
        name="c", inputs=("x",), edge=g.Edge(WIDE, (6, 4, 4)), weight="w", bias="b", stride=(2, 1),
        padding=((1, 2), (0, 1)), dilation=(1, 1), groups=2, coding=g.Coding("int", 4),
    )  # fmt: skip
    x = RNG.integers(-100, 100, (3, 4, 7, 4))
    padded = np.pad(x, ((0, 0), (0, 0), (1, 2), (0, 1)))
    want = np.zeros((3, 6, 4, 4), np.int64)
    for o in range(6):
        for i in range(4):
            for j in range(4):
                part = padded[:, (o // 3) * 2 : (o // 3) * 2 + 2, 2 * i : 2 * i + 3, j : j + 2]
                want[:, o, i, j] = (part * weight[o]).sum((1, 2, 3)) + bias[o]
    graph = net(node, shape=(4, 7, 4), tensors={"w": weight, "b": bias})
    assert np.array_equal(run(graph, x), want)


@pytest.mark.parametrize("space", [(9,), (4, 5, 3)])
def test_conv_in_one_and_three_axes_with_dilation(space: tuple[int, ...]) -> None:
    n = len(space)
    weight = RNG.integers(-3, 4, (2, 3, *(2,) * n))
    out = tuple(s - 2 for s in space)
    node = g.Conv(
        name="c", inputs=("x",), edge=g.Edge(WIDE, (2, *out)), weight="w", stride=(1,) * n,
        padding=((0, 0),) * n, dilation=(2,) * n, coding=g.Coding("int", 3),
    )  # fmt: skip
    x = RNG.integers(-9, 9, (2, 3, *space))
    function = {1: torch.conv1d, 3: torch.conv3d}[n]
    want = function(torch.tensor(x).double(), torch.tensor(weight).double(), dilation=2)
    got = run(net(node, shape=(3, *space), tensors={"w": weight}), x)
    assert np.array_equal(got, want.numpy())


def test_codebook_weights_are_looked_up() -> None:
    book = np.array([[-1, 1, 1], [1, 1, -1], [2, 0, 0]])
    indices = RNG.integers(0, 3, (4, 3)).astype(np.uint8)
    node = g.Conv(
        name="c", inputs=("x",), edge=g.Edge(WIDE, (4, 1, 1)), weight="w", kernel=(3, 3),
        coding=g.Coding("codebook", 2, "book"),
    )  # fmt: skip
    x = RNG.integers(0, 5, (2, 1, 3, 3))
    want = np.einsum("ok,nk->no", book[indices].reshape(4, 9), x.reshape(2, 9))
    got = run(net(node, shape=(1, 3, 3), tensors={"w": indices, "book": book}), x)
    assert np.array_equal(got.reshape(2, 4), want)


def neuron(shape, steps, kind=binary, **fields) -> tuple[g.Neuron, dict]:
    names = (
        "decay",
        "gain",
        "bias",
        "thresholds",
        "neg_threshold",
        "reset_value",
        "v_init",
        "breaks",
        "values",
    )
    tensors = {k: np.asarray(fields.pop(k)) for k in names if k in fields}
    node = g.Neuron(
        name="n", inputs=("x",), edge=g.Edge(kind, shape, steps), **{k: k for k in tensors}, **fields
    )
    return node, tensors


@pytest.mark.parametrize("reset", ["hard", "soft", "none"])
@pytest.mark.parametrize("rounding", ["floor", "half_up"])
def test_neuron_matches_a_loop(reset: str, rounding: str) -> None:
    T, C = 4, 3
    p = {
        "decay": RNG.integers(-8, 9, (1, C)),
        "gain": np.array([[1, -2, 4]]),
        "bias": RNG.integers(-5, 5, (T, 1)),
        "thresholds": np.sort(RNG.integers(-10, 40, (2, T, C)), 0),
        "reset_value": RNG.integers(0, 20, (1, C)),
        "v_init": RNG.integers(-9, 9, (1, C)),
    }
    node, tensors = neuron(
        (C, 2),
        T,
        integer(2),
        reset=reset,
        decay_shift=3,
        rounding=rounding,
        strict=(False,) * 2,
        v_bits=20,
        **p,
    )
    x = RNG.integers(-30, 30, (5, T, C, 2))
    want = np.zeros_like(x)
    v = np.broadcast_to(p["v_init"][0][:, None], (5, C, 2)).astype(np.int64)
    for t in range(T):
        push = 4 if rounding == "half_up" else 0
        h = (p["decay"][0][:, None] * v + push) // 8 + p["gain"][0][:, None] * x[:, t] + p["bias"][t]
        n = sum((h >= p["thresholds"][k, t][:, None]).astype(int) for k in range(2))
        want[:, t] = n
        r = p["reset_value"][0][:, None]
        v = np.where(n != 0, r, h) if reset == "hard" else h - n * r if reset == "soft" else h
    assert np.array_equal(run(net(node, shape=(C, 2), steps=T, tensors=tensors), x), want)


def test_ternary_neuron_and_membrane_table() -> None:
    one = np.ones((1, 1), np.int64)
    node, tensors = neuron(
        (2,), 3, ternary, reset="soft", decay=one, gain=one, bias=0 * one, thresholds=one[None] * 4,
        neg_threshold=-4 * one, reset_value=4 * one, v_init=0 * one, breaks=[-1, 2], values=[-3, 0, 2],
    )  # fmt: skip
    x = np.array([[[5, -6], [1, 1], [2, -2]]])
    # h = 5, -6 -> n 1, -1; v = 1, -2 -> table 0, -3; h = 1, -2 -> v = 1, -2 -> 0, -3; h = 2, -5 -> 0, -1
    assert run(net(node, shape=(2,), steps=3, tensors=tensors), x).tolist() == [[[1, -1], [0, 0], [0, -1]]]


def test_rounding_of_negative_numbers() -> None:
    x = np.arange(-8, 9)[None]
    for rounding, want in (("floor", np.floor(x / 4)), ("half_up", np.floor((x + 2) / 4))):
        node = g.Affine(
            name="a", inputs=("x",), edge=g.Edge(WIDE, (17,)), gain="g", bias="b", shift=2, rounding=rounding
        )
        tensors = {"g": np.array([1]), "b": np.array([0])}
        assert np.array_equal(run(net(node, shape=(17,), tensors=tensors), x), want)


def test_pools_ignore_padding_and_flip_channels() -> None:
    x = RNG.integers(-50, -1, (2, 3, 5, 5))
    edge = g.Edge(WIDE, (3, 3, 3))
    geometry = {
        "kernel": (3, 3),
        "stride": (2, 2),
        "padding": ((1, 1), (1, 1)),
        "edge": edge,
        "inputs": ("x",),
    }
    high = run(net(g.Pool(name="p", mode="max", **geometry), shape=(3, 5, 5)), x)
    low = run(net(g.Pool(name="p", mode="min", **geometry), shape=(3, 5, 5)), x)
    total = run(net(g.Pool(name="p", mode="sum", **geometry), shape=(3, 5, 5)), x)
    flipped = run(
        net(
            g.Pool(name="p", mode="max", flip="f", **geometry),
            shape=(3, 5, 5),
            tensors={"f": np.array([0, 1, 0])},
        ),
        x,
    )
    assert high[0, 0, 0, 0] == x[0, 0, :2, :2].max()
    assert low[0, 0, 0, 0] == x[0, 0, :2, :2].min()
    assert total[0, 0, 0, 0] == x[0, 0, :2, :2].sum()
    assert np.array_equal(flipped, np.stack([high[:, 0], low[:, 1], high[:, 2]], 1))


def test_moves_sums_and_elementwise() -> None:
    x = RNG.integers(-9, 9, (2, 3, 4, 2))
    moves = (
        ("permute", (1, 2, 0)),
        ("view", (8, 3)),
        ("slice", 0, 1, 8, 2),
        ("pad", ((0, 0), (1, 2))),
        ("flip", 1),
        ("roll", 0, 1),
    )
    node = g.Reshape(name="r", inputs=("x",), edge=g.Edge(WIDE, (4, 6)), moves=moves)
    want = np.roll(
        np.pad(x.transpose(0, 2, 3, 1).reshape(2, 8, 3)[:, 1:8:2], ((0, 0), (0, 0), (1, 2)))[..., ::-1], 1, 1
    )
    assert np.array_equal(run(net(node, shape=(3, 4, 2)), x), want)
    node = g.Add(name="a", inputs=("x", "x"), edge=g.Edge(WIDE, (3, 4, 2)), shifts=(0, 3), signs=(-1, 1))
    assert np.array_equal(run(net(node, shape=(3, 4, 2)), x), 7 * x)
    node = g.Concat(name="a", inputs=("x", "x"), edge=g.Edge(WIDE, (3, 8, 2)), shifts=(0, 1), axis=1)
    assert np.array_equal(run(net(node, shape=(3, 4, 2)), x), np.concatenate([x, 2 * x], 2))
    node = g.Mean(
        name="m", inputs=("x",), edge=g.Edge(WIDE, (3, 1, 1)), axes=(1, -1), keepdim=True, total=True
    )
    assert np.array_equal(run(net(node, shape=(3, 4, 2)), x), x.sum((2, 3), keepdims=True))
    node = g.Upsample(name="u", inputs=("x",), edge=g.Edge(WIDE, (3, 8, 6)), factors=(2, 3))
    assert np.array_equal(run(net(node, shape=(3, 4, 2)), x), x.repeat(2, 2).repeat(3, 3))
    node = g.Lut(name="l", inputs=("x",), edge=g.Edge(WIDE, (3, 4, 2)), breaks="b", values="v")
    tensors = {"b": np.array([-2, 3]), "v": np.array([7, -1, 5])}
    want = np.where(x >= 3, 5, np.where(x >= -2, -1, 7))
    assert np.array_equal(run(net(node, shape=(3, 4, 2), tensors=tensors), x), want)
    flip = g.Reshape(name="t", inputs=("x",), edge=g.Edge(WIDE, (3, 2, 4)), moves=(("permute", (0, 2, 1)),))
    node = g.MatMul(name="m", inputs=("x", "t"), edge=g.Edge(WIDE, (3, 4, 4)))
    assert np.array_equal(run(net(flip, node, shape=(3, 4, 2)), x), x @ x.swapaxes(2, 3))


@pytest.mark.parametrize("op", ["and", "or", "iand"])
def test_logic(op: str) -> None:
    x = np.array([[0, 0, 1, 1], [1, 0, 1, 0]])
    flip = g.Reshape(name="t", inputs=("x",), edge=g.Edge(binary, (4,)), moves=(("roll", 0, 1),))
    node = g.Logic(name="l", inputs=("x", "t"), edge=g.Edge(binary, (4,)), op=op)
    a, b = x.astype(bool), np.roll(x, 1, 1).astype(bool)
    want = {"and": a & b, "or": a | b, "iand": ~a & b}[op]
    assert np.array_equal(run(net(flip, node, shape=(4,), kind=binary), x), want)


def timed_net(T: int = 4) -> g.Graph:
    """Everything with memory: a neuron with constants per step, a causal mix, a running sum."""
    p = {
        "decay": np.array([[3]]), "gain": np.array([[1]]), "bias": np.arange(T)[:, None],
        "thresholds": np.array([[[6]]]), "reset_value": np.array([[6]]), "v_init": np.array([[1]]),
    }  # fmt: skip
    node, tensors = neuron((3,), T, reset="soft", decay_shift=2, **p)
    matrix = np.tril(RNG.integers(-3, 4, (T, T)))
    mix = g.TimeMix(name="mix", inputs=("n",), edge=g.Edge(WIDE, (3,), T), matrix="m", bias="mb")
    total = g.Readout(name="sum", inputs=("mix",), edge=g.Edge(WIDE, (3,)), mode="sum")
    last = g.Output(name="o2", key="steps", inputs=("mix",), edge=mix.edge)
    first = g.Input(name="x", edge=g.Edge(fixed(8, 0), (3,), T))
    out = g.Output(name="o1", key="y", inputs=("sum",), edge=total.edge)
    return g.Graph(
        (first, node, mix, total, out, last), {**tensors, "m": matrix, "mb": np.arange(T)[:, None]}, "snapped"
    )


def test_streams_in_any_chunking_equal_the_whole() -> None:
    graph = timed_net()
    x = RNG.integers(-9, 20, (3, 4, 3))
    whole = reference.run(graph, x)
    for cuts in ([1, 1, 1, 1], [1, 3], [2, 2], [4]):
        stream, first, parts = reference.Stream(graph), 0, []
        for cut in cuts:
            out = stream(x[:, first : first + cut])
            parts.append(out["steps"])
            first += cut
        assert torch.equal(torch.cat(parts, 1), whole["steps"])
        assert torch.equal(out["y"], whole["y"])
        stream.reset()
        assert torch.equal(stream(x)["y"], whole["y"])


def test_time_mix_is_the_matrix_product() -> None:
    graph = timed_net()
    x = RNG.integers(-9, 20, (3, 4, 3))
    found = reference.run(graph, x, watch="neurons")
    want = np.einsum("tj,bjc->btc", graph.tensors["m"], found["n"].numpy()) + np.arange(4)[None, :, None]
    assert np.array_equal(found["steps"], want)
    assert np.array_equal(found["y"], want.sum(1))


def test_scan_carries_its_state() -> None:
    acc = g.Edge(fixed(20, 0), (2,))
    body = g.Graph(
        (
            g.Input(name="x", edge=acc),
            g.Input(name="state0", edge=acc),
            g.Add(name="sum", inputs=("x", "state0"), edge=acc, shifts=(0, 1), signs=(1, 1)),
            g.Output(name="oy", key="y", inputs=("sum",), edge=acc),
            g.Output(name="os", key="state0", inputs=("sum",), edge=acc),
        ),
        {},
        "snapped",
    )
    node = g.Scan(name="s", inputs=("x",), edge=g.Edge(fixed(20, 0), (2,), 3), body=body)
    x = np.array([[[1, 2], [3, 4], [5, 6]]])
    graph = net(node, shape=(2,), steps=3)
    assert run(graph, x).tolist() == [[[1, 2], [5, 8], [15, 22]]]
    stream = reference.Stream(graph)
    assert stream(x[:, :2])["y"].tolist() == [[[1, 2], [5, 8]]]
    assert stream(x[:, 2:])["y"].tolist() == [[[15, 22]]]


@pytest.mark.parametrize("batch", [0, 1, 3])
def test_every_batch_size(batch: int) -> None:
    graph = timed_net()
    out = reference.run(graph, np.zeros((batch, 4, 3)))
    assert out["y"].shape == (batch, 3)
    assert out["steps"].shape == (batch, 4, 3)


def test_inputs_round_half_up_clamp_and_use_tables() -> None:
    graph = net(shape=(2,), kind=fixed(4, 1))
    assert run(graph, np.array([[0.25, -0.25], [100.0, -100.0]])).tolist() == [[1, 0], [7, -8]]
    table = np.stack([np.arange(256), -np.arange(256)])
    first = g.Input(name="x", edge=g.Edge(fixed(10, 0), (2, 3)), table="t")
    out = g.Output(name="o", key="y", inputs=("x",), edge=first.edge)
    graph = g.Graph((first, out), {"t": table}, "snapped")
    data = np.array([[[0, 9, 255], [1, 2, 3]]], np.uint8)
    assert run(graph, data).tolist() == [[[0, 9, 255], [-1, -2, -3]]]
    with pytest.raises(KindError, match="uint8"):
        reference.run(graph, data.astype(np.float32))
    assert (
        reference.dequantize(net(shape=(1,), kind=fixed(8, 3)), {"y": torch.tensor([4])})["y"].item() == 0.5
    )


def test_bad_input_is_named() -> None:
    graph = net(shape=(2,), kind=binary)
    with pytest.raises(ShapeError, match="'x' must be"):
        reference.run(graph, np.zeros((1, 3)))
    with pytest.raises(NonFiniteError, match="'x'"):
        reference.run(graph, np.array([[np.nan, 0]]))
    with pytest.raises(KindError, match="binary"):
        reference.run(graph, np.array([[0.5, 0]]))
    with pytest.raises(KindError, match="binary"):
        reference.run(graph, np.array([[2, 0]]))
    with pytest.raises(PackError, match="captured"):
        reference.run(g.Graph(graph.nodes), np.zeros((1, 2)))
    with pytest.raises(ShapeError, match="T=4"):
        reference.run(timed_net(), np.zeros((1, 3, 3)))
    graph = timed_net()
    mix = next(n for n in graph.nodes if isinstance(n, g.TimeMix))
    import dataclasses

    nodes = tuple(dataclasses.replace(n, causal=False) if n is mix else n for n in graph.nodes)
    with pytest.raises(CausalityError, match="mix"):
        reference.Stream(graph.replace(nodes=nodes))


def test_inexact_arithmetic_is_refused_by_name() -> None:
    node = g.Affine(name="big", inputs=("x",), edge=g.Edge(fixed(60, 0), (1,)), gain="g", bias="b")
    graph = net(node, shape=(1,), tensors={"g": np.array([2**50]), "b": np.array([0])})
    assert reference.run(graph, np.array([[3]]))["y"].item() == 3 * 2**50
    with pytest.raises(PackError, match="'big'"):
        reference.run(graph, np.array([[9]]))
    assert reference.run(graph, np.array([[9]]), dtype="int64")["y"].item() == 9 * 2**50
    node = g.Affine(name="big", inputs=("x",), edge=g.Edge(real, (1,)), gain="g", bias="b")
    with pytest.raises(PackError, match="real"):
        reference.run(
            net(node, shape=(1,), tensors={"g": np.array([1]), "b": np.array([0])}), np.array([[9]])
        )
