"""Native leaky kernels against the readable reference: spikes bit for bit, gradients to rounding."""

import itertools
import os

import pytest
import torch

from picojoule import neurons as pn
from picojoule.core.errors import ConfigError
from picojoule.core.kinds import binary, integer, ternary
from picojoule.neurons import leaky_native
from picojoule.neurons import surrogate as sg
from picojoule.neurons.leaky import LeakyParams, leaky, leaky_reference
from picojoule.neurons.leaky_op import leaky_op

pytestmark = pytest.mark.skipif(not leaky_native.AVAILABLE, reason="built without the native extension")

ALL = [sg.SURROGATES.get(name)() for name in sg.SURROGATES.names()]
SMOOTH = sg.ATan()


@pytest.fixture(autouse=True)
def calls(monkeypatch):
    """Counts native forward passes, so that no test passes on the fallback unnoticed."""
    count = []
    forward = leaky_native._forward

    def counted(*args):
        count.append(args)
        return forward(*args)

    monkeypatch.setattr(leaky_native, "_forward", counted)
    return count


def current(*shape, seed=0, scale=1.0):
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale
    x.view(-1)[:: max(1, x.numel() // 3)] = 0.5  # membranes on the threshold
    return x


def both(p, x, T, v0=None, learned=(), want_v=True):
    """(outputs, gradients) of the native kernel and of autograd over the reference, under the same loss."""
    results = []
    for function in (leaky, leaky_reference):
        leaf = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
        start = None if v0 is None else v0.detach().clone().requires_grad_()
        args = (leaf, T, None if start is None else pn.Membrane(start), p)
        fired = function(*args)
        outputs = [fired.spikes, fired.state.v] if want_v else [fired.spikes]
        weights = [torch.randn(o.shape, generator=torch.Generator().manual_seed(9)) for o in outputs]
        loss = sum((o * w).sum() for o, w in zip(outputs, weights))
        inputs = [leaf, *([] if start is None else [start]), *learned]
        grads = torch.autograd.grad(loss, inputs, allow_unused=True)
        grads = [torch.zeros_like(i) if g is None else g for g, i in zip(grads, inputs)]
        results.append((outputs, grads))
    return results


def assert_same(results, tolerance=1e-6):
    (outputs, grads), (expected, expected_grads) = results
    for a, b in zip(outputs, expected):
        assert torch.equal(a, b)
    for a, b in zip(grads, expected_grads):
        assert a.shape == b.shape
        worst = (a - b).abs().max()
        assert worst <= tolerance * max(1.0, float(b.abs().max())), float(worst)


@pytest.mark.parametrize("kind", [binary, ternary, integer(3)], ids=str)
@pytest.mark.parametrize("reset", ["hard", "soft", "none"])
@pytest.mark.parametrize("strict", [False, True])
def test_equals_reference(kind, reset, strict, calls):
    for detach, decay, value, T in itertools.product((False, True), (0.0, 0.5, 1.0), (0.0, 0.3), (1, 4)):
        rule = pn.FireRule(
            kind=kind,
            v_th=0.5,
            strict=strict,
            rounding="half_up" if strict else "half_even",
            open_window=strict,
            surrogate=SMOOTH,
        )
        p = LeakyParams(decay, 0.7, value, rule, reset, value, detach, v_init=value, out_scale=0.5)
        x = current(T * 3, 7, 5, scale=2.0)
        assert_same(both(p, x, T))
        assert_same(both(p, x, T, v0=current(3, 7, 5, seed=1)))
    assert len(calls) == 48


@pytest.mark.parametrize("surrogate", ALL, ids=lambda s: type(s).__name__)
def test_every_surrogate(surrogate, calls):
    x = current(4 * 3, 50, scale=2.0)
    for s, kind in itertools.product((surrogate, sg.Shifted(surrogate, 0.3)), (binary, ternary)):
        rule = pn.FireRule(kind=kind, v_th=0.5, surrogate=s)
        assert_same(both(LeakyParams(0.5, rule=rule, reset="soft", reset_value=0.5), x, 4), 2e-6)
    assert len(calls) >= 4


def test_constants_of_surrogates(calls):
    """Each constant reaches the kernel: formulas away from their defaults, on a line of membranes."""
    z = torch.linspace(-3, 3, 1201)
    for s in (
        sg.Sigmoid(25),
        sg.ATan(3),
        sg.Triangle(0.4),
        sg.Rect(0.3),
        sg.PiecewiseExp(3),
        sg.SoftSign(5),
        sg.SuperSpike(2),
        sg.Erf(0.7),
        sg.NonzeroSignLogAbs(3),
        sg.PiecewiseLeakyReLU(0.7, 0.2),
        sg.LeakyKReLU(0.2, 0.7),
        sg.LogTailedReLU(0.3),
        sg.S2NN(2, 0.5),
        sg.QPseudoSpike(3),
        sg.QPseudoSpike(2.5),
        sg.FakeNumericalGradient(0.7),
        sg.FastSigmoid(3),
        sg.SpikeRateEscape(2, 3),
    ):
        rule = pn.FireRule(v_th=0.25, surrogate=s)
        x = (z + 0.25).requires_grad_()
        spikes = leaky(x, 1, None, LeakyParams(0.0, rule=rule), want_v=False).spikes
        (g,) = torch.autograd.grad(spikes.sum(), x)
        expected = s.grad(x.detach().double() - 0.25)
        edge = (x.detach() - 0.25).abs().double().sub(s.window).abs() < 1e-5  # steps of windows
        assert torch.allclose(g.double()[~edge], expected[~edge], rtol=3e-6, atol=1e-6), s
    assert len(calls) >= 18


class Custom(sg.Surrogate):
    def grad(self, z):
        return torch.cos(z).clamp_min(0)


def test_surrogate_of_a_user(calls):
    rule = pn.FireRule(v_th=0.5, surrogate=Custom())
    assert_same(both(LeakyParams(0.5, rule=rule), current(12, 5), 4, v0=current(3, 5)))
    assert leaky_native.formula(Custom())[0] == leaky_native.GIVEN
    assert calls


def scalar(value):
    return torch.tensor(value, requires_grad=True)


def channels(axes):
    return torch.linspace(0.2, 0.9, 6).reshape(6, *(1,) * axes).requires_grad_()


@pytest.mark.parametrize("kind", [binary, ternary, integer(3)], ids=str)
@pytest.mark.parametrize("channels_last", [False, True])
def test_gradients_of_constants(kind, channels_last, calls):
    rule = pn.FireRule(kind=kind, v_th=0.5, surrogate=SMOOTH)
    x = current(4 * 3, 6, 5, 3, scale=2.0)
    if channels_last:
        x = x.to(memory_format=torch.channels_last)
    for make in (
        lambda: scalar(0.6),
        lambda: channels(2),
        lambda: channels(2)[None].detach().requires_grad_(),
    ):
        for reset, detach in itertools.product(("hard", "soft", "none"), (False, True)):
            constants = [make(), make(), make()]
            p = LeakyParams(*constants, rule, reset, 0.1, detach, v_init=0.2)
            assert_same(both(p, x, 4, learned=constants), 1e-5)
            only = [0.5, constants[1], 0.0]
            assert_same(
                both(LeakyParams(*only, rule, reset, 0.1, detach), x, 4, learned=constants[1:2]), 1e-5
            )
    assert len(calls) == 36


def test_plif_trains_its_time_constant(calls):
    neuron = pn.PLIF(4, v_reset=0.1, surrogate="atan")
    x = current(8, 5)
    neuron(x).sum().backward()
    native = neuron.w.grad.clone()
    neuron.w.grad = None
    leaky_reference(x, 4, None, neuron.params()).spikes.sum().backward()
    assert native == pytest.approx(float(neuron.w.grad), rel=1e-5)
    assert native != 0
    assert calls


LAYOUTS = {
    "channels_last": lambda x: x.to(memory_format=torch.channels_last),
    "tokens": lambda x: x.flatten(2).transpose(1, 2),
    "expanded": lambda x: x[:3].repeat(1, 1, 1, 1).expand(4, 3, *x.shape[1:]).flatten(0, 1),
    "strided": lambda x: x[..., ::2],
    "reversed_axes": lambda x: x.permute(0, 3, 2, 1),
    "rows_inside": lambda x: x.permute(1, 0, 2, 3).contiguous().permute(1, 0, 2, 3),
    "one_channel": lambda x: x[:, :1],
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts(name, calls):
    x = LAYOUTS[name](current(12, 3, 4, 5, scale=2.0))
    rule = pn.FireRule(v_th=0.5, surrogate=SMOOTH)
    v0 = current(3, *x.shape[1:], seed=4)
    assert_same(both(LeakyParams(0.5, rule=rule), x, 4, v0=v0))
    assert_same(both(LeakyParams(0.5, rule=rule), x, 4, v0=v0.transpose(1, -1).contiguous().transpose(1, -1)))
    assert calls


def test_output_keeps_channels_last(calls):
    x = current(8, 3, 4, 5).to(memory_format=torch.channels_last).requires_grad_()
    s = pn.LIF(4)(x)
    assert s.is_contiguous(memory_format=torch.channels_last)
    (g,) = torch.autograd.grad(s.mean(), x)  # an expanded gradient comes in
    assert g.is_contiguous(memory_format=torch.channels_last)
    assert calls


@pytest.mark.parametrize("width", [1, 3, 64, 1023, 1025, 9000])
@pytest.mark.parametrize("T", [1, 2, 17, 130])
def test_odd_sizes(width, T, calls):
    rule = pn.FireRule(v_th=0.5, surrogate=SMOOTH)
    x = current(T, width)
    assert_same(both(LeakyParams(0.9, rule=rule, reset="soft"), x, T, want_v=False))
    assert calls


def test_results_beyond_the_caches(calls):
    """Large results take other stores, here from an address that no vector is aligned to."""
    rule = pn.FireRule(v_th=0.5, surrogate=SMOOTH)
    x = current(4 * 2_200_001 + 1)[1:].reshape(4, -1)
    p = LeakyParams(0.9, rule=rule, reset="soft")
    assert_same(both(p, x, 4))
    assert len(calls) == 1


def test_thread_count_changes_nothing(calls):
    rule = pn.FireRule(v_th=0.5, surrogate=SMOOTH)
    decay = scalar(0.7)
    p = LeakyParams(decay, rule=rule)
    x = current(4, 200_000)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            leaf = x.clone().requires_grad_()
            fired = leaky(leaf, 4, None, p)
            results.append([fired.spikes, *torch.autograd.grad(fired.state.v.square().sum(), [leaf, decay])])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for a, b in zip(results[0], other):
            assert torch.equal(a, b)
    assert len(calls) == 3


def test_first_layer_without_input_gradient(calls):
    decay = scalar(0.7)
    x = current(8, 5)
    leaky(x, 4, None, LeakyParams(decay)).spikes.sum().backward()
    native = decay.grad.clone()
    decay.grad = None
    leaky_reference(x, 4, None, LeakyParams(decay)).spikes.sum().backward()
    torch.testing.assert_close(native, decay.grad, rtol=1e-5, atol=1e-6)
    assert calls


def test_only_the_membrane_is_used(calls):
    p = LeakyParams(0.7)
    grads = []
    for function in (leaky, leaky_reference):
        x = current(8, 5).requires_grad_()
        grads.append(torch.autograd.grad(function(x, 4, None, p).state.v.sum(), x)[0])
    torch.testing.assert_close(*grads, rtol=1e-5, atol=1e-6)
    assert calls


def test_what_falls_back(calls):
    p = LeakyParams(0.5)
    for x in (current(8, 5).double(), current(8, 5).half(), current(0, 5)):
        assert torch.equal(leaky(x, 4, None, p).spikes, leaky_reference(x, 4, None, p).spikes)
    leaky(current(8, 5), 4, pn.Membrane(torch.zeros(2, 5, dtype=torch.float64)), p)
    leaky(current(8, 5), 4, None, p, want_h=True)
    leaky(current(8, 5), 4, None, LeakyParams(torch.rand(2, 5)))
    leaky(current(8, 5), 4, None, LeakyParams(torch.tensor(0.5, dtype=torch.float64)))
    with torch._subclasses.FakeTensorMode() as mode:
        assert leaky(mode.from_tensor(current(8, 5)), 4, None, p).spikes.shape == (8, 5)
    assert not calls
    leaky(current(8, 5), 4, None, p)
    assert len(calls) == 1


def test_changed_input_is_noticed():
    x = current(8, 5).requires_grad_()
    current_ = x * 1
    loss = leaky(current_, 4, None, LeakyParams(0.5)).spikes.sum()
    current_.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


# -- saved state -------------------------------------------------------------------------------------------


def saved_run(p, x, T, form):
    with leaky_native.saved_state(form):
        leaf = x.clone().requires_grad_()
        fired = leaky(leaf, T, None, p)
        node = fired.spikes.grad_fn
        kept = sum(t.numel() * t.element_size() for t in node.saved_tensors if t is not None)
    (g,) = torch.autograd.grad((fired.spikes * current(*x.shape, seed=3)).sum() + fired.state.v.sum(), leaf)
    return fired.spikes, g, kept


@pytest.mark.parametrize("kind", [binary, ternary, integer(3)], ids=str)
@pytest.mark.parametrize("reset", ["hard", "soft", "none"])
@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("strict", [False, True])
def test_saved_forms(kind, reset, detach, strict):
    rule = pn.FireRule(kind=kind, v_th=0.5, strict=strict, surrogate=sg.ATan())
    p = LeakyParams(0.5, rule=rule, reset=reset, reset_value=0.4, detach_reset=detach)
    x = current(8, 4000)
    exact = saved_run(p, x, 4, "exact")
    assert exact[2] == x.numel() * 4
    whole = kind.name == "integer"
    for form, bound in (("half", 1e-3), ("byte", 1e-2)):
        spikes, g, kept = saved_run(p, x, 4, form)
        assert torch.equal(spikes, exact[0])
        error = float((g - exact[1]).norm() / exact[1].norm())
        assert error <= (1e-6 if whole else bound)
        halves = form == "half" or kind.name == "ternary" or (reset == "hard" and not detach)
        assert kept == x.numel() * (1 if whole or not halves else 2)


def test_saved_state_is_switched_back():
    assert leaky_native._form == leaky_native.RECOMPUTE
    with leaky_native.saved_state("byte"):
        assert leaky_native._form == leaky_native.BYTE
    assert leaky_native._form == leaky_native.RECOMPUTE
    with pytest.raises(ConfigError, match="quarter"):
        leaky_native.saved_state("quarter")


def test_half_at_the_threshold_and_beyond_its_range():
    """Spikes survive membranes that fp16 cannot tell from the threshold, and membranes beyond 65504."""
    rule = pn.FireRule(v_th=1.0, surrogate=sg.Rect(1e-3))
    p = LeakyParams(0.5, rule=rule, reset="hard", detach_reset=True)
    just_below = float(torch.nextafter(torch.tensor(1.0), torch.tensor(0.0)))
    x = torch.tensor([[just_below, 1.0, -1e6, 1e6], [0.1, 0.1, 0.1, 0.1]])
    exact = saved_run(p, x, 2, "exact")
    half = saved_run(p, x, 2, "half")
    torch.testing.assert_close(exact[1], half[1], rtol=1e-6, atol=1e-12)


# -- other ways in -------------------------------------------------------------------------------------------


def test_works_after_fork(calls):
    """As in a worker of a DataLoader: the parent's worker threads do not exist in the child."""
    p, x = LeakyParams(0.9), current(4, 300_000)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with torch.no_grad():
            expected = leaky(x, 4, None, p).spikes.numpy()
            child = os.fork()
            if child == 0:  # NumPy compares: torch's own threads do not survive a fork
                os._exit(0 if (leaky(x, 4, None, p).spikes.numpy() == expected).all() else 1)
    finally:
        torch.set_num_threads(before)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert calls


def test_works_in_a_data_loader_worker():
    data = torch.utils.data.TensorDataset(current(8, 5))
    loader = torch.utils.data.DataLoader(data, batch_size=8, num_workers=1, collate_fn=fire_rows)
    (spikes,) = list(loader)
    assert torch.equal(spikes, pn.LIF(4)(current(8, 5)))


def fire_rows(rows):
    return pn.LIF(4)(torch.stack([row for (row,) in rows]))


@pytest.mark.parametrize("build", [lambda: pn.LIF(4), lambda: pn.PLIF(4), lambda: pn.ILIF(4)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_compiled_equals_eager(build, channels_last, calls):
    neuron = build()
    x = current(8, 6, 3, 2)
    x = (x.to(memory_format=torch.channels_last) if channels_last else x).requires_grad_()
    eager = neuron(x)
    wanted = [x, *neuron.parameters()]
    grads = torch.autograd.grad(eager.sum(), wanted)
    before = len(calls)
    compiled = torch.compile(neuron, backend="aot_eager", fullgraph=True)(x)
    assert len(calls) > before  # the operator runs the kernels too
    assert torch.equal(eager, compiled)
    for a, b in zip(grads, torch.autograd.grad(compiled.sum(), wanted)):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("native", [False, True])
def test_operator_keeps_its_promises(native, monkeypatch):
    """Shapes, strides and gradients of the operator, on rows in another memory order."""
    monkeypatch.setattr(leaky_native, "AVAILABLE", native)
    neuron = pn.PLIF(4)
    x = current(8, 6, 3, 2).to(memory_format=torch.channels_last)
    learned = [c.detach().requires_grad_() for c in neuron.params().learned]
    args = (x.requires_grad_(), torch.zeros(2, 6, 3, 2, requires_grad=True), learned, 4, neuron.leaf)
    torch.library.opcheck(leaky_op, args)
    s, v, h = leaky_op(*args)
    assert s.stride() == h.stride() == x.stride()
    assert v.is_contiguous()
    dx, dv, *_ = torch.autograd.grad(s.sum() + v.sum() + h.square().sum(), [x, args[1], *learned])
    expected = leaky_reference(x, 4, pn.Membrane(args[1]), neuron.params(), want_h=True)
    assert torch.equal(expected.h, h)
    loss = expected.spikes.sum() + expected.state.v.sum() + expected.h.square().sum()
    for a, b in zip((dx, dv), torch.autograd.grad(loss, [x, args[1]])):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_exported_equals_eager():
    net = torch.nn.Sequential(torch.nn.Linear(6, 5), pn.LIF(4))
    x = current(8, 6)
    program = torch.export.export(net.eval(), (x,))
    assert torch.equal(program.module()(x), net(x))
