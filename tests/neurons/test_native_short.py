"""Four steps at once: bit for bit what the kernels for any number of steps compute, on every processor."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from picojoule.neurons import IF, LIF, leaky_native
from picojoule.neurons.base import Membrane
from picojoule.neurons.norm_native import norm_neuron

pytestmark = pytest.mark.skipif(not leaky_native.AVAILABLE, reason="built without the native extension")
SHAPES = [(4, 5), (8, 3, 7, 5), (4 * 3, 33, 16, 16), (4 * 40, 64, 16, 16)]  # the last passes the caches by


@pytest.fixture
def isa() -> Iterator[None]:
    before = leaky_native._native.train_isa()
    yield
    leaky_native._native.set_train_isa(before)


def everywhere(call) -> list[list[Tensor]]:
    """Results of `call` on the kernels without a form for four steps, then on the others."""
    found = []
    for name in ("generic", "avx2", "avx512"):
        try:
            leaky_native._native.set_train_isa(name)
        except (ValueError, RuntimeError):
            continue  # this processor has none
        found.append(call())
    return found


def same(found: list[list[Tensor]]) -> None:
    assert found[0][0].any()
    for other in found[1:]:
        for a, b in zip(found[0], other):
            assert torch.equal(a, b)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("surrogate", ["atan", "rect", "triangle", "sigmoid", "superspike"])
@pytest.mark.parametrize(
    ("reset", "detach"), [("hard", True), ("hard", False), ("soft", True), ("soft", False), ("none", True)]
)
def test_neuron(shape: tuple[int, ...], surrogate: str, reset: str, detach: bool, isa: None) -> None:
    torch.manual_seed(0)
    x, g = torch.randn(shape) * 2, torch.randn(shape)
    v = torch.randn(shape[0] // 4, *shape[1:])
    layer = LIF(4, surrogate=surrogate, reset=reset, detach_reset=detach)

    def call() -> list[Tensor]:
        a, b = x.clone().requires_grad_(), v.clone().requires_grad_()
        fired = layer.run(a, 4, Membrane(b))
        (fired.spikes * g).sum().backward(retain_graph=True)
        fired.state.v.sum().backward()
        alone = torch.autograd.grad(layer(a), a, g)[0]
        return [fired.spikes.detach(), fired.state.v.detach(), a.grad, b.grad, alone]

    same(everywhere(call))


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize("shape", SHAPES[1:])
def test_with_norm(shape: tuple[int, ...], added: bool, last: bool, isa: None) -> None:
    torch.manual_seed(0)
    order = torch.channels_last if last else torch.contiguous_format
    x, r, g = ((torch.randn(shape) * 2).contiguous(memory_format=order) for _ in range(3))

    def call() -> list[Tensor]:
        norm, neuron = nn.BatchNorm2d(shape[1]), IF(4, surrogate="atan")
        a, b = x.clone().requires_grad_(), r.clone().requires_grad_()
        s = norm_neuron(norm, neuron, a, b if added else None)
        inputs = [a, *norm.parameters(), *([b] if added else [])]
        return [s.detach(), *torch.autograd.grad(s, inputs, g), norm.running_var]

    same(everywhere(call))


def test_threads_and_a_part_of_a_vector(isa: None) -> None:
    torch.manual_seed(0)
    layer, x = LIF(4, surrogate="atan"), torch.randn(4, 70001) * 2
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            a = x.clone().requires_grad_()
            s = layer(a)
            found.append([s.detach(), torch.autograd.grad(s.sum(), a)[0]])
    finally:
        torch.set_num_threads(before)
    same(found)
