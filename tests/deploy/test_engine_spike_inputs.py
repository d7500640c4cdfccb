"""Spikes that enter a graph: every number type, bad values, and the words of tokens."""

from typing import Any

import numpy as np
import pytest
from random_graphs import Builder, random_inputs

from picojoule.core import kinds
from picojoule.core.errors import KindError, NonFiniteError
from picojoule.core.kinds import Kind
from picojoule.deploy.engine import ISAS, Engine
from picojoule.graph import nodes as g

KINDS = (kinds.binary, kinds.ternary, kinds.integer(4), kinds.integer(100))


def identity(kind: Kind, shape: tuple[int, ...], T: int) -> tuple[g.Graph, str]:
    """Spikes in, the same integers out."""
    b = Builder(np.random.default_rng(0), T)
    x = b.add(g.Input, (), kind, shape, T)
    b.output(x, "out")
    return b.graph(), x


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize(("shape", "T"), [((1,), 1), ((37,), 3), ((3, 9, 11), 2)], ids=str)
def test_every_number_type_gives_the_same_spikes(kind: Kind, shape: tuple[int, ...], T: int) -> None:
    graph, x = identity(kind, shape, T)
    data = random_inputs(graph, 3, 0)[x]
    types = ["i1", "i2", "i8", "f4", "f8"]
    types += [] if kind == kinds.ternary else ["u1"]
    types += ["?"] if kind == kinds.binary else []
    for isa in ISAS:
        engine = Engine(graph, isa=isa)
        for dtype in types:
            np.testing.assert_array_equal(engine(data.astype(dtype))["out"], data, err_msg=f"{isa} {dtype}")
        assert engine(data[:0])["out"].shape == (0, T, *shape)


@pytest.mark.parametrize(
    ("kind", "dtype", "value", "error"),
    [
        (kinds.binary, "u1", 2, KindError),
        (kinds.binary, "u1", 255, KindError),
        (kinds.binary, "i1", -1, KindError),
        (kinds.ternary, "u1", 255, KindError),
        (kinds.ternary, "i1", -2, KindError),
        (kinds.integer(100), "i1", 101, KindError),
        (kinds.integer(100), "u1", 228, KindError),
        (kinds.binary, "f4", 0.5, KindError),
        (kinds.ternary, "f4", -1.25, KindError),
        (kinds.integer(4), "f4", 5, KindError),
        (kinds.integer(4), "f4", -1e30, KindError),
        (kinds.binary, "f4", np.nan, NonFiniteError),
        (kinds.ternary, "f4", -np.inf, NonFiniteError),
    ],
    ids=str,
)
@pytest.mark.parametrize("at", [0, 40, 76])
def test_what_is_no_spike_is_refused_wherever_it_stands(
    kind: Kind, dtype: str, value: Any, error: type[Exception], at: int
) -> None:
    graph, x = identity(kind, (77,), 2)
    data = np.zeros((2, 2, 77), dtype)
    data[1, 1, at] = value
    for isa in ISAS:
        with pytest.raises(error, match=x):
            Engine(graph, isa=isa)(data)


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("shape", [(5, 3), (9, 33), (4, 64), (7, 70), (3, 200)], ids=str)
def test_tokens_keep_every_spike_in_words(kind: Kind, shape: tuple[int, int]) -> None:
    b = Builder(np.random.default_rng(0), 2)
    x = b.add(g.Input, (), kind, shape, 2)
    eye = b.const(np.eye(shape[1], dtype=np.int8), np.int8)
    y = b.add(g.Linear, (x,), kinds.fixed(9, 0), shape, 2, weight=eye, coding=g.Coding("ternary", 2))
    b.output(y, "out")
    data = random_inputs(b.graph(), 3, 1)
    for isa in ISAS[1:]:
        for kernel in Engine(b.graph(), isa=isa).kernels(y):
            found = Engine(b.graph(), isa=isa, kernels={y: kernel})(data)["out"]
            np.testing.assert_array_equal(found, data[x].astype(np.int64), err_msg=f"{isa} {kernel}")
