"""Integer training equals binary inference over virtual steps: the theorem, its limits, and its mutants."""

import itertools

import pytest
import torch
from torch.nn import functional as F

from picojoule import neurons as pn
from picojoule.core.errors import KindError
from picojoule.neurons import expand as ex

D64 = torch.float64


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=D64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("D", [1, 2, 4, 8])
@pytest.mark.parametrize("rounding", ["half_up", "half_even"])
def test_theorem_1_on_one_step(D, rounding):
    u = randn(100_000) * D
    u[:40] = torch.arange(-10, 30, dtype=D64) / 2  # every tie
    trains, left = ex.micro_neuron(u, D, rounding)
    c = u.clamp(0, D)
    n = c.round() if rounding == "half_even" else c.floor() + (c - c.floor() >= 0.5)
    assert torch.equal(trains.sum(0), n)
    assert bool((trains[:-1] >= trains[1:]).all()), "trains are thermometers"
    assert torch.equal(left, u - n), "to the bit"


@pytest.mark.parametrize("D", [1, 2, 4, 8])
@pytest.mark.parametrize("rounding", ["half_up", "half_even"])
def test_theorem_1_over_steps(D, rounding):
    x = (randn(6 * 500, 4) * D * 16).round() / 16
    neuron = pn.ILIF(6, D=D, N=D, rounding=rounding)
    fired = neuron.run(x, 6)
    trains, left = ex.run_virtual(neuron, x, 6)
    assert torch.equal(trains.sum(0) / D, fired.spikes)
    assert torch.equal(left, fired.state.v)
    assert torch.equal(trains, ex.thermometer(trains.sum(0), D))


def test_ties():
    u = torch.tensor([0.5, 1.5, 2.5, 3.5], dtype=D64)
    assert ex.micro_neuron(u, 4, "half_even")[0].sum(0).tolist() == [0, 2, 2, 4]
    assert ex.micro_neuron(u, 4, "half_up")[0].sum(0).tolist() == [1, 2, 3, 4]


def test_run_virtual_equals_every_integer_neuron():
    x = randn(2 * 50, 3) * 3
    for neuron in (pn.NILIF(2), pn.SFA(2, D=8), pn.IELIF(2), pn.ILIF(2)):
        trains, _ = ex.run_virtual(neuron, x, 2)
        torch.testing.assert_close(trains.sum(0) / neuron.N, neuron(x), atol=1e-15, rtol=0)
    with pytest.raises(KindError, match="binary"):
        ex.run_virtual(pn.LIF(2), x, 2)


def layers():
    w = (randn(4, 3, 3, 3) * 8).round() / 8
    depth = (randn(3, 1, 3, 3) * 8).round() / 8
    bias = (randn(4, seed=2) * 8).round() / 8
    return {
        "conv": (lambda x: F.conv2d(x, w, padding=1), bias.view(1, -1, 1, 1)),
        "depthwise": (lambda x: F.conv2d(x, depth, padding=1, groups=3), torch.tensor(0.25, dtype=D64)),
        "pool": (lambda x: F.avg_pool2d(x, 2), torch.tensor(0.0, dtype=D64)),
    }


@pytest.mark.parametrize("name", ["conv", "depthwise", "pool"])
@pytest.mark.parametrize("code", ["unary", "bits"])
def test_theorem_2_and_3_layers_between_neurons(name, code):
    linear, bias = layers()[name]
    n = torch.randint(0, 5, (2, 3, 6, 6), generator=torch.Generator().manual_seed(0)).double()
    N = 4
    virtual = ex.expansion(4, code, 1 / N)
    planes = virtual.planes(n / N)
    got = sum(w * linear(b) for w, b in zip(virtual.weights, planes)) / N + bias
    assert torch.equal(got, linear(n / N) + bias)
    if name == "conv":
        mutant = sum(w * (linear(b) / N + bias) for w, b in zip(virtual.weights, planes))
        assert not torch.equal(mutant, linear(n / N) + bias), "the bias belongs to the real step"


def test_horner_needs_no_multiplier():
    linear, _ = layers()["conv"]
    n = torch.randint(0, 5, (2, 3, 6, 6), generator=torch.Generator().manual_seed(0)).double()
    acc = torch.zeros_like(linear(n))
    for plane in ex.bit_planes(n, 3):
        acc = 2 * acc + linear(plane)
    assert torch.equal(acc, linear(n))


