"""The graphs that CUDA runs: traced on a CPU (quick), compiled there (slow), and on a GPU if there is one."""

import pytest
import torch

from picojoule import neurons as pn
from picojoule.neurons import leaky_graph
from picojoule.neurons.leaky import leaky, leaky_reference

BUILDS = {
    "lif": lambda: pn.LIF(3, surrogate="atan"),
    "detached": lambda: pn.LIF(3, surrogate="triangle", detach_reset=True),
    "soft": lambda: pn.LIF(3, v_reset=None, surrogate="atan"),
    "if": lambda: pn.IF(3),
    "plif": lambda: pn.PLIF(3, v_reset=0.1),
    "ilif": lambda: pn.ILIF(3),
    "ternary": lambda: pn.TernaryLIF(3),
}


@pytest.fixture
def traced(monkeypatch):
    """Graphs are traced and run as they are, without the seconds that compilation takes."""
    monkeypatch.setattr(torch._inductor, "compile", lambda graph, examples, options: graph)
    monkeypatch.setattr(leaky_graph, "_graphs", {})


def rows(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 2


def compare(neuron, x, v0=None, function=leaky_graph.apply, rtol=1e-5):
    """Spikes, last membrane and gradients of `function` against autograd over the float32 reference."""
    results = []
    for fast in (True, False):
        leaf = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
        start = None if v0 is None else v0.clone().requires_grad_()
        state = None if start is None else pn.Membrane(start)
        if fast:
            spikes, v = function(leaf, neuron.T, start, neuron.params())
        else:
            fired = leaky_reference(leaf.float(), neuron.T, state, neuron.params())
            spikes, v = fired.spikes, fired.state.v
        weight = rows(*x.shape, seed=2).to(x.device).to(x.dtype).float()
        loss = (spikes.float() * weight).sum() + v.square().sum()
        inputs = [leaf, *([] if start is None else [start]), *neuron.parameters()]
        results.append([spikes.float(), v, *torch.autograd.grad(loss, inputs)])
    (spikes, v, *grads), (expected, expected_v, *expected_grads) = results
    assert torch.equal(spikes, expected)
    torch.testing.assert_close(v, expected_v, rtol=1e-6, atol=1e-6)
    for a, b in zip(grads, expected_grads):
        assert a.shape == b.shape
        torch.testing.assert_close(a, b, rtol=rtol, atol=rtol * max(1.0, float(b.float().abs().max())))


@pytest.mark.parametrize("name", BUILDS)
def test_traced_graphs(name, traced):
    x = rows(6, 5, 4, 3)
    for layout in (x, x.to(memory_format=torch.channels_last), x[..., ::2]):
        compare(BUILDS[name](), layout)
    compare(BUILDS[name](), x, rows(2, 5, 4, 3, seed=1))


def test_traced_halves(traced):
    for dtype, rtol in ((torch.bfloat16, 8e-3), (torch.float16, 1e-3)):
        compare(pn.LIF(3, surrogate="atan"), rows(6, 20).to(dtype), rtol=rtol)


def test_graphs_are_kept_by_shape_and_constants(traced):
    x = rows(6, 5)
    for neuron in (pn.LIF(3), pn.LIF(3), pn.LIF(3, tau=3.0)):
        leaky_graph.apply(x, 3, None, neuron.params())
    leaky_graph.apply(rows(9, 5), 3, None, pn.LIF(3).params())
    assert len(leaky_graph._graphs) == 3


def test_where_graphs_do_not_apply(traced):
    p = pn.LIF(3).params()
    assert leaky_graph.apply(rows(6, 5).double(), 3, None, p) is None
    assert leaky_graph.apply(rows(0, 5), 3, None, p) is None
    per_channel = pn.LIF(3).params()
    per_channel.decay = torch.rand(5)
    assert leaky_graph.apply(rows(6, 5), 3, None, per_channel) is None


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lif", "plif"])
def test_compiled_graphs(name):
    compare(BUILDS[name](), rows(6, 5, 4, 3).to(memory_format=torch.channels_last))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", BUILDS)
def test_on_a_gpu(name):
    neuron = BUILDS[name]().cuda()

    def public(x, T, v0, p):
        fired = leaky(x, T, None if v0 is None else pn.Membrane(v0), p)
        return fired.spikes, fired.state.v

    x = rows(6, 5, 4, 3).cuda()
    for layout in (x, x.to(memory_format=torch.channels_last)):
        compare(neuron, layout, function=public, rtol=1e-4)
    compare(neuron, x.bfloat16(), function=public, rtol=8e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_recorded_by_a_cuda_graph():
    neuron, x = pn.LIF(3, surrogate="atan").cuda(), rows(6, 50).cuda()
    expected = neuron(x)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        spikes = neuron(x)
    graph.replay()
    assert torch.equal(spikes, expected)
