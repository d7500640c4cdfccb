"""Neurons against their printed equations, written out here once more, and the facts the notes assert."""

import math

import pytest
import torch

from picojoule import neurons as pn
from picojoule.core.errors import ConfigError, PackError, ShapeError
from picojoule.neurons import surrogate as sg
from picojoule.neurons.fire import heaviside

D = torch.float64


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=D, generator=torch.Generator().manual_seed(seed))


def test_lif_on_a_constant_current():
    x = torch.ones(20, 1, dtype=D)
    fired = pn.LIF(20).run(x, 20, None, True)
    assert fired.h[:3].flatten().tolist() == [0.5, 0.75, 0.875]
    assert fired.spikes.sum() == 0
    assert pn.LIF(20, decay_input=False)(x).sum() == 20


def test_decay_quarter_and_integers_of_one_level():
    x = randn(8 * 50, 4)
    a = pn.LIF(8, tau=4 / 3, decay_input=False)(x)
    v, spikes = torch.zeros(50, 4, dtype=D), []
    for current in x.reshape(8, 50, 4):
        h = 0.25 * v + current
        s = (h >= 1).double()
        v = (1 - s) * h
        spikes.append(s)
    assert torch.equal(a, torch.cat(spikes))
    one = pn.ILIF(1, D=1)
    assert one(torch.tensor([[0.51], [0.5], [0.49]], dtype=D), T=1).flatten().tolist() == [1, 0, 0]
    assert pn.LIF(1, decay_input=False)(torch.tensor([[0.51]], dtype=D)).item() == 0


def test_rounding_of_ties():
    u = torch.tensor([[0.5], [1.5], [2.5], [3.5]], dtype=D)
    assert pn.NILIF(N=1)(u).flatten().tolist() == [0, 2, 2, 4]
    assert pn.NILIF(N=1, rounding="half_up")(u).flatten().tolist() == [1, 2, 3, 4]
    just_below = torch.tensor([[math.nextafter(0.5, 0)]], dtype=D)
    assert pn.NILIF(N=1, rounding="half_up")(just_below).item() == 0


def test_integer_window_open_or_closed():
    for open_window, expected in ((False, [0, 1, 1, 1, 0]), (True, [0, 0, 1, 0, 0])):
        u = torch.tensor([[-0.1], [0.0], [2.0], [4.0], [4.1]], dtype=D, requires_grad=True)
        pn.SFA(N=1, open_window=open_window)(u).sum().backward()
        assert u.grad.flatten().tolist() == expected


def test_ielif_is_the_official_formula():
    x = torch.linspace(-0.5, 1.5, 161, dtype=D).reshape(-1, 1).requires_grad_()
    for N in (4, 2):
        out = pn.IELIF(1, D=4, N=N)(x)
        assert torch.equal(out, ((4 * x).clamp(0, 4) + 0.5).floor() / N)
        (g,) = torch.autograd.grad(out.sum(), x)
        assert torch.equal(g, ((4 * x > 0) & (4 * x < 4)).double() * 4 / N)


def test_soft_reset_conserves_charge():
    x = randn(16 * 5, 3)
    fired = pn.IF(16, v_reset=None).run(x, 16)
    total, spikes = x.reshape(16, 5, 3).sum(0), fired.spikes.reshape(16, 5, 3).sum(0)
    torch.testing.assert_close(fired.state.v, total - spikes, atol=1e-12, rtol=0)


def test_half_threshold_rounds_the_rate():
    rate = torch.linspace(0, 1, 33, dtype=D).reshape(1, -1)
    T = 16
    out = pn.IF.half_threshold(T)(rate.repeat(T, 1)).sum(0)
    assert torch.equal(out, (rate[0] * T + 0.5).floor())


def test_sliding_psn_is_if_with_full_leak():
    x = randn(6 * 5, 3)
    psn = pn.SlidingPSN(6, k=1).double()
    assert torch.equal(psn(x), (x >= 1).double())
    assert torch.equal(psn(x), pn.LIF(6, decay=0.0, decay_input=False)(x))


def test_triangular_psn_is_lif_without_reset():
    T, tau = 6, 2.0
    psn = pn.PSN(T).double()
    t = torch.arange(T, dtype=D)
    with torch.no_grad():
        psn.weight.copy_(torch.tril((1 - 1 / tau) ** (t[:, None] - t[None, :])) / tau)
        psn.bias.fill_(-1.0)
    x = randn(T * 50, 4) * 2
    a = psn.run(x, T, None, True)
    b = pn.LIF(T, tau=tau, reset="none").run(x, T, None, True)
    torch.testing.assert_close(a.h + 1, b.h, atol=1e-12, rtol=0)
    assert torch.equal(a.spikes, b.spikes)


