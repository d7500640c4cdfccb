"""Time in the batch: rows, readouts, entry modules, set_steps and streams."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from picojoule import neurons as pn
from picojoule import timeline
from picojoule.core.errors import CausalityError, ShapeError


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class Net(nn.Module):
    """Two neurons, a shared one called twice, and a readout."""

    def __init__(self, T=4, mode="frames", readout="mean"):
        super().__init__()
        self.entry = timeline.Entry(T, mode)
        self.a = nn.Linear(3, 5)
        self.lif = pn.LIF(T, v_th=0.3)
        self.b = nn.Linear(5, 5)
        self.c = nn.Linear(5, 2)
        self.out = timeline.Readout(T, readout)

    def forward(self, x: Tensor) -> Tensor:
        x = self.lif(self.a(self.entry(x)))
        x = self.lif(self.b(x))  # the same module again: its own state in a stream
        return self.out(self.c(x))


def net(**kwargs) -> Net:
    torch.manual_seed(0)
    return Net(**kwargs).double()


# -- rows -------------------------------------------------------------------------------------------------


def test_rows_are_time_major():
    x = torch.arange(6).reshape(2, 3)  # two samples, three steps
    assert timeline.fold(x).tolist() == [0, 3, 1, 4, 2, 5]
    assert torch.equal(timeline.unfold(timeline.fold(x), 3), x)
    y = torch.tensor([[1.0], [2.0]])
    assert timeline.repeat(y, 2).flatten().tolist() == [1, 2, 1, 2]
    assert timeline.split(timeline.repeat(y, 3), 3).shape == (3, 2, 1)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("mean", [2.0, 3.0]), ("sum", [4.0, 6.0]), ("last", [3.0, 4.0]), ("max", [3.0, 4.0])],
)
def test_readouts(mode, expected):
    assert timeline.readout(torch.tensor([1.0, 2.0, 3.0, 4.0]), 2, mode).tolist() == expected


def test_readout_steps_is_batch_first():
    x = torch.arange(6.0)
    assert timeline.readout(x, 3, "steps").tolist() == [[0, 2, 4], [1, 3, 5]]


@pytest.mark.parametrize("B", [0, 1, 3])
def test_empty_batches(B):
    model = net()
    assert model(torch.zeros(B, 4, 3, dtype=torch.float64)).shape == (B, 2)


def test_views_share_memory_in_eager_mode():
    x = torch.randn(2, 3)
    assert timeline.split(x, 2).data_ptr() == x.data_ptr()


def test_bad_input():
    with pytest.raises(ShapeError, match="T=3"):
        timeline.readout(torch.zeros(4), 3)
    with pytest.raises(ShapeError, match="at least 1"):
        timeline.repeat(torch.zeros(4), 0)
    with pytest.raises(ShapeError, match=r"needs \[B, T"):
        timeline.fold(torch.zeros(4))
    with pytest.raises(ValueError, match="unknown readout"):
        timeline.Readout(4, "median")
    with pytest.raises(ValueError, match="mode must be"):
        timeline.Entry(4, "video")
    with pytest.raises(ShapeError, match=r"^[\w.]+ \(Entry\): the data has T=5 steps.*built for T=4"):
        net()(torch.zeros(2, 5, 3, dtype=torch.float64))


# -- set_steps --------------------------------------------------------------------------------------------


def test_set_steps_changes_every_module():
    model = net()
    assert timeline.set_steps(model, 7) is model
    assert {m.T for m in model.modules() if hasattr(m, "T")} == {7}
    assert model(torch.zeros(2, 7, 3, dtype=torch.float64)).shape == (2, 2)


def test_set_steps_changes_all_or_nothing():
    model = nn.Sequential(pn.LIF(4), pn.PSN(4))
    with pytest.raises(ShapeError, match="module '1'"):
        timeline.set_steps(model, 5)
    assert model[0].T == 4

    class Stubborn(pn.LIF):
        def set_steps(self, T):
            if T > 4:
                raise ShapeError("no more than 4")
            super().set_steps(T)

    model = nn.Sequential(pn.LIF(3), Stubborn(3))
    with pytest.raises(ShapeError, match="no more"):
        timeline.set_steps(model, 5)
    assert [m.T for m in model] == [3, 3]
    with pytest.raises(ShapeError, match="at least 1"):
        timeline.set_steps(model, 0)


def test_T_per_call_overrides_the_module():
    lif = pn.LIF(4)
    x = randn(6, 3)
    assert torch.equal(lif(x, T=2), timeline.set_steps(pn.LIF(4), 2)(x))


# -- streams ----------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=5), st.sampled_from(["mean", "sum", "last", "max"]))
def test_any_chunking_equals_the_whole(chunks, readout):
    T = sum(chunks)
    model, x = net(T=T, readout=readout), randn(2, T, 3) * 2
    whole = model(x)
    stream = timeline.stream(model)
    for part in x.split(chunks, 1):
        last = stream(part)
    torch.testing.assert_close(last, whole, atol=1e-12, rtol=0)
    assert stream.step == T


def test_per_step_outputs_of_chunks_concatenate():
    model, x = net(T=6, readout="steps"), randn(2, 6, 3)
    stream = timeline.stream(model)
    parts = [stream(part) for part in x.split([2, 1, 3], 1)]
    torch.testing.assert_close(torch.cat(parts, 1), model(x), atol=1e-12, rtol=0)


@pytest.mark.parametrize("readout", ["mean", "sum", "last", "max"])
def test_readouts_run(readout):
    """After each chunk the readout speaks about everything so far."""
    model, x = net(T=4, readout=readout), randn(2, 4, 3)
    stream = timeline.stream(model)
    for t in range(1, 5):
        got = stream(x[:, t - 1 : t])
        expected = timeline.set_steps(net(T=4, readout=readout), t)(x[:, :t])
        torch.testing.assert_close(got, expected, atol=1e-12, rtol=0)


def test_static_input_for_more_steps():
    model, x = net(T=4, mode="static"), randn(2, 3)
    stream = timeline.stream(model)
    stream(x, T=1)
    torch.testing.assert_close(stream(x, T=3), model(x), atol=1e-12, rtol=0)
    assert timeline.stream(model)(x).shape == (2, 2), "static chunks default to the entry's T"


def test_streams_are_independent():
    model, x, y = net(), randn(2, 4, 3), randn(2, 4, 3, seed=1)
    a, b = timeline.stream(model), timeline.stream(model)
    a(x[:, :2])
    b(y[:, :2])
    torch.testing.assert_close(a(x[:, 2:]), model(x), atol=1e-12, rtol=0)
    torch.testing.assert_close(b(y[:, 2:]), model(y), atol=1e-12, rtol=0)
    assert torch.equal(model(x), model(x)), "and leave the model as it was"


def test_state_is_keyed_by_path_and_call():
    stream = timeline.stream(net())
    stream(randn(2, 2, 3))
    assert set(stream.states()) == {("lif", 0), ("lif", 1), ("out", 0)}


def test_reset_starts_anew():
    model, x = net(), randn(2, 4, 3)
    stream = timeline.stream(model)
    first = stream(x)
    stream(x)
    stream.reset()
    assert stream.step == 0
    assert torch.equal(stream(x), first)


def test_a_failed_chunk_has_not_happened():
    model, x = net(), randn(2, 4, 3)
    stream = timeline.stream(model)
    stream(x[:, :2])
    with pytest.raises(RuntimeError):
        stream(randn(2, 2, 4))
    with pytest.raises(ShapeError, match="new stream"):
        stream(randn(3, 2, 3))
    torch.testing.assert_close(stream(x[:, 2:]), model(x), atol=1e-12, rtol=0)
    assert timeline.current_stream() is None


def test_detach_cuts_the_graph_and_keeps_the_values():
    model, x = net(readout="last"), randn(2, 4, 3)
    stream = timeline.stream(model)
    first = x[:, :2].clone().requires_grad_()
    stream(first)
    stream.detach_()
    out = stream(x[:, 2:])
    torch.testing.assert_close(out, model(x), atol=1e-12, rtol=0)
    assert torch.autograd.grad(out.sum(), first, allow_unused=True)[0] is None
    stream = timeline.stream(model)
    stream(first)
    assert torch.autograd.grad(stream(x[:, 2:]).sum(), first)[0].abs().sum() > 0


def test_non_causal_modules_are_refused_by_path():
    class Future(nn.Module):
        causal = False

    with pytest.raises(CausalityError, match=r"'1\.0' \(Future\)"):
        timeline.stream(nn.Sequential(pn.LIF(4), nn.Sequential(Future())))


class Two(nn.Module):
    def __init__(self, modes, steps=(4, 4)):
        super().__init__()
        self.left, self.right = (timeline.Entry(T, mode) for T, mode in zip(steps, modes))
        self.lif, self.out = pn.LIF(4), timeline.Readout(4)

    def forward(self, x, y):
        return self.out(self.lif(self.left(x) + self.right(y)))


def test_steps_of_several_entries():
    x, y = randn(2, 4, 3), randn(2, 4, 3, seed=1)
    model = Two(("frames", "frames"))
    stream = timeline.stream(model)
    stream(x[:, :3], y[:, :3])
    torch.testing.assert_close(stream(x[:, 3:], y[:, 3:]), model(x, y), atol=1e-12, rtol=0)
    with pytest.raises(ShapeError, match="ambiguous"):
        stream(x[:, :3], y[:, :2])
    mixed = Two(("frames", "static"))
    with pytest.raises(ShapeError, match=r"T=n"):
        timeline.stream(mixed)(x, y[:, 0])
    torch.testing.assert_close(timeline.stream(mixed)(x, y[:, 0], T=4), mixed(x, y[:, 0]))
    with pytest.raises(ShapeError, match="ambiguous"):
        timeline.stream(Two(("static", "static"), (2, 3)))(x[:, 0], y[:, 0])
    with pytest.raises(ShapeError, match="at least one step"):
        stream(x, y, T=0)


def test_a_compiled_model_streams_eagerly():
    torch._dynamo.reset()
    model, x = net(), randn(2, 4, 3)
    fast = torch.compile(model, backend="eager")
    whole = fast(x)
    stream = timeline.stream(fast)
    stream(x[:, :1])
    torch.testing.assert_close(stream(x[:, 1:]), whole, atol=1e-12, rtol=0)


class _Trace(torch.autograd.Function):
    """Forward with the spikes, weight gradient with their trace: an online rule's synapse."""

    @staticmethod
    def forward(ctx, spikes, trace, weight):
        ctx.save_for_backward(trace, weight)
        return spikes @ weight.T

    @staticmethod
    def backward(ctx, *grads):
        trace, weight = ctx.saved_tensors
        return grads[0] @ weight, None, grads[0].T @ trace


