"""What every neuron keeps: shapes, kinds, rest at each call, independence of samples, streams, gradients."""

import copy
import pickle

import pytest
import torch

from picojoule import timeline
from picojoule.core.errors import CausalityError, NonFiniteError, PackError, ShapeError
from picojoule.neurons import ILIF, LIF, NILIF, PSN, MaskedPSN, Neuron, TernaryLIF, fire
from picojoule.neurons.fire import FireRule


def rows(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed)) * 1.5 + 0.3


def build(make, T, seed=0) -> Neuron:
    torch.manual_seed(seed)
    return make(T).double()


@pytest.mark.parametrize("shape", [(12, 3), (4, 3, 5), (8, 2, 3, 3), (0, 3), (0, 2, 3, 3)])
def test_shape_dtype_and_kind(make, shape):
    neuron = build(make, 4)
    x = rows(*shape) * 3 + 1
    out = neuron(x)
    assert out.shape == x.shape
    assert out.dtype == x.dtype
    kind = neuron.kind
    scale = 1.0
    if kind.name == "integer":
        scale = neuron.params().out_scale
    elif hasattr(neuron, "amplitude"):
        scale = float(neuron.amplitude[0])
    n = out / scale
    assert torch.equal(n, n.round())
    if n.numel():
        assert n.min() >= kind.low
        assert n.max() <= kind.high
        assert out.abs().sum() > 0, "a test on silence shows nothing"


def test_one_step_and_one_row(make):
    neuron = build(make, 1)
    assert neuron(rows(1, 3)).shape == (1, 3)


def test_calls_start_from_rest(make):
    neuron = build(make, 4)
    x = rows(8, 3)
    assert torch.equal(neuron(x), neuron(x))


def test_memory_layout_does_not_matter(make):
    neuron = build(make, 4)
    x = rows(8, 3, 4, 4)
    expected = neuron(x)
    assert torch.equal(neuron(x.to(memory_format=torch.channels_last)), expected)
    wide = torch.stack([x, x], -1)
    assert torch.equal(neuron(wide[..., 0]), expected)


@pytest.mark.parametrize("neuron", [LIF(4), LIF(4, v_reset=0.1), NILIF(4), ILIF(4), TernaryLIF(4)], ids=repr)
def test_channels_last_stays_channels_last(neuron):
    x = rows(8, 3, 4, 4).to(memory_format=torch.channels_last).requires_grad_()
    out = neuron(x)
    assert out.is_contiguous(memory_format=torch.channels_last)
    (g,) = torch.autograd.grad(out.sum(), x)
    assert g.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_other_precisions(make, dtype):
    x = rows(8, 3).to(dtype).requires_grad_()
    neuron = make(4).to(dtype)
    out = neuron(x)
    assert out.dtype == dtype
    if out.requires_grad:
        assert torch.autograd.grad(out.sum(), x)[0].dtype == dtype


