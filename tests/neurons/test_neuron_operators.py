"""The registered operators: opcheck, compile, export; equal to eager, gradients included."""

import pytest
import torch
from torch import nn

from picojoule import neurons as pn
from picojoule import timeline
from picojoule.neurons.base import leaf_key, leaf_module

CORE = {
    "lif": lambda: pn.LIF(3, v_reset=-0.1),
    "if": lambda: pn.IF(3, v_reset=None),
    "plif": lambda: pn.PLIF(3, v_reset=0.1),
    "ilif": lambda: pn.ILIF(3, N=2),
    "nilif": lambda: pn.NILIF(3),
    "ternary": lambda: pn.TernaryLIF(3),
}


@pytest.mark.parametrize("name", list(CORE))
def test_opcheck_leaky(name):
    torch.manual_seed(0)
    neuron = CORE[name]().double()
    x = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    v0 = torch.zeros(2, 4, dtype=torch.float64, requires_grad=True)
    learned = [c.detach().requires_grad_() for c in neuron.params().learned]
    torch.library.opcheck(torch.ops.pj.leaky.default, (x, v0, learned, 3, leaf_key(neuron)))


def test_opcheck_leaf_and_timeline():
    neuron = pn.QIF(3).double()
    x = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    torch.library.opcheck(torch.ops.pj.leaf.default, (x, 3, leaf_key(neuron)))
    plain = x.detach()
    torch.library.opcheck(torch.ops.pj.repeat.default, (plain, 3))
    torch.library.opcheck(torch.ops.pj.fold.default, (plain.reshape(2, 3, 4),))
    for mode in timeline.READOUTS:
        torch.library.opcheck(torch.ops.pj.readout.default, (plain, 3, mode))


@pytest.mark.parametrize("name", list(CORE))
def test_the_operator_equals_the_function(name):
    torch.manual_seed(1)
    neuron = CORE[name]().double()
    x = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    v0 = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    weights = [torch.randn(s, 4, dtype=torch.float64) for s in (6, 2, 6)]
    results = []
    for call in ("function", "operator"):
        p = neuron.params()
        if call == "function":
            fired = neuron.run(x, 3, pn.Membrane(v0), True)
            out = (fired.spikes, fired.state.v, fired.h)
        else:
            out = torch.ops.pj.leaky(x, v0, p.learned, 3, leaf_key(neuron))
        loss = sum((o * w).sum() for o, w in zip(out, weights))
        grads = torch.autograd.grad(loss, [x, v0, *neuron.parameters()], allow_unused=True)
        results.append([*out, *(torch.zeros(1) if g is None else g for g in grads)])
    for a, b in zip(*results):
        assert torch.equal(a, b)


class Net(nn.Module):
    def __init__(self, neuron, T=3):
        super().__init__()
        self.entry = timeline.Entry(T)
        self.conv = nn.Conv2d(1, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.neuron = neuron
        self.head = nn.Linear(4 * 4 * 4, 2)
        self.out = timeline.Readout(T)

    def forward(self, x):
        x = self.neuron(self.bn(self.conv(self.entry(x))))
        return self.out(self.head(x.flatten(1)))


@pytest.mark.parametrize("name", [*CORE, "cuba", "masked_psn"])
def test_compile_fullgraph(name):
    make = {**CORE, "cuba": lambda: pn.CUBA(3), "masked_psn": lambda: pn.MaskedPSN(3, 2, 1.0)}[name]
    torch.manual_seed(0)
    torch._dynamo.reset()
    net = Net(make()).double()
    x = torch.randn(2, 1, 6, 6, dtype=torch.float64)
    expected = net(x)
    expected.sum().backward()
    grads = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    fast = torch.compile(net, fullgraph=True, backend="aot_eager")
    got = fast(x)
    torch.testing.assert_close(got, expected, atol=1e-12, rtol=0)
    got.sum().backward()
    for p, g in zip(net.parameters(), grads):
        torch.testing.assert_close(p.grad, g, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("neuron", [pn.LIF(3), pn.ILIF(3), pn.PLIF(3), pn.SlidingPSN(3), pn.EIF(3)], ids=repr)
def test_export_with_a_dynamic_batch(neuron):
    torch.manual_seed(0)
    net = Net(neuron).eval()
    batch = torch.export.Dim("batch")
    with torch.no_grad():
        program = torch.export.export(net, (torch.randn(2, 1, 6, 6),), dynamic_shapes=({0: batch},))
        leaves = [n for n in program.graph.nodes if n.target is torch.ops.pj.leaf.default]
        assert len(leaves) == 1
        assert leaf_module(leaves[0].args[-1]) is neuron
        module = program.module()
        for B in (1, 2, 3, 7):
            x = torch.randn(B, 1, 6, 6, generator=torch.Generator().manual_seed(B))
            assert torch.equal(module(x), net(x))


def test_the_key_outlives_nothing():
    neuron = pn.LIF(2)
    key = leaf_key(neuron)
    assert leaf_key(neuron) == key
    del neuron
    with pytest.raises(KeyError, match="no longer exists"):
        leaf_module(key)
