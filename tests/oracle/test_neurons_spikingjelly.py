"""Neurons and surrogates against SpikingJelly 2.0, in float64: spikes, membranes and gradients."""

import pytest
import torch

from picojoule import neurons as pn
from picojoule.neurons import surrogate as sg

reason = "SpikingJelly cannot be imported: pip install --no-deps spikingjelly==2.0.0 loguru"
sj = pytest.importorskip("spikingjelly.activation_based.neuron", reason=reason, exc_type=ImportError)
ss = pytest.importorskip("spikingjelly.activation_based.surrogate", reason=reason, exc_type=ImportError)
pytestmark = pytest.mark.oracle

SURROGATES = {
    "sigmoid": ("Sigmoid", {}),
    "atan": ("ATan", {}),
    "triangle": ("PiecewiseQuadratic", {}),
    "rect": ("Rect", {}),
    "exp": ("PiecewiseExp", {}),
    "softsign": ("SoftSign", {}),
    "superspike": ("SuperSpike", {}),
    "erf": ("Erf", {}),
    "logabs": ("NonzeroSignLogAbs", {}),
    "leaky_rect": ("PiecewiseLeakyReLU", {}),
    "leaky_relu": ("LeakyKReLU", {}),
    "log_tailed_relu": ("LogTailedReLU", {}),
    "s2nn": ("S2NN", {}),
    "q_pseudo_spike": ("QPseudoSpike", {}),
    "fourier": ("SquarewaveFourierSeries", {}),
    "fake_numerical": ("FakeNumericalGradient", {}),
}


@pytest.mark.parametrize("name", list(SURROGATES))
def test_surrogates(name):
    peer, settings = SURROGATES[name]
    theirs = getattr(ss, peer)(**settings)
    z = torch.tensor(
        [-3.0, -1.7, -1.0, -0.6, -0.3, -0.1, -0.01, 0.01, 0.1, 0.3, 0.6, 1.0, 1.7, 3.0], dtype=torch.float64
    )
    x = z.clone().requires_grad_()
    spikes = theirs(x)
    (expected,) = torch.autograd.grad(spikes.sum(), x)
    torch.testing.assert_close(sg.get(name).grad(z), expected, atol=1e-12, rtol=0)
    assert torch.equal(spikes.detach(), (z >= 0).double())


def sigmoid():
    return ss.Sigmoid()


def atan():
    return ss.ATan()


T = 8
PAIRS = {
    "if_hard": (lambda: pn.IF(T), lambda: sj.IFNode(surrogate_function=sigmoid())),
    "if_soft": (
        lambda: pn.IF(T, v_reset=None),
        lambda: sj.IFNode(v_reset=None, surrogate_function=sigmoid()),
    ),
    "if_detach": (
        lambda: pn.IF(T, detach_reset=True),
        lambda: sj.IFNode(detach_reset=True, surrogate_function=sigmoid()),
    ),
    "if_half": (
        lambda: pn.IF.half_threshold(T),
        lambda: sj.HalfThresholdIFNode(surrogate_function=sigmoid()),
    ),
    "lif": (lambda: pn.LIF(T), lambda: sj.LIFNode(surrogate_function=sigmoid())),
    "lif_no_decay": (
        lambda: pn.LIF(T, decay_input=False, tau=3.0),
        lambda: sj.LIFNode(decay_input=False, tau=3.0, surrogate_function=sigmoid()),
    ),
    "lif_soft": (
        lambda: pn.LIF(T, v_reset=None, v_th=0.6),
        lambda: sj.LIFNode(v_reset=None, v_threshold=0.6, surrogate_function=sigmoid()),
    ),
    "lif_reset": (
        lambda: pn.LIF(T, v_reset=-0.3, tau=4.0, detach_reset=True, surrogate="atan"),
        lambda: sj.LIFNode(v_reset=-0.3, tau=4.0, detach_reset=True, surrogate_function=atan()),
    ),
    "plif": (lambda: pn.PLIF(T), lambda: sj.ParametricLIFNode(surrogate_function=sigmoid())),
    "plif_no_decay": (
        lambda: pn.PLIF(T, init_tau=3.0, decay_input=False, v_reset=None),
        lambda: sj.ParametricLIFNode(
            init_tau=3.0, decay_input=False, v_reset=None, surrogate_function=sigmoid()
        ),
    ),
    "qif": (lambda: pn.QIF(T), lambda: sj.QIFNode(surrogate_function=sigmoid())),
    "eif": (lambda: pn.EIF(T), lambda: sj.EIFNode(surrogate_function=sigmoid())),
    "klif": (lambda: pn.KLIF(T), lambda: sj.KLIFNode(surrogate_function=sigmoid())),
    "klif_scaled": (
        lambda: pn.KLIF(T, scale_reset=True, v_reset=None),
        lambda: sj.KLIFNode(scale_reset=True, v_reset=None, surrogate_function=sigmoid()),
    ),
    "cuba": (lambda: pn.CUBA(T), lambda: sj.CUBALIFNode()),
    "cuba_soft": (lambda: pn.CUBA(T, v_reset=None), lambda: sj.CUBALIFNode(v_reset=None)),
    "ternary": (
        lambda: pn.TernaryLIF(T, v_th=0.7, surrogate="sigmoid"),
        lambda: sj.TernaryLIFNode(decay_input=False, v_threshold=0.7, surrogate_function=sigmoid()),
    ),
    "ternary_soft": (
        lambda: pn.TernaryLIF(T, v_th=0.7, reset="soft", surrogate="atan"),
        lambda: sj.TernaryLIFNode(
            decay_input=False, v_threshold=0.7, v_reset=None, surrogate_function=atan()
        ),
    ),
    "ilif": (lambda: pn.ILIF(T), lambda: sj.ILIFNode(detach_reset=True)),
}