def test_masked_psn_is_causal_only_when_the_mask_is_whole():
    neuron = pn.MaskedPSN(4, k=2, lam=0.0).double()
    assert not neuron.causal
    neuron.lam = 1.0
    assert neuron.causal
    x = randn(4, 3).requires_grad_()
    h = neuron.run(x, 4, None, True).h
    (g,) = torch.autograd.grad(h[1].sum(), x)
    assert torch.equal(g[2:], torch.zeros(2, 3, dtype=D))
    matrix, _ = neuron.time_matrix()
    assert (matrix == neuron.weight.detach().numpy() * neuron.mask.numpy()).all()
    fresh = pn.MaskedPSN(4, k=2)
    fresh.load_state_dict(neuron.state_dict())
    assert fresh.causal, "the blend is saved with the model"
    with pytest.raises(ValueError, match="lam"):
        neuron.lam = 1.5


def test_leaky_delayed_subtract_is_not_decayed():
    beta, x = 0.9, randn(40 * 10, 3) + 0.2
    mem, out = torch.zeros(10, 3, dtype=D), []
    for current in x.reshape(40, 10, 3):
        mem = beta * mem + current - (mem > 1).double()
        out.append(mem)
    fired = pn.Leaky(40, beta=beta).run(x, 40, None, True)
    torch.testing.assert_close(fired.h, torch.cat(out), atol=1e-12, rtol=0)
    assert torch.equal(fired.spikes, (torch.cat(out) > 1).double())
    immediate = pn.Leaky(40, beta=beta, reset_delay=False)(x)
    assert (immediate != fired.spikes).sum() > 0
    same = [pn.Leaky(40, beta=1.0, reset_delay=delay)(x) for delay in (False, True)]
    assert torch.equal(*same)


def test_mem_update_family():
    x = randn(6 * 20, 3)
    mem, s, out = torch.zeros(20, 3, dtype=D), torch.zeros(20, 3, dtype=D), []
    for current in x.reshape(6, 20, 3):
        mem = 0.25 * mem * (1 - s) + current
        s = (mem > 0.5).double()
        out.append(s)
    neuron = pn.convention("mem_update", 6)
    assert torch.equal(neuron(x), torch.cat(out))
    assert neuron.detach_reset
    h = torch.tensor([[0.01], [0.99], [-0.01], [1.01]], dtype=D, requires_grad=True)
    neuron(h, T=1).sum().backward()
    assert h.grad.flatten().tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize(("name", "r"), [("ifcell_ma", 0.3), ("ifcell_asa", 0.0)])
def test_ifcell_family(name, r):
    x = randn(6 * 20, 3) * 0.5
    h, out = torch.zeros(20, 3, dtype=D), []
    for current in x.reshape(6, 20, 3):
        u = h + current
        s = (u >= 0.3).double()
        h = 0.3 * (s * r + (1 - s) * u)
        out.append(s)
    neuron = pn.convention(name, 6)
    assert torch.equal(neuron(x), torch.cat(out))
    g = torch.tensor([[0.31], [0.54], [0.56]], dtype=D, requires_grad=True)
    neuron(g, T=1).sum().backward()
    assert g.grad.flatten().tolist() == [2, 2, 0]


def test_esvae_window_is_centred_on_zero():
    neuron = pn.convention("esvae", 1)
    h = torch.tensor([[-0.49], [0.2], [0.49], [0.51]], dtype=D, requires_grad=True)
    out = neuron(h)
    assert out.flatten().tolist() == [0, 0, 1, 1]
    out.sum().backward()
    assert h.grad.flatten().tolist() == [1, 1, 1, 0]
    with pytest.raises(ConfigError, match="esvae"):
        pn.convention("esva")


def test_ternary_is_odd_and_resets_to_zero():
    x = randn(5 * 20, 3)
    for reset in ("hard", "soft", "none"):
        neuron = pn.TernaryLIF(5, reset=reset)
        assert torch.equal(neuron(-x), -neuron(x))
    fired = pn.TernaryLIF(1).run(torch.tensor([[0.7], [-0.5], [0.4]], dtype=D), 1)
    assert fired.spikes.flatten().tolist() == [1, -1, 0]
    assert fired.state.v.flatten().tolist() == [0, 0, 0.4]