class TraceLinear(nn.Module):
    """A synaptic layer of an online rule: it keeps the presynaptic trace in the stream."""

    def __init__(self, inputs, outputs, decay=0.5):
        super().__init__()
        self.weight, self.decay = nn.Parameter(torch.randn(outputs, inputs, dtype=torch.float64) * 0.5), decay

    def forward(self, s):
        active = timeline.current_stream()
        if active is None:
            return s @ self.weight.T
        key = active.slot(self)
        before = active.get(key)
        trace = s.detach() if before is None else self.decay * before + s.detach()
        active.put(key, trace)
        return _Trace.apply(s, trace, self.weight)


def online(T, steps_of_optimizer=False):
    torch.manual_seed(0)
    layer, lif = TraceLinear(3, 2), pn.LIF(T, v_reset=None, decay_input=False, detach_reset=True)
    model = nn.Sequential(timeline.Entry(T, "frames"), layer, lif)
    x = (torch.rand(4, T, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) > 0.5).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1 if steps_of_optimizer else 0.0)
    stream, total = timeline.stream(model), torch.zeros(2, 3, dtype=torch.float64)
    for t in range(T):
        optimizer.zero_grad()
        out = stream(x[:, t : t + 1])
        (out.sum() / T).backward()
        total += layer.weight.grad
        optimizer.step()
        stream.detach_()
    return model, layer, x, total


