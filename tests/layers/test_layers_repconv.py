"""RepConv merges exactly, thanks to its border."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import picojoule
from picojoule.graph.executor import execute
from picojoule.layers.repconv import RepConv


def random_rep(c_in: int = 5, c_out: int = 7) -> RepConv:
    torch.manual_seed(0)
    rep = RepConv(c_in, c_out).double()
    for norm in (rep.norm, rep.out_norm):
        nn.init.uniform_(norm.weight, -2, 2)
        nn.init.uniform_(norm.bias, -1, 1)
        norm.running_mean.uniform_(-1, 1)
        norm.running_var.uniform_(0.2, 2)
    return rep.eval()


def test_merge_is_exact_and_needs_its_border() -> None:
    rep = random_rep()
    x = (torch.rand(3, 5, 6, 4) < 0.4).double()
    dense = rep.merge()
    assert torch.allclose(rep(x), dense(x), atol=1e-12, rtol=0)
    plain = rep.out_norm(
        rep.pointwise(nn.functional.conv2d(rep.norm(rep.conv(x)), rep.depthwise.weight, padding=1, groups=5))
    )
    wrong = (plain - dense(x)).abs()
    assert wrong[..., 1:-1, 1:-1].max() < 1e-12
    assert wrong.max() > 1e-2


def test_zero_plane_has_no_border() -> None:
    y = random_rep()(torch.zeros(1, 5, 6, 6).double())
    assert torch.allclose(y, y[..., 2:3, 2:3].expand_as(y), atol=1e-12)


@pytest.mark.parametrize(("c_in", "c_out"), [(5, 7), (8, 8)])
def test_counts(c_in: int, c_out: int) -> None:
    rep = RepConv(c_in, c_out)
    assert sum(p.numel() for p in rep.parameters()) == c_in**2 + 9 * c_in + c_in * c_out + 2 * (c_in + c_out)
    assert rep.merge().weight.numel() == 9 * c_in * c_out


def test_the_border_passes_no_gradient_and_is_captured() -> None:
    rep = random_rep()
    assert not rep.border().requires_grad
    x = torch.randn(2, 5, 4, 4).double()
    (out,) = execute(picojoule.capture(rep, x), x).values()
    assert torch.allclose(out, rep(x), atol=1e-10, rtol=0)


def test_statistics_are_needed() -> None:
    rep = random_rep()
    rep.norm = nn.BatchNorm2d(5, track_running_stats=False)
    with pytest.raises(ValueError, match="running statistics"):
        rep.merge()