class TestElastic:
    def test_amplitude_is_measured_once(self):
        neuron = pn.ElasticTernary(3)
        x = torch.randn(3 * 64, 32, generator=torch.Generator().manual_seed(0))
        out = neuron(x)
        a = neuron.amplitude.clone()
        assert a[0].item() == pytest.approx(2 * x[:64].abs().mean().item(), rel=1e-6)
        assert bool(neuron.initialised.all())
        for t, part in enumerate(out.reshape(3, 64, 32)):
            assert set(part.unique().tolist()) <= {-a[t].item(), 0.0, a[t].item()}
        neuron(10 * x)
        assert torch.equal(neuron.amplitude, a)
        fresh = pn.ElasticTernary(3)
        fresh.load_state_dict(neuron.state_dict())
        assert torch.equal(fresh.eval()(x), neuron.eval()(x))

    @pytest.mark.parametrize(("draw", "expected"), [("normal", 0.425), ("laplace", math.exp(-1))])
    def test_firing_rate(self, draw, expected):
        torch.manual_seed(0)
        m = (
            torch.randn(10**6, 1)
            if draw == "normal"
            else torch.distributions.Laplace(0.0, 1.0).sample((10**6, 1))
        )
        assert pn.ElasticTernary(1)(m).ne(0).float().mean().item() == pytest.approx(expected, abs=0.005)

    def test_one_step_is_the_lsq_quantizer_and_scales(self):
        neuron = pn.ElasticTernary(1).double().eval()
        neuron.amplitude.fill_(0.8)
        x = randn(50, 3).requires_grad_()
        s = neuron(x)
        assert torch.equal(s, 0.8 * (x / 0.8).round().clamp(-1, 1))
        (g,) = torch.autograd.grad(s.sum(), x)
        assert torch.equal(g, (x.abs() <= 0.8).double())
        neuron.amplitude.fill_(1.6)
        assert torch.equal(neuron(2 * x), 2 * s)

    def test_the_carry_after_each_spike(self):
        m = torch.tensor([[0.9], [0.3], [-0.9]], dtype=D)
        official = pn.ElasticTernary(2, official=True).double().eval()
        official.amplitude.fill_(0.8)
        left = official.run(m, 1).state.v.flatten()
        torch.testing.assert_close(left, torch.tensor([0.0, 0.25 * 0.8 * 0.3, 0.5 * 0.8 * -0.9], dtype=D))
        ours = pn.ElasticTernary(2).double().eval()
        ours.amplitude.fill_(0.8)
        left = ours.run(m, 1).state.v.flatten()
        torch.testing.assert_close(left, torch.tensor([0.0, 0.25 * 0.3, 0.0], dtype=D))

    def test_amplitude_folds_into_weights(self):
        neuron = pn.ElasticTernary(2, shared=True).double().eval()
        neuron.amplitude.fill_(0.7)
        spec = neuron.lower()
        assert spec.out_scale == 0.7
        s, w = neuron(randn(20, 4)), randn(4, 5, seed=3)
        torch.testing.assert_close(s @ w, (s / 0.7).round() @ (w * 0.7), atol=1e-12, rtol=0)

    def test_learned_amplitude_gets_the_lsq_gradient(self):
        neuron = pn.ElasticTernary(1, learn=True).double().eval()
        x = torch.tensor([[0.3], [0.7], [1.5], [-2.0]], dtype=D)
        neuron(x).sum().backward()
        expected = ((0 - 0.3) + (1 - 0.7) + 1 - 1) / 2
        assert neuron.amplitude.grad.item() == pytest.approx(expected, abs=1e-12)

    def test_refusals(self):
        neuron = pn.ElasticTernary(2).eval()
        with pytest.raises(ShapeError, match="shared=True"):
            neuron(torch.zeros(3, 1), T=3)
        neuron.amplitude.copy_(torch.tensor([1.0, 2.0]))
        with pytest.raises(PackError, match="shared=True"):
            neuron.lower()
        with pytest.raises(PackError, match="official=False"):
            pn.ElasticTernary(2, shared=True, official=True).lower()


def test_rf_is_a_complex_exponential():
    neuron = pn.RF(8, channels=3, dt=0.2, v_th=10.0).double()
    x = randn(8 * 2, 3)
    h = neuron.run(x, 8, None, True).h.detach().reshape(8, 2, 3)
    rate = torch.exp(0.2 * torch.complex(-neuron.damping.detach().abs(), neuron.omega.detach()))
    z = torch.zeros(2, 3, dtype=torch.complex128)
    for t, current in enumerate(x.reshape(8, 2, 3)):
        z = rate * z + 0.2 * current
        torch.testing.assert_close(h[t], z.real, atol=1e-12, rtol=0)


