"""BatchNorm and neuron in one pass under torch.compile: whole graphs, results of the eager kernels."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import picojoule.neurons as pn
from picojoule.layers import PostBlock, fuse_norm_
from picojoule.neurons import leaky_native, norm_op
from picojoule.neurons.norm_native import norm_neuron

pytestmark = pytest.mark.skipif(not leaky_native.AVAILABLE, reason="built without the native extension")


class Pair(nn.Module):
    """A BatchNorm and the neuron behind it."""

    def __init__(self, norm: nn.Module, neuron: nn.Module) -> None:
        super().__init__()
        self.norm, self.neuron = norm, neuron

    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        return norm_neuron(self.norm, self.neuron, x, added)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    count: list[Any] = []
    fire = norm_op.fire
    monkeypatch.setattr(norm_op, "fire", lambda *a: (count.append(a), fire(*a))[1])
    torch.compiler.reset()
    yield count
    torch.compiler.reset()


# name: norm, neuron, shape of rows, rows are added, type
CASES: dict[str, tuple[Any, Any, tuple[int, ...], bool, torch.dtype]] = {
    "maps": (nn.BatchNorm2d(5), pn.LIF(2), (6, 5, 3, 4), False, torch.float32),
    "added": (nn.BatchNorm2d(5), pn.LIF(3, reset="soft"), (6, 5, 4, 4), True, torch.float32),
    "one step": (nn.BatchNorm1d(7), pn.IF(1), (5, 7), False, torch.float32),
    "sequence": (nn.BatchNorm1d(4), pn.ILIF(2), (4, 4, 9), False, torch.float32),
    "no weights": (nn.BatchNorm2d(3, affine=False), pn.LIF(2), (4, 3, 5, 5), True, torch.float32),
    "no memory": (
        nn.BatchNorm2d(3, track_running_stats=False),
        pn.LIF(2),
        (4, 3, 5, 5),
        False,
        torch.float32,
    ),
    "mean of all": (nn.BatchNorm2d(3, momentum=None), pn.LIF(2), (4, 3, 5, 5), False, torch.float32),
    "brief": (nn.BatchNorm2d(6), pn.LIF(2), (4, 6, 5, 5), True, torch.bfloat16),
}


def results(model: nn.Module, call: Any, x: Tensor, added: Tensor | None) -> list[Tensor]:
    """Spikes, gradients and buffers of two calls."""
    leaves = [
        t.detach().clone(memory_format=torch.preserve_format).requires_grad_()
        for t in (x, added)
        if t is not None
    ]
    model.zero_grad()
    for _ in range(2):
        y = call(*leaves)
        weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape)
        (y * weights).sum().backward()
    found = [y.detach(), *(t.grad for t in leaves), *(p.grad for p in model.parameters()), *model.buffers()]
    return [t.clone() for t in found if t is not None]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_compiled_equals_eager(name: str, training: bool, calls: list[Any]) -> None:
    norm, neuron, shape, more, dtype = CASES[name]
    torch.manual_seed(0)
    eager = Pair(copy.deepcopy(norm), copy.deepcopy(neuron)).train(training)
    for p in eager.parameters():
        nn.init.uniform_(p, 0.5, 1.5)
    model = copy.deepcopy(eager)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for last in (False, True) if len(shape) == 4 else (False,):
        order = torch.channels_last if last else torch.contiguous_format
        x, added = (torch.randn(shape).to(dtype).contiguous(memory_format=order) * 2 for _ in range(2))
        want = results(eager, eager, x, added if more else None)
        got = results(model, compiled, x, added if more else None)
        assert len(calls) == 2
        calls.clear()
        assert want[0].any()
        assert len(want) == len(got)
        for a, b in zip(want, got):
            assert a.stride() == b.stride()
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_operators_keep_their_promises() -> None:
    torch.manual_seed(0)
    neuron = pn.LIF(2)
    for order in (torch.contiguous_format, torch.channels_last):
        x = (torch.randn(4, 3, 5, 5) * 2).contiguous(memory_format=order).requires_grad_()
        added = torch.randn(4, 3, 5, 5, requires_grad=True)
        weight, bias = torch.rand(3, requires_grad=True), torch.rand(3, requires_grad=True)
        statistics = norm_op.moments_op(x.detach())
        torch.library.opcheck(norm_op.moments_op, (x.detach(),))
        for from_batch in (True, False):
            for side in (None, added):
                given = (x, side, weight, bias, statistics, 1e-5, 2, neuron.leaf, from_batch)
                torch.library.opcheck(norm_op.norm_op, given)


def test_a_whole_block_stays_one_graph(calls: list[Any]) -> None:
    torch.manual_seed(0)
    block = fuse_norm_(PostBlock(3, 8, lambda: pn.LIF(2, v_th=0.4), 2))
    twin, x = copy.deepcopy(block), torch.randn(6, 3, 9, 9)
    want, got = block(x), torch.compile(twin, fullgraph=True, backend="aot_eager")(x)
    assert len(calls) == 2
    torch.testing.assert_close(want, got)
    for key, value in block.state_dict().items():
        torch.testing.assert_close(value, twin.state_dict()[key])


@pytest.mark.parametrize("neuron", [pn.PLIF(2), pn.PSN(2)])
def test_other_neurons_are_compiled_as_modules(neuron: nn.Module, calls: list[Any]) -> None:
    torch.manual_seed(0)
    model = Pair(nn.BatchNorm2d(3), neuron)
    twin, x = copy.deepcopy(model), torch.randn(4, 3, 5, 5) * 2
    got = torch.compile(twin, fullgraph=True, backend="aot_eager")(x)
    torch.testing.assert_close(model(x), got)
    assert not calls


def test_a_neuron_changed_after_compilation_is_named() -> None:
    neuron, x = pn.LIF(2, surrogate="atan"), torch.randn(4, 3)
    statistics = norm_op.moments_op(x)
    given = (x, None, None, None, statistics, 1e-5, 2, neuron.leaf, True)
    norm_op.norm_op(*given)

    class Own(type(neuron.rule.surrogate)):  # a slope without a formula in the kernels
        pass

    neuron.rule = replace(neuron.rule, surrogate=Own())
    with pytest.raises(RuntimeError, match="compile the model again"):
        norm_op.norm_op(*given)


@pytest.mark.slow
def test_inductor(calls: list[Any]) -> None:
    torch.manual_seed(0)
    model = fuse_norm_(
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), pn.LIF(2, v_th=0.4), nn.Flatten())
    )
    twin, x = copy.deepcopy(model), torch.randn(6, 3, 9, 9)
    compiled = torch.compile(twin, fullgraph=True)
    for _ in range(2):
        want, got = model(x), compiled(x)
        torch.testing.assert_close(want, got)
        want.sum().backward()
        got.sum().backward()
    assert len(calls) == 2
    for a, b in zip(model.parameters(), twin.parameters()):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5)