def test_online_rule_by_one_step_chunks():
    """OTTT: zeta[t] trace[t]^T summed over steps, zeta the spatial part; written out by hand."""
    T = 5
    _, layer, x, total = online(T)
    surrogate = pn.LIF(1).rule.surrogate
    v, trace = torch.zeros(4, 2, dtype=torch.float64), torch.zeros(4, 3, dtype=torch.float64)
    expected = torch.zeros_like(total)
    with torch.no_grad():
        for t in range(T):
            trace = 0.5 * trace + x[:, t]
            h = 0.5 * v + x[:, t] @ layer.weight.T
            v = h - (h >= 1).double()
            expected += (surrogate.grad(h - 1) / T).T @ trace
    torch.testing.assert_close(total, expected, atol=1e-12, rtol=0)


def test_online_rule_at_one_step_is_the_ordinary_gradient():
    model, layer, x, total = online(1)
    model(x).sum().backward()
    layer.weight.grad -= total  # the last online gradient was left in place and doubled
    torch.testing.assert_close(layer.weight.grad, total, atol=1e-12, rtol=0)


def test_online_rule_may_step_after_each_chunk():
    torch.manual_seed(0)
    before = TraceLinear(3, 2).weight.detach().clone()
    _, layer, _, _ = online(4, steps_of_optimizer=True)
    assert not torch.equal(layer.weight, before)


# -- export -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["static", "frames"])
@pytest.mark.parametrize("readout", timeline.READOUTS)
def test_export_with_a_dynamic_batch(mode, readout):
    model = net(mode=mode, readout=readout)
    shape = (3,) if mode == "static" else (4, 3)
    batch = torch.export.Dim("batch")
    with torch.no_grad():
        program = torch.export.export(model, (randn(2, *shape),), dynamic_shapes=({0: batch},)).module()
        for B in (1, 2, 3, 7):
            x = randn(B, *shape, seed=B)
            assert torch.equal(program(x), model(x))