def test_rf_resonates_with_its_own_frequency():
    T, dt = 400, 0.05
    neuron = pn.RF(T, channels=4, dt=dt, omega=(2.0, 8.0), damping=0.2, v_th=100.0).double()
    w = neuron.omega.detach()
    t = torch.arange(T, dtype=D)
    for i in range(4):
        x = torch.cos(w[i] * dt * t)[:, None].expand(T, 4)
        h = neuron.run(x, T, None, True).h.detach()
        assert h[T // 2 :].abs().amax(0).argmax() == i


def test_balanced_rf_is_stable_for_every_frequency():
    neuron = pn.BRF(4, channels=32, dt=0.01, omega=(1.0, 99.0)).double()
    w = neuron.omega.detach().double().view(1, -1)
    size = torch.exp(0.01 * neuron.rate(w, torch.zeros(1, 32, dtype=D)))
    assert bool((size < 1).all())
    with pytest.raises(ValueError, match="lower dt"):
        pn.BRF(4, dt=0.5)


def test_rf_refractory_trace_raises_the_threshold():
    x = torch.full((30, 1), 5.0, dtype=D)
    free, held = pn.RF(30, dt=0.5, v_th=1.0), pn.RF(30, dt=0.5, v_th=1.0, gamma=0.9)
    assert 0 < held.double()(x).sum() < free.double()(x).sum()


def test_alif_adapts_and_without_adaptation_is_lif():
    x = torch.full((50, 1), 0.9, dtype=D)
    plain = pn.ALIF(50, adapt=0.0)(x)
    assert torch.equal(plain, pn.LIF(50, decay=0.5, decay_input=False, v_reset=None)(x))
    adapted = pn.ALIF(50, a_decay=0.9)(x)
    assert adapted[:10].sum() > adapted[-10:].sum()


def test_klif_at_k_one_is_a_rectified_lif():
    x = randn(6 * 20, 3).abs()  # positive currents: the rectifier is the identity
    assert torch.equal(pn.KLIF(6).double()(x), pn.LIF(6)(x))


def test_cuba_reset_spares_the_current():
    state = pn.CUBA(1).run(torch.tensor([[2.0]], dtype=D), 1).state
    assert state.v.item() == 0
    assert state.c.item() == 2.0


def test_from_step_checks_what_it_gets():
    bad = pn.from_step(lambda x, s: x, lambda x0: x0, T=2, name="mine")
    with pytest.raises(ShapeError, match="mine"):
        bad(torch.zeros(4, 2))
    without_h = pn.from_step(lambda x, s: (x, (s[0],)), lambda x0: (x0,), T=2)
    with pytest.raises(ValueError, match="no h"):
        without_h.run(torch.zeros(4, 2), 2, None, True)
    shrinks = pn.from_step(lambda x, s: (x[:1], s), lambda x0: (x0,), T=2, name="cut")
    with pytest.raises(ShapeError, match="batch axis"):
        shrinks(torch.zeros(4, 2))


def test_from_step_trains_a_module():
    class Cell(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.decay = torch.nn.Parameter(torch.tensor(0.5))

        def forward(self, x, state):
            h = self.decay * state[0] + x
            s = pn.LIF(1, decay=0.0, decay_input=False)(h)
            return s, (h - s,), h

    neuron = pn.from_step(Cell(), lambda x0: (torch.zeros_like(x0),), T=3)
    assert [name for name, _ in neuron.named_parameters()] == ["step_fn.decay"]
    neuron(torch.rand(6, 4)).sum().backward()
    assert neuron.step_fn.decay.grad.abs() > 0


def autograd_cost(T):
    """(nodes of the graph, bytes saved, names of nodes) of a user's neuron over T steps."""

    def leaky_step(x, state):
        h = 0.5 * state[0] + x
        s = heaviside(h - 1.0, sg.get("atan"))
        return s, (h - s,)

    neuron = pn.from_step(leaky_step, lambda x0: (torch.zeros_like(x0),), T=T)
    saved, x = [], torch.ones(T * 2, 3, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (saved.append(t.nbytes), t)[1], lambda t: t):
        spikes = neuron(x)
    seen, todo = set(), [spikes.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo.extend(parent for parent, _ in node.next_functions)
    return len(seen), sum(saved), {node.name() for node in seen}


def test_cost_of_a_users_step_grows_linearly_with_steps():
    """Nodes and saved bytes grow by the same amount a step, and no step indexes x, which costs O(T^2)."""
    costs = [autograd_cost(T) for T in (4, 8, 16, 32)]
    for what in (0, 1):
        a, b, c, d = (cost[what] for cost in costs)
        assert b > a
        assert c - b == 2 * (b - a)
        assert d - c == 2 * (c - b)
    assert not any("Select" in name or "Slice" in name for name in costs[-1][2])
    assert "UnbindBackward0" in costs[-1][2]