@pytest.mark.parametrize("name", list(PAIRS))
def test_neurons(name):
    ours, theirs = PAIRS[name][0]().double(), PAIRS[name][1]().double()
    theirs.step_mode = "m"
    if name.startswith("klif"):  # a scale other than 1 shows more
        ours.k.data.fill_(1.3)
        theirs.k.data.fill_(1.3)
    g = torch.Generator().manual_seed(0)
    x = torch.randn(T, 6, 7, dtype=torch.float64, generator=g) * 1.2 + 0.4
    w = torch.randn(T, 6, 7, dtype=torch.float64, generator=g)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    fired = ours.run(a.reshape(-1, 7), T)
    spikes = fired.spikes.reshape(x.shape)
    peer = theirs(b)
    assert torch.equal(spikes, peer)
    assert 0 < spikes.abs().sum() < 4 * spikes.numel()
    torch.testing.assert_close(fired.state.v, theirs.v, atol=1e-12, rtol=0)
    (spikes * w).sum().backward()
    (peer * w).sum().backward()
    torch.testing.assert_close(a.grad, b.grad, atol=1e-12, rtol=1e-10)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, atol=1e-11, rtol=1e-10)


def test_ilif_needs_the_detached_reset():
    x = torch.randn(T * 6, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3
    grads = []
    for detach in (True, False):
        a = x.clone().requires_grad_()
        pn.ILIF(T, detach_reset=detach)(a).sum().backward()
        grads.append(a.grad)
    assert not torch.equal(*grads)


PSNS = {
    "dense": (lambda: pn.PSN(T), lambda: sj.PSN(T)),
    "masked": (lambda: pn.MaskedPSN(T, k=3, lam=1.0), lambda: sj.MaskedPSN(3, T, 1.0)),
    "blended": (lambda: pn.MaskedPSN(T, k=3, lam=0.4), lambda: sj.MaskedPSN(3, T, 0.4)),
    "sliding": (lambda: pn.SlidingPSN(T, k=3), lambda: sj.SlidingPSN(3)),
}


@pytest.mark.parametrize("name", list(PSNS))
def test_parallel_neurons(name):
    torch.manual_seed(0)
    ours, theirs = (make().double() for make in PSNS[name])
    theirs.step_mode = "m"
    if name == "sliding":
        assert torch.equal(ours.weight.detach(), theirs.weight.detach())
        assert ours.bias.item() == theirs.bias.item()
    else:
        theirs.weight.data.copy_(ours.weight.data)
        theirs.bias.data.copy_(ours.bias.data)
    g = torch.Generator().manual_seed(0)
    x = torch.randn(T, 6, 7, dtype=torch.float64, generator=g) * 3 + 1
    w = torch.randn(T, 6, 7, dtype=torch.float64, generator=g)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    mine, peer = ours(a.reshape(-1, 7)).reshape(x.shape), theirs(b)
    assert torch.equal(mine, peer)
    assert mine.sum() > 0
    (mine * w).sum().backward()
    (peer * w).sum().backward()
    torch.testing.assert_close(a.grad, b.grad, atol=1e-6 if name == "blended" else 1e-12, rtol=0)
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad, atol=1e-5, rtol=1e-6)
