"""Blocks: shapes, parameter formulas, identities of shortcuts."""

from __future__ import annotations

import pytest
import torch

from picojoule.layers import ConvNorm, ConvNormNeuron, NeuronConvNorm, SpikingMLP
from picojoule.layers.residual import MSBlock, PostBlock, SEWBlock, SEWBottleneck
from picojoule.layers.sepconv import ConvBlock, SepConv
from picojoule.neurons import IF, LIF, SFA


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_orders_of_conv_norm_and_neuron() -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 3, 7, 5) * 3
    spikes = ConvNormNeuron(3, 8, lambda: LIF(2), 3, 2)(x)
    assert spikes.shape == (4, 8, 4, 3)
    assert set(spikes.unique().tolist()) == {0.0, 1.0}
    membranes = NeuronConvNorm(3, 8, lambda: LIF(2), 5)(x)
    assert membranes.shape == (4, 8, 7, 5)
    assert membranes.unique().numel() > 2
    assert ConvNorm(3, 6, 1, groups=3, bias=True).conv.weight.shape == (6, 1, 1, 1)


@pytest.mark.parametrize("dim", [4, 6])
def test_parameter_formulas(dim: int) -> None:
    assert count(SepConv(dim, SFA, 7)) == 4 * dim**2 + 2 * 49 * dim + 10 * dim
    assert count(ConvBlock(dim, SFA, 7)) == count(SepConv(dim, SFA, 7)) + 72 * dim**2 + 10 * dim
    assert count(SpikingMLP(dim, SFA)) == 8 * dim**2 + 15 * dim


def test_every_convolution_of_the_conv_block_sees_counts() -> None:
    torch.manual_seed(0)
    block = ConvBlock(4, SFA, 3)
    seen = []
    for module in block.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_pre_hook(lambda m, x: seen.append(x[0]))
    block(torch.randn(2, 4, 6, 6) * 4)
    assert len(seen) == 5
    for x in seen:
        assert set((x * 4).unique().tolist()) <= {0.0, 1.0, 2.0, 3.0, 4.0}
        assert x.max() > 0


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("width", [6, 8])
@pytest.mark.parametrize("block", [MSBlock, SEWBlock, SEWBottleneck, PostBlock])
def test_residual_shapes(block, width: int, stride: int) -> None:
    x = (torch.rand(4, 6, 7, 7) < 0.5).float()
    side = 7 if stride == 1 else 4
    assert block(6, width, lambda: IF(2), stride)(x).shape == (4, width * block.expansion, side, side)


def test_silent_branches_leave_the_shortcut() -> None:
    s = (torch.rand(6, 5, 4, 4) < 0.5).float()
    for block in (
        MSBlock(5, 5, lambda: IF(2)),
        SEWBlock(5, 5, lambda: IF(2)),
        PostBlock(5, 5, lambda: IF(2)),
    ):
        torch.nn.init.zeros_(block.get_submodule("conv2.norm").weight)
        assert torch.equal(block(s), s), type(block).__name__


def test_sew_joins() -> None:
    torch.manual_seed(0)
    s = (torch.rand(6, 5, 4, 4) < 0.5).float()
    highest = {}
    for op in ("add", "and", "iand", "or"):
        highest[op] = SEWBlock(5, 5, lambda: IF(2, 0.1), op=op)(s).max().item()
    assert highest == {"add": 2.0, "and": 1.0, "iand": 1.0, "or": 1.0}