def test_max_pooling_commutes_with_the_unary_code_only():
    n = torch.randint(0, 5, (2, 3, 8, 8), generator=torch.Generator().manual_seed(0)).double()
    pooled = F.max_pool2d(n, 2)
    unary = sum(F.max_pool2d(b, 2) for b in ex.thermometer(n, 4))
    assert torch.equal(unary, pooled)
    bits = sum(w * F.max_pool2d(b, 2) for w, b in zip(ex.bit_weights(3), ex.bit_planes(n, 3)))
    assert not torch.equal(bits, pooled)


def test_products_of_two_spike_tensors_in_d_plus_d_passes():
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randint(0, 5, (6, 8), generator=g).double() for _ in range(3))
    s = sum(kd.T @ v for kd in ex.thermometer(k, 4))
    assert torch.equal(sum(qd @ s for qd in ex.thermometer(q, 4)), q @ (k.T @ v))
    gate = sum(a * b for a, b in itertools.product(ex.thermometer(q, 4), ex.thermometer(k, 4)))
    assert torch.equal(gate, q * k)


def test_one_level_is_a_threshold_of_a_half():
    u = torch.linspace(-1, 2, 301, dtype=D64).reshape(-1, 1)
    out = pn.NILIF(D=1, rounding="half_up").run(u, 1)
    assert torch.equal(out.spikes, (u >= 0.5).double())
    assert torch.equal(pn.ILIF(1, D=1, rounding="half_up").run(u, 1).state.v, u - out.spikes), (
        "reset by 1, not 1/2"
    )


def test_spike_counts_for_energy():
    n = torch.tensor([0.0, 1, 2, 3, 4], dtype=D64)
    unary, bits = pn.ILIF(D=4).expand(), pn.ILIF(D=4).expand("bits")
    assert unary.steps == 4
    assert bits.steps == 3
    assert unary.spikes_per_count(n).tolist() == [0, 1, 2, 3, 4]
    assert bits.spikes_per_count(n).tolist() == [0, 1, 1, 2, 1]
    assert bits.spikes_per_count(n).mean() == 1.0
    assert n.mean() == 2.0


@pytest.mark.parametrize("code", ["unary", "bits"])
@pytest.mark.parametrize(
    "neuron", [pn.ILIF(2, D=4), pn.NILIF(2, D=3), pn.SFA(2, D=8), pn.IELIF(2, N=2)], ids=repr
)
def test_expand_round_trip(neuron, code):
    virtual = neuron.expand(code)
    s = neuron(randn(40, 3) * 3)
    planes = virtual.planes(s)
    assert set(planes.unique().tolist()) <= {0.0, 1.0}
    assert planes.shape[0] == virtual.steps
    torch.testing.assert_close(virtual.decode(planes), s, atol=1e-15, rtol=0)


def test_expand_is_for_integers():
    with pytest.raises(KindError, match="integer neurons"):
        pn.LIF().expand()
    with pytest.raises(ValueError, match="unary, bits"):
        pn.ILIF().expand("gray")


def test_signed_codes():
    n = torch.arange(-8, 8, dtype=D64)
    planes = ex.twos_complement(n, 4)
    assert set(planes.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(ex.decode(planes, ex.bit_weights(4, signed=True)), n)
    assert not torch.equal(ex.decode(planes, ex.bit_weights(4)), n)
    m = torch.arange(-7, 8, dtype=D64)
    assert torch.equal(ex.decode(ex.sign_magnitude(m, 3), ex.bit_weights(3)), m)
    with pytest.raises(KindError, match=r"-8\.\.7"):
        ex.twos_complement(torch.tensor([8.0]), 4)
    with pytest.raises(KindError, match="below 8"):
        ex.sign_magnitude(torch.tensor([-8.0]), 3)


@pytest.mark.parametrize(("T", "levels"), [(1, 16), (3, 16), (4, 2), (5, 4)])
def test_count_coder_emits_the_whole_count(T, levels):
    limit = T * (levels - 1)
    q = torch.arange(-limit, limit + 1, dtype=D64)
    s = ex.count_coder(q, T, levels)
    assert torch.equal(s.sum(0), q)
    assert s.abs().max() <= levels - 1
    beyond = ex.count_coder(torch.tensor([limit + 1.0]), T, levels)
    assert beyond.sum() == limit
    assert torch.equal(ex.count_coder(q.abs(), limit, 2), ex.thermometer(q.abs(), limit))


def test_bitwise_coder_weights_sum_to_the_count():
    q = torch.arange(0, 16, dtype=D64)
    planes = ex.bit_planes(q, 4)
    assert torch.equal(sum(2 ** (3 - t) * planes[t] for t in range(4)), q)
