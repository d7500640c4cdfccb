"""Native leaky kernels: instruction sets agree bit for bit, bfloat16 rows, chunks, gradcheck."""

import itertools

import pytest
import torch

from picojoule import neurons as pn
from picojoule.core.kinds import binary, integer, ternary
from picojoule.deploy.engine import ISAS
from picojoule.neurons import leaky_native
from picojoule.neurons import surrogate as sg
from picojoule.neurons.leaky import LeakyParams, leaky, leaky_reference

pytestmark = pytest.mark.skipif(not leaky_native.AVAILABLE, reason="built without the native extension")

KINDS = [binary, ternary, integer(3)]
SURROGATES = [sg.SURROGATES.get(name)() for name in sg.SURROGATES.names()]


def current(*shape, seed=0, scale=2.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def params(kind, reset="hard", detach=False, surrogate=None, decay=0.6, gain=0.8, bias=0.1, strict=False):
    rule = pn.FireRule(kind=kind, v_th=0.5, strict=strict, surrogate=surrogate or sg.ATan())
    return LeakyParams(decay, gain, bias, rule, reset, 0.4, detach, v_init=0.2)


def run(p, x, T, form="exact", learned=()):
    with leaky_native.saved_state(form):
        leaf = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
        fired = leaky(leaf, T, None, p)
    weight = current(*x.shape, seed=3).to(x.dtype)
    loss = (fired.spikes * weight).float().sum() + fired.state.v.square().sum()
    return [fired.spikes, fired.state.v, *torch.autograd.grad(loss, [leaf, *learned], allow_unused=True)]


@pytest.fixture
def sets():
    """Names of the instruction sets that can be forced; restores the best one."""
    yield [name for name in ISAS if name != "scalar"]
    leaky_native._native.set_train_isa("auto")


def by_set(sets, *call, learned=()):
    results = []
    for name in sets:
        leaky_native._native.set_train_isa(name)
        assert leaky_native._native.train_isa() == name
        results.append(run(*call, learned=learned))
    for other in results[1:]:
        for a, b in zip(results[0], other):
            assert torch.equal(a, b)


@pytest.mark.parametrize("form", ["exact", "half", "byte"])
def test_results_past_the_caches_equal_small_ones(form, sets):
    """From 8 MiB on rows are stored past the caches: samples side by side equal the same samples alone."""
    p = LeakyParams(0.5, 0.5, rule=pn.FireRule(surrogate=sg.ATan()), detach_reset=True)
    x = current(2, 2, 2**19 + 37)
    weight = current(*x.shape, seed=3)

    def passes(x, weight):
        leaf = x.flatten(0, 1).requires_grad_()
        with leaky_native.saved_state(form):
            spikes = leaky(leaf, 2, None, p).spikes
        g = torch.autograd.grad(spikes, leaf, weight.flatten(0, 1))[0]
        return spikes.detach().unflatten(0, x.shape[:2]), g.unflatten(0, x.shape[:2])

    for name in sets:
        leaky_native._native.set_train_isa(name)
        whole = passes(x, weight)
        for b in range(2):
            alone = passes(x[:, b : b + 1].contiguous(), weight[:, b : b + 1].contiguous())
            assert all(torch.equal(w[:, b : b + 1], a) for w, a in zip(whole, alone))


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("form", ["exact", "half", "byte"])
def test_instruction_sets_agree(kind, form, sets):
    x = current(5 * 3, 7, 61)
    for reset, detach, dtype in itertools.product(
        ("hard", "soft", "none"), (False, True), (torch.float32, torch.bfloat16)
    ):
        by_set(sets, params(kind, reset, detach), x.to(dtype), 5, form)


@pytest.mark.parametrize("surrogate", SURROGATES, ids=lambda s: type(s).__name__)
def test_instruction_sets_agree_on_slopes(surrogate, sets):
    x = current(4, 1003)
    for form in ("exact", "byte"):
        by_set(sets, params(binary, "soft", False, surrogate), x, 4, form)


def test_instruction_sets_agree_on_learned_constants(sets):
    constants = [torch.rand(7, 1, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    for c in constants:
        c.requires_grad_()
    p = params(binary, decay=constants[0], gain=constants[1], bias=constants[2])
    x = current(6, 7, 45)
    by_set(sets, p, x, 3, learned=constants)


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("form", ["exact", "half", "byte"])
def test_brief_rows(kind, form):
    """bfloat16 in and out is float32 inside: the same spikes and membranes, gradients rounded once."""
    for reset, detach, T in itertools.product(("hard", "soft", "none"), (False, True), (1, 4)):
        p = params(kind, reset, detach)
        x = current(T * 3, 5, 67).bfloat16()
        brief = run(p, x, T, form)
        leaf = x.float()
        wide = run(p, leaf, T, form)
        assert brief[0].dtype == brief[2].dtype == torch.bfloat16
        assert brief[1].dtype == torch.float32
        assert torch.equal(brief[0].float(), wide[0])
        assert torch.equal(brief[1], wide[1])
        weight = current(*x.shape, seed=3)
        assert torch.isfinite(brief[2].float()).all()
        # The weights of the loss were rounded to bfloat16 as well: compare with those.
        with leaky_native.saved_state(form):
            leaf.requires_grad_()
            fired = leaky(leaf, T, None, p)
        loss = (fired.spikes * weight.bfloat16().float()).sum() + fired.state.v.square().sum()
        (expected,) = torch.autograd.grad(loss, leaf)
        assert torch.equal(brief[2], expected.bfloat16())


def test_brief_rounds_half_to_even():
    ramp = torch.randn(4096, generator=torch.Generator().manual_seed(0)) * 10
    p = LeakyParams(0.0, rule=pn.FireRule(v_th=1e9, surrogate=sg.StraightThrough()), out_scale=1.0)
    x = torch.zeros(1, 4096, dtype=torch.bfloat16, requires_grad=True)
    scaled = LeakyParams(0.0, 1.0000001, rule=p.rule)
    fired = leaky(x, 1, None, scaled)
    (g,) = torch.autograd.grad(fired.state.v, x, ramp[None])
    assert torch.equal(g[0], (ramp * torch.tensor(1.0000001)).bfloat16())


@pytest.mark.parametrize("channels_last", [False, True])
def test_brief_learned_constants(channels_last):
    neuron = pn.PLIF(4, surrogate="atan", v_reset=0.1)
    x = current(8, 6, 5, 3).bfloat16()
    x = x.to(memory_format=torch.channels_last) if channels_last else x
    neuron(x).float().sum().backward()
    found = float(neuron.w.grad)
    neuron.w.grad = None
    leaky_reference(x.float(), 4, None, neuron.params()).spikes.sum().backward()
    assert found == pytest.approx(float(neuron.w.grad), rel=1e-5)


def test_autocast_keeps_brief_rows():
    layer = torch.nn.Sequential(torch.nn.Linear(20, 30), pn.LIF(4, surrogate="atan"))
    x = current(8, 20)
    with torch.autocast("cpu", torch.bfloat16):
        spikes = layer(x)
    assert spikes.dtype == torch.bfloat16
    spikes.float().sum().backward()
    assert torch.isfinite(layer[0].weight.grad).all()


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("detach_state", [False, True])
def test_chunks_of_a_sequence(kind, detach_state):
    """State and its gradient carried from chunk to chunk: the whole sequence, or truncated where detached."""
    p, chunk = params(kind, "soft"), 3
    x = current(12, 9)
    results = []
    for function in (leaky, leaky_reference):
        leaf, state, parts = x.clone().requires_grad_(), None, []
        for piece in leaf.split(chunk):
            fired = function(piece, chunk, state, p)
            state = pn.Membrane(fired.state.v.detach()) if detach_state else fired.state
            parts.append(fired.spikes)
        spikes = torch.cat(parts)
        results.append((spikes, *torch.autograd.grad((spikes * current(12, 9, seed=5)).sum(), leaf)))
    assert torch.equal(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-5, atol=1e-6)
    whole = x.clone().requires_grad_()
    fired = leaky(whole, 12, None, p)
    (g,) = torch.autograd.grad((fired.spikes * current(12, 9, seed=5)).sum(), whole)
    assert torch.equal(fired.spikes, results[0][0])
    if detach_state:
        assert not torch.allclose(g[2], results[0][1][2], rtol=1e-3)  # the last step of the first chunk
    else:
        torch.testing.assert_close(g, results[0][1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS[:2], ids=str)
@pytest.mark.parametrize("reset", ["hard", "soft", "none"])
def test_gradcheck_of_the_membrane(kind, reset):
    """float64, numeric differences: away from thresholds the membrane is a smooth function of its inputs."""
    p = params(kind, reset, detach=True, decay=0.6)
    x = current(4 * 2, 3, seed=2).double().requires_grad_()
    v0 = current(2, 3, seed=4).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda a, v: leaky(a, 4, pn.Membrane(v), p).state.v, (x, v0), eps=1e-6)


@pytest.mark.parametrize("reset", ["hard", "soft", "none"])
@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_exact_kernel_against_double(kind, reset, detach):
    """Gradients of the float32 kernels against autograd over the reference in float64."""
    x = current(4 * 3, 301)
    p = params(kind, reset, detach)
    native = run(p, x, 4)
    leaf = x.double().requires_grad_()
    fired = leaky_reference(leaf, 4, None, p)
    assert torch.equal(
        native[0].double(), fired.spikes
    )  # no membrane of this seed is within rounding of v_th
    loss = (fired.spikes * current(*x.shape, seed=3).double()).sum() + fired.state.v.square().sum()
    (g,) = torch.autograd.grad(loss, leaf)
    torch.testing.assert_close(native[2].double(), g, rtol=2e-5, atol=2e-5)
