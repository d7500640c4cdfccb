"""SDSA is a bitwise OR and AND; E-SDSA's two orders are the same integers."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from picojoule.core.errors import ConfigError
from picojoule.layers.esdsa import ESDSA, linear_attention
from picojoule.layers.sdsa import SDSA
from picojoule.neurons import LIF, SFA


def sdsa(T: int, dim: int = 6) -> SDSA:
    return SDSA(dim, lambda: LIF(T), lambda: LIF(T, v_th=0.5))


def spikes(*shape: int, rate: float = 0.3, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(*shape, generator=generator) < rate).float()


@pytest.mark.parametrize("T", [1, 4, 7])
@pytest.mark.parametrize("rate", [0.1, 0.2, 0.5])
def test_sdsa_is_q_and_or_of_k_and_v(T: int, rate: float) -> None:
    q, k, v = (spikes(T * 3, 6, 3, 5, rate=rate, seed=s) for s in (1, 2, 3))
    out = sdsa(T).mask(q, k, v)
    opened = (k.bool() & v.bool()).flatten(2).any(-1)[..., None, None]
    assert torch.equal(out, (q.bool() & opened).float())
    assert opened.any()
    if rate < 0.2:
        assert not opened.all()


def test_another_threshold_makes_the_gate_remember() -> None:
    # Two silent-looking coincidences add up at threshold 1: the OR identity needs 0.5.
    layer = SDSA(1, lambda: LIF(2), lambda: LIF(2, v_th=0.6))
    ones = torch.ones(2, 1, 1, 1)
    assert layer.mask(ones, ones, ones).flatten().tolist() == [0.0, 1.0]


def test_sdsa_needs_no_products_of_matrices() -> None:
    layer, parts = sdsa(2), [spikes(4, 6, 3, 5, seed=s) for s in range(3)]
    with FlopCounterMode(display=False) as counter:
        layer.mask(*parts)
    assert counter.get_total_flops() == 0


def test_permuting_tokens_permutes_the_output() -> None:
    order = torch.randperm(15, generator=torch.Generator().manual_seed(0))

    def moved(x: torch.Tensor) -> torch.Tensor:
        return x.flatten(2)[..., order].unflatten(-1, (3, 5))

    parts = [spikes(8, 6, 3, 5, rate=0.15, seed=s) for s in range(3)]
    layer = sdsa(4)
    assert torch.equal(moved(layer.mask(*parts)), layer.mask(*map(moved, parts)))


def test_a_channel_of_sdsa_depends_on_itself_alone() -> None:
    # The published "heads" only reshape: nothing crosses channels between Q, K, V and the projection.
    q, k, v = (spikes(8, 6, 3, 5, seed=s) for s in range(3))
    layer = sdsa(4)
    before = layer.mask(q, k, v)
    for part in (q, k, v):
        part[:, 2] = 1 - part[:, 2]
    after = layer.mask(q, k, v)
    keep = [0, 1, 3, 4, 5]
    assert torch.equal(before[:, keep], after[:, keep])
    assert not torch.equal(before[:, 2], after[:, 2])


@pytest.mark.parametrize(("dim", "width", "heads"), [(8, 32, 2), (6, 6, 3), (5, 20, 1)])
def test_both_orders_are_the_same_integers(dim: int, width: int, heads: int) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randint(0, 5, (3, dim, 4, 3), generator=generator).float() for _ in range(2))
    v = torch.randint(0, 5, (3, width, 4, 3), generator=generator).float()
    first, second = linear_attention(q, k, v, heads), linear_attention(q, k, v, heads, "qk")
    assert torch.equal(first, second)
    qi, ki, vi = (x.long().flatten(2).unflatten(1, (heads, -1)) for x in (q, k, v))
    truth = torch.einsum("bhdn,bhdm,bhem->bhen", qi, ki, vi).flatten(1, 2)
    assert torch.equal(first.flatten(2).long(), truth)


def test_kv_first_costs_linear_in_tokens() -> None:
    def cost(side: int, order: str) -> int:
        q, v = torch.ones(1, 8, side, side), torch.ones(1, 8, side, side)
        with FlopCounterMode(display=False) as counter:
            linear_attention(q, q, v, 2, order)
        return counter.get_total_flops()

    assert cost(8, "kv") == 4 * cost(4, "kv")
    assert cost(8, "qk") == 16 * cost(4, "qk")


def test_esdsa_orders_agree_through_the_layer() -> None:
    torch.manual_seed(0)
    layer = ESDSA(16, SFA, heads=4).double()
    u = torch.randn(2, 16, 3, 3).double() * 3
    for part in (layer.q, layer.k, layer.v):
        torch.nn.init.constant_(part.norm.weight, 4.0)
    for _ in range(40):
        layer(u)
    layer.eval()
    first = layer(u)
    layer.order = "qk"
    assert torch.allclose(first, layer(u), atol=1e-12, rtol=0)
    assert first.abs().max() > 0.01
    assert sum(p.numel() for p in layer.parameters()) == (2 + 8) * 16**2 + (8 + 6) * 16


def test_esdsa_checks() -> None:
    with pytest.raises(ConfigError, match="heads must divide"):
        ESDSA(10, SFA, heads=4)
    with pytest.raises(ConfigError, match="'kv' or 'qk'"):
        ESDSA(8, SFA, heads=4, order="vk")
