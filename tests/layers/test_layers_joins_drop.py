"""Joins follow their truth tables and gradients; shared-mask dropout keeps one mask a sample."""

from __future__ import annotations

import pytest
import torch

import picojoule
from picojoule import timeline
from picojoule.core.errors import ConfigError, ShapeError
from picojoule.layers import Dropout, DropPath, Join, join

A = torch.tensor([0.0, 0.0, 1.0, 1.0])
B = torch.tensor([0.0, 1.0, 0.0, 1.0])


@pytest.mark.parametrize(
    ("op", "table", "da", "db"),
    [
        ("add", A + B, torch.ones(4), torch.ones(4)),
        ("and", A * B, B, A),
        ("iand", (1 - A) * B, -B, 1 - A),
        ("or", torch.maximum(A, B), 1 - B, 1 - A),
    ],
)
def test_tables_and_gradients(op: str, table, da, db) -> None:
    a, b = A.clone().requires_grad_(), B.clone().requires_grad_()
    out = Join(op)(a, b)
    out.sum().backward()
    assert torch.equal(out, table)
    assert torch.equal(a.grad, da)
    assert torch.equal(b.grad, db)


def test_or_is_associative_and_unknown_joins_are_named() -> None:
    s = (torch.rand(3, 50) < 0.5).float()
    left = join(join(s[0], s[1], "or"), s[2], "or")
    assert torch.equal(left, join(s[0], join(s[1], s[2], "or"), "or"))
    with pytest.raises(ConfigError, match="did you mean 'iand'"):
        Join("iant")
    with pytest.raises(ConfigError, match="unknown join"):
        join(A, B, "xyz")


@pytest.mark.parametrize("cls", [Dropout, DropPath])
def test_one_mask_for_all_steps(cls) -> None:
    torch.manual_seed(0)
    T, batch = 3, 64
    layer = cls(0.4, T)
    y = timeline.split(layer(torch.ones(T * batch, 5, 2)), T)
    assert torch.equal(y[0], y[1])
    assert torch.equal(y[0], y[2])
    assert y.unique().tolist() == pytest.approx([0.0, 1 / 0.6])
    whole = y[0].flatten(1).std(1)
    assert (whole.max() == 0) == (cls is DropPath)
    assert abs(float((y == 0).float().mean()) - 0.4) < (0.2 if cls is DropPath else 0.06)


@pytest.mark.parametrize("cls", [Dropout, DropPath])
def test_identity_in_eval_and_checks(cls) -> None:
    x = torch.rand(6, 3)
    assert cls(0.5, 3).eval()(x) is x
    assert cls(0.0, 3)(x) is x
    with pytest.raises(ConfigError, match=r"\[0, 1\)"):
        cls(1.0, 3)
    with pytest.raises(ShapeError):
        cls(0.5, 4)(x)
    assert timeline.set_steps(torch.nn.Sequential(cls(0.5, 4)), 3)(x).shape == x.shape


def test_a_stream_keeps_its_mask() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(timeline.Entry(2, "frames"), Dropout(0.5, 2), timeline.Readout(2, "steps"))
    stream = picojoule.stream(model)
    first, second = stream(torch.ones(4, 2, 9)), stream(torch.ones(4, 1, 9))
    assert torch.equal(first[:, :1], second)
    stream.reset()
    assert not torch.equal(stream(torch.ones(4, 1, 9)), second)
