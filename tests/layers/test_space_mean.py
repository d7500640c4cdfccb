"""The mean over an image: ordinary values and gradients, in the memory order of the image."""

from __future__ import annotations

import pytest
import torch

import picojoule
from picojoule.layers.space_mean import space_mean

ORDERS = [torch.contiguous_format, torch.channels_last]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    "shape", [(3, 8, 5, 7), (2, 16, 1, 1), (1, 1, 4, 4), (0, 4, 3, 3), (2, 6, 1, 5)], ids=str
)
def test_values_and_gradients_are_those_of_mean(shape: tuple[int, ...], order: torch.memory_format) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape).contiguous(memory_format=order).requires_grad_()
    y, want = space_mean(x), x.mean((-2, -1))
    g = torch.randn_like(want)
    assert torch.equal(y, want)
    dx, dwant = torch.autograd.grad(y, x, g)[0], torch.autograd.grad(want, x, g)[0]
    assert torch.equal(dx, dwant)
    if x.numel():
        assert dx.is_contiguous(memory_format=order)


def test_other_inputs() -> None:
    x = torch.randn(2, 3, 4, 8)[..., ::2].requires_grad_()
    assert torch.equal(space_mean(x), x.mean((-2, -1)))
    rows = torch.randn(3, 4, 5, requires_grad=True)
    assert torch.equal(space_mean(rows), rows.mean((-2, -1)))


@pytest.mark.parametrize("name", ["sdt_v1_tiny", "sdt_v3_tiny", "spiking_resnet_tiny"])
def test_gradients_stay_in_order_through_a_model(name: str) -> None:
    torch.manual_seed(0)
    model = picojoule.create_model(name).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    seen: list[bool] = []

    def note(module: torch.nn.Module, grads: tuple[torch.Tensor, ...], out: object) -> None:
        g = grads[0]
        seen.append(g.is_contiguous(memory_format=torch.channels_last))

    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.register_full_backward_hook(lambda m, i, o: note(m, o, None))
    x = torch.randn(4, 1, 8, 8).contiguous(memory_format=torch.channels_last)
    model(x).square().sum().backward()
    assert seen
    assert all(seen)