def test_autocast_keeps_the_result(make):
    x = rows(8, 3, dtype=torch.float32)
    torch.manual_seed(0)
    neuron = make(4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert neuron(x).shape == x.shape


def test_one_sample_never_changes_another(make):
    neuron = build(make, 4)
    x = rows(4, 5, 6)
    changed = x.clone()
    changed[:, 2] = rows(4, 6, seed=9) * 3
    a = neuron(x.reshape(20, 6)).reshape(4, 5, 6)
    b = neuron(changed.reshape(20, 6)).reshape(4, 5, 6)
    keep = [0, 1, 3, 4]
    assert torch.equal(a[:, keep], b[:, keep])


def test_gradients_reach_x_state_and_come_from_all_outputs(make):
    neuron = build(make, 4)
    x = rows(8, 3).requires_grad_()
    fired = neuron.run(x, 4, None, True)
    assert fired.h.shape == x.shape
    if fired.spikes.requires_grad:
        (g,) = torch.autograd.grad(fired.spikes.sum(), x, retain_graph=True)
        assert g.shape == x.shape
        assert g.abs().sum() > 0
    (g,) = torch.autograd.grad(fired.h.sum(), x, retain_graph=True)
    assert g.abs().sum() > 0
    if neuron.causal and not hasattr(neuron, "amplitude"):
        tensors = [t for t in fired.state if isinstance(t, torch.Tensor) and t.requires_grad]
        if tensors:
            assert torch.autograd.grad(sum(t.sum() for t in tensors), x)[0].shape == x.shape


def test_without_gradients_nothing_else_changes(make):
    neuron = build(make, 4)
    x, state = rows(8, 3), None
    if neuron.causal and not getattr(neuron, "fixed_steps", False):
        state = neuron.run(rows(8, 3, seed=2), 4).state
    full = neuron.run(x, 4, state, True)
    with torch.no_grad():
        lean = neuron.run(x, 4, state, True)
        assert torch.equal(neuron(x), neuron.run(x, 4).spikes)
    assert torch.equal(lean.spikes, full.spikes)
    assert torch.equal(lean.h, full.h)
    for a, b in zip(lean.state or (), full.state or ()):
        assert torch.equal(torch.as_tensor(a), torch.as_tensor(b))


def test_h_only_when_asked(make):
    neuron = build(make, 4)
    x = rows(8, 3)
    plain, full = neuron.run(x, 4), neuron.run(x, 4, None, True)
    assert plain.h is None
    assert torch.equal(plain.spikes, full.spikes)


@pytest.mark.parametrize("chunks", [[1] * 6, [2, 4], [3, 1, 2], [5, 1], [6]], ids=str)
def test_any_chunking_equals_the_whole(make, chunks):
    neuron = build(make, 6)
    if not neuron.causal:
        with pytest.raises(CausalityError, match=type(neuron).__name__):
            timeline.stream(neuron)
        return
    x = rows(6, 2, 5)
    whole = neuron(x.reshape(12, 5)).reshape(6, 2, 5)
    stream, parts = timeline.stream(neuron), []
    for part in x.split(chunks):
        parts.append(stream(part.reshape(-1, 5), T=part.shape[0]).reshape(part.shape))
    assert torch.equal(torch.cat(parts), whole)
    assert stream.step == 6


def test_gradients_through_chunks_equal_the_whole(make):
    neuron = build(make, 4)
    if not neuron.causal:
        pytest.skip("not causal")
    x, w = rows(4, 2, 3), rows(4, 2, 3, seed=5)
    a = x.clone().requires_grad_()
    (neuron(a.reshape(8, 3)).reshape(4, 2, 3) * w).sum().backward()
    b = x.clone().requires_grad_()
    stream = timeline.stream(neuron)
    out = torch.cat([stream(part.reshape(-1, 3), T=2).reshape(2, 2, 3) for part in b.split([2, 2])])
    (out * w).sum().backward()
    torch.testing.assert_close(b.grad, a.grad, atol=1e-12, rtol=1e-12)


def test_a_state_of_another_batch_is_refused(make):
    neuron = build(make, 4)
    if not neuron.causal:
        pytest.skip("not causal")
    state = neuron.run(rows(4, 3), 2).state
    with pytest.raises(ShapeError, match="new stream"):
        neuron.run(rows(6, 3), 2, state)


def _soft_fire(self, h, out=None):
    n = (
        h.clamp(0, self.kind.levels)
        if self.kind.name == "integer"
        else self.surrogate.primitive(h - self.v_th)
    )
    if self.kind.name == "ternary":
        n = n - self.surrogate.primitive(-h - self.v_th)
    return n if out is None else out.copy_(n)


def _soft_fired(self, h, n):
    if self.kind.name == "ternary":
        return self.surrogate.primitive(h - self.v_th) + self.surrogate.primitive(-h - self.v_th)
    return n


def test_gradcheck_with_soft_firing(make, monkeypatch):
    """With g itself in place of the step, the believed derivative is the true one."""
    neuron = build(make, 3)
    if hasattr(neuron, "amplitude") or getattr(
        getattr(neuron, "params", lambda: None)(), "detach_reset", False
    ):
        pytest.skip("its backward cuts a path on purpose; compared with the reference instead")
    monkeypatch.setattr(FireRule, "fire", _soft_fire)
    monkeypatch.setattr(FireRule, "fired", _soft_fired)
    monkeypatch.setattr(fire, "step_value", lambda z, surrogate, strict: surrogate.primitive(z))
    x = (rows(6, 2, seed=3) * 0.7 + 0.1).requires_grad_()
    state = None
    if neuron.causal:
        state = neuron.run(rows(6, 2, seed=4), 3).state
    parameters = [p.requires_grad_() for p in neuron.parameters()]
    tensors = [t.detach().requires_grad_() for t in state or () if isinstance(t, torch.Tensor)]
    if getattr(neuron, "fixed_steps", False):  # three more steps would exceed its T
        tensors, state = [], None

    def call(x, *rest):
        before = None
        if state is not None:
            given = iter(rest)
            before = type(state)(*(next(given) if isinstance(t, torch.Tensor) else t for t in state))
        fired = neuron.run(x, 3, before, True)
        after = [t for t in fired.state or () if isinstance(t, torch.Tensor)]
        return (fired.spikes, fired.h, *after)

    assert torch.autograd.gradcheck(
        lambda x, *r: call(x, *r), (x, *tensors, *parameters), eps=1e-6, atol=1e-6
    )


def test_copies_are_modules_of_their_own(make):
    from picojoule.neurons.base import leaf_key, leaf_module

    neuron = build(make, 4)
    twin = copy.deepcopy(neuron)
    assert leaf_key(twin) != leaf_key(neuron)
    assert leaf_module(leaf_key(twin)) is twin
    assert torch.equal(twin(rows(8, 3)), neuron(rows(8, 3)))


def test_pickle_and_state_dict():
    from picojoule.neurons import PLIF

    neuron = PLIF(2, init_tau=3.0)
    again = pickle.loads(pickle.dumps(neuron))
    assert again.tau == neuron.tau
    fresh = PLIF(2)
    fresh.load_state_dict(neuron.state_dict())
    assert fresh.tau == pytest.approx(3.0)


def test_set_steps_changes_or_refuses(make):
    neuron = build(make, 4)
    if getattr(neuron, "fixed_steps", False):
        with pytest.raises(ShapeError, match="T=4"):
            timeline.set_steps(neuron, 5)
        assert neuron.T == 4
    else:
        timeline.set_steps(neuron, 2)
        assert neuron(rows(6, 3)).shape == (6, 3)


def test_packable_says_whether_lower_exists(make):
    neuron = build(make, 4)
    if neuron.packable:
        assert neuron.lower().kind == neuron.kind
    else:
        with pytest.raises(PackError, match="no packed form"):
            neuron.lower()


class Net(torch.nn.Module):
    def __init__(self, neuron):
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Linear(3, 3), neuron)

    def forward(self, x):
        return self.body(x)


def test_errors_name_the_path(make):
    net = Net(make(4))
    name = rf"body\.1 \({type(net.body[1]).__name__}\)"
    with pytest.raises(ShapeError, match=name):
        net(torch.randn(7, 3))
    with torch.autograd.set_detect_anomaly(True), pytest.raises(NonFiniteError, match=name):
        net(torch.full((8, 3), float("nan")))


def test_a_stream_refuses_by_path_even_when_causality_is_lost_later():
    net = Net(MaskedPSN(4, lam=1.0))
    stream = timeline.stream(net)
    stream(torch.randn(2, 3), T=1)
    net.body[1].lam = 0.5
    with pytest.raises(CausalityError, match=r"body\.1"):
        stream(torch.randn(2, 3), T=1)
    with pytest.raises(CausalityError, match=r"body\.1"):
        timeline.stream(Net(PSN(4)))


def test_T_must_be_positive():
    with pytest.raises(ShapeError, match="at least 1"):
        LIF(0)
    with pytest.raises(ShapeError, match="T=0"):
        LIF(4)(torch.randn(4, 2), T=0)
