"""Neurons and surrogates against snnTorch 1.0, in float64: spikes, membranes and gradients."""

import pytest
import torch

from picojoule import neurons as pn
from picojoule.neurons import surrogate as sg

reason = "snnTorch cannot be imported: pip install --no-deps snntorch==1.0.0"
snn = pytest.importorskip("snntorch", reason=reason, exc_type=ImportError)
from snntorch import surrogate as peer_surrogates  # noqa: E402

pytestmark = pytest.mark.oracle
T = 12


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (sg.FastSigmoid(), lambda: peer_surrogates.fast_sigmoid()),
        (sg.Sigmoid(25.0), lambda: peer_surrogates.sigmoid()),
        (sg.ATan(), lambda: peer_surrogates.atan()),
        (sg.StraightThrough(), lambda: peer_surrogates.straight_through_estimator()),
        (sg.SpikeRateEscape(), lambda: peer_surrogates.spike_rate_escape()),
    ],
    ids=lambda s: repr(s) if isinstance(s, sg.Surrogate) else "",
)
def test_surrogates(ours, theirs):
    z = torch.linspace(-2, 2, 40, dtype=torch.float64)
    x = z.clone().requires_grad_()
    spikes = theirs()(x)
    assert torch.equal(spikes.detach(), (z > 0).double())
    (expected,) = torch.autograd.grad(spikes.sum(), x)
    torch.testing.assert_close(ours.grad(z), expected, atol=1e-10, rtol=1e-10)


def compare(ours, theirs, states, mem_is_h, scale=1.0):
    g = torch.Generator().manual_seed(0)
    if mem_is_h:
        x = torch.randn(T, 6, 7, dtype=torch.float64, generator=g) + 0.3
    else:  # below the threshold, so that no membrane stays above it after its reset; see Leaky
        x = torch.rand(T, 6, 7, dtype=torch.float64, generator=g) * scale
    w = torch.randn(T, 6, 7, dtype=torch.float64, generator=g)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    fired = ours.run(a.reshape(-1, 7), T, None, True)
    spikes, mems = [], []
    for current in b:
        s, *states = theirs(current, *states)
        spikes.append(s)
        mems.append(states[-1])
    mine, peer = fired.spikes.reshape(x.shape), torch.stack(spikes)
    assert torch.equal(mine, peer)
    assert mine.sum() > 0
    if mem_is_h:
        torch.testing.assert_close(fired.h.reshape(x.shape), torch.stack(mems), atol=1e-12, rtol=0)
    else:
        torch.testing.assert_close(fired.state.v, mems[-1], atol=1e-12, rtol=0)
    (mine * w).sum().backward()
    (peer * w).sum().backward()
    return a.grad, b.grad


@pytest.mark.parametrize("reset", ["subtract", "zero", "none"])
@pytest.mark.parametrize("beta", [0.9, 0.5, 1.0])
def test_leaky_with_delayed_reset(reset, beta):
    theirs = snn.Leaky(beta=beta, reset_mechanism=reset).double()
    ours = pn.Leaky(T, beta=float(theirs.beta), reset=reset)
    grads = compare(ours, theirs, [torch.zeros(6, 7, dtype=torch.float64)], mem_is_h=True)
    # Its spikes are float32 whatever the input, so the gradient of the spikes is rounded on the way in.
    torch.testing.assert_close(*grads, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("beta", [0.9, 1.0])
def test_leaky_with_immediate_reset(beta):
    """Same spikes and stored membranes; gradients are not compared, because here its reset passes them."""
    theirs = snn.Leaky(beta=beta, reset_delay=False).double()
    ours = pn.Leaky(T, beta=float(theirs.beta), reset_delay=False)
    compare(ours, theirs, [torch.zeros(6, 7, dtype=torch.float64)], mem_is_h=False)


def test_synaptic_is_cuba_with_soft_reset():
    theirs = snn.Synaptic(alpha=0.7, beta=0.8, reset_delay=False).double()
    alpha, beta = float(theirs.alpha), float(theirs.beta)
    ours = pn.CUBA(T, alpha, beta, 1.0, None, strict=True, surrogate="atan")
    zeros = torch.zeros(6, 7, dtype=torch.float64)
    compare(ours, theirs, [zeros, zeros], mem_is_h=False, scale=0.3)


def test_delayed_and_immediate_differ_where_the_leak_is():
    g = torch.Generator().manual_seed(0)
    x = torch.rand(100 * 16, 8, dtype=torch.float64, generator=g)
    delayed, immediate = (pn.Leaky(100, 0.9, reset_delay=d)(x) for d in (True, False))
    assert (delayed != immediate).sum() > 1000
