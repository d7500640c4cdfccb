"""BatchNorm and neuron in one pass against the two modules: spikes, gradients, running statistics."""

import copy
import itertools

import pytest
import torch
from torch import nn

from picojoule import neurons as pn
from picojoule.neurons import leaky_native, norm_native
from picojoule.neurons.norm_native import norm_neuron

pytestmark = pytest.mark.skipif(not leaky_native.AVAILABLE, reason="built without the native extension")


@pytest.fixture(autouse=True)
def calls(monkeypatch):
    """Counts fused passes, so that no test passes on the fallback unnoticed."""
    count = []
    fire = norm_native.fire

    def counted(*args):
        count.append(args)
        return fire(*args)

    monkeypatch.setattr(norm_native, "fire", counted)
    return count


def rows(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 2 + 3


def norm_of(shape, **options):
    make = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[len(shape)]
    torch.manual_seed(5)
    norm = make(shape[1], **options)
    if norm.affine:
        nn.init.uniform_(norm.weight, -1.5, 1.5)
        nn.init.normal_(norm.bias)
    if norm.running_mean is not None:
        norm.running_mean.normal_(3)
        norm.running_var.uniform_(2, 5)
    return norm


def both(norm, neuron, x, added=None):
    """(spikes, gradients, state dict) of the fused pass and of the modules."""
    results = []
    for fused in (True, False):
        twin = copy.deepcopy(norm)
        leaf = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
        side = None if added is None else added.detach().clone().requires_grad_()
        spikes = norm_neuron(twin, neuron, leaf, side, fused)
        inputs = [leaf, *([] if side is None else [side]), *twin.parameters()]
        grads = torch.autograd.grad((spikes * rows(x.shape, 9)).float().sum(), inputs)
        results.append((spikes.detach(), grads, twin.state_dict()))
    return results


def assert_close(results, rtol=2e-5):
    (spikes, grads, state), (expected, expected_grads, expected_state) = results
    assert torch.equal(spikes, expected)  # the seeds leave no membrane within rounding of its threshold
    assert float(spikes.abs().mean()) > 0
    for a, b in zip(grads, expected_grads):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=rtol, atol=rtol * max(1.0, float(b.abs().max())))
    assert state.keys() == expected_state.keys()
    for name in state:
        torch.testing.assert_close(state[name], expected_state[name], rtol=2e-6, atol=2e-6)


SHAPES = [(8, 6, 5, 3), (4, 64, 9, 8), (8, 7), (12, 3, 11), (4, 1, 300), (4, 5, 2, 3, 2), (4, 3, 40, 41)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("train", [True, False])
def test_equals_the_modules(shape, train, calls):
    x, added = rows(shape), rows(shape, 1) - 3
    neuron = pn.LIF(4, v_th=0.3, surrogate="atan")
    norm = norm_of(shape).train(train)
    layouts = [x]
    if x.dim() == 4:
        layouts.append(x.to(memory_format=torch.channels_last))
        layouts.append(x.transpose(2, 3).contiguous().transpose(2, 3))
    for layout, r in itertools.product(layouts, (None, added)):
        assert_close(both(norm, neuron, layout, r))
    assert len(calls) == 2 * len(layouts)


@pytest.mark.parametrize("options", [{"affine": False}, {"momentum": None}, {"track_running_stats": False}])
@pytest.mark.parametrize("train", [True, False])
def test_forms_of_the_norm(options, train, calls):
    shape = (8, 6, 5, 3)
    norm = norm_of(shape, **options).train(train)
    assert_close(both(norm, pn.LIF(4, v_th=0.3, surrogate="atan"), rows(shape)))
    assert calls


def test_running_statistics_over_batches(calls):
    for momentum in (0.1, None):
        shape = (8, 6, 5, 3)
        fused = norm_of(shape, momentum=momentum)
        plain = copy.deepcopy(fused)
        for seed in range(5):
            for norm, on in ((fused, True), (plain, False)):
                norm_neuron(norm, pn.LIF(4), rows(shape, seed), fused=on)
        assert int(fused.num_batches_tracked) == 5
        torch.testing.assert_close(fused.running_mean, plain.running_mean, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(fused.running_var, plain.running_var, rtol=1e-6, atol=1e-6)
    assert len(calls) == 10


@pytest.mark.parametrize("mean", [0.0, 1000.0])
def test_variance_far_from_zero(mean):
    """A mean far above the deviation costs no accuracy: sums are taken around a value of the channel."""
    x = torch.randn(16, 4, 12, 12, generator=torch.Generator().manual_seed(0)) + mean
    norm = nn.BatchNorm2d(4, momentum=1.0)
    norm_neuron(norm, pn.LIF(4), x)
    exact = x.double()
    torch.testing.assert_close(norm.running_mean.double(), exact.mean((0, 2, 3)), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(norm.running_var.double(), exact.var((0, 2, 3)), rtol=3e-6, atol=1e-6)


NEURONS = {
    "if": lambda: pn.IF(4),
    "soft": lambda: pn.LIF(4, v_reset=None, surrogate="triangle"),
    "detached": lambda: pn.LIF(4, detach_reset=True, v_th=0.5),
    "ilif": lambda: pn.ILIF(4),
    "ternary": lambda: pn.TernaryLIF(4),
}


@pytest.mark.parametrize("name", NEURONS)
def test_neurons(name, calls):
    shape = (8, 6, 5, 4)
    for train in (True, False):
        assert_close(
            both(norm_of(shape).train(train), NEURONS[name](), rows(shape), rows(shape, 1) - 3), 1e-4
        )
    assert len(calls) == 2


def test_brief_rows(calls):
    """bfloat16: the norm and the sum are not rounded in between, so compare with float32 modules."""
    shape, neuron = (8, 6, 5, 3), pn.LIF(4, v_th=0.3, surrogate="atan")
    x, added = rows(shape).bfloat16(), (rows(shape, 1) - 3).bfloat16()
    brief, _ = both(norm_of(shape), neuron, x, added)
    _, wide = both(norm_of(shape), neuron, x.float(), added.float())
    assert torch.equal(brief[0].float(), wide[0])
    for a, b in zip(brief[1], wide[1]):
        torch.testing.assert_close(a.float(), b, rtol=2e-2, atol=2e-2)
    for name in wide[2]:
        torch.testing.assert_close(brief[2][name], wide[2][name], rtol=1e-5, atol=1e-5)
    assert calls


@pytest.mark.parametrize("wanted", ["x", "added", "weight", "bias"])
@pytest.mark.parametrize("train", [True, False])
def test_single_gradients(wanted, train):
    shape = (8, 6, 5, 3)
    norm, neuron = norm_of(shape).train(train), pn.LIF(4, v_th=0.3, surrogate="atan")
    grads = []
    for fused in (True, False):
        twin = copy.deepcopy(norm)
        leaves = {"x": rows(shape), "added": rows(shape, 1) - 3, "weight": twin.weight, "bias": twin.bias}
        for name, leaf in leaves.items():
            leaf.requires_grad_(name == wanted)
        spikes = norm_neuron(twin, neuron, leaves["x"], leaves["added"], fused)
        grads.append(torch.autograd.grad((spikes * rows(shape, 9)).sum(), leaves[wanted])[0])
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-4)


def test_threads_change_nothing():
    shape, before = (16, 24, 33, 31), torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            (spikes, grads, state), _ = both(norm_of(shape), pn.LIF(4, surrogate="atan"), rows(shape))
            results.append([spikes, *grads, *state.values()])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


class OtherNorm(nn.BatchNorm2d):
    """Stands for a norm of another class, such as one shared between processes."""


def test_what_falls_back(calls):
    shape = (8, 6, 5, 3)
    x, lif = rows(shape), pn.LIF(4)
    hooked = norm_of(shape)
    hooked.register_forward_hook(lambda *_: None)
    cases = [
        (OtherNorm(6), lif, x),
        (hooked, lif, x),
        (norm_of(shape), pn.PLIF(4), x),
        (norm_of(shape).double(), lif, x.double()),
        (norm_of(shape), pn.ALIF(4), x),
        (norm_of(shape), pn.LIF(4, membrane_quant=nn.Identity()), x),
    ]
    for norm, neuron, current in cases:
        twin = copy.deepcopy(norm)
        assert torch.equal(norm_neuron(norm, neuron, current), neuron(twin(current)))
    assert not calls
    with pytest.raises(ValueError, match="more than 1 value"):
        norm_neuron(nn.BatchNorm1d(6), pn.LIF(1), torch.randn(1, 6))
    norm_neuron(norm_of(shape), lif, x)
    assert len(calls) == 1


def test_compiled_and_exported():
    norm, neuron = norm_of((8, 6, 5, 3)).eval(), pn.LIF(4)

    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.neuron = norm, neuron

        def forward(self, x):
            return norm_neuron(self.norm, self.neuron, x)

    x = rows((8, 6, 5, 3))
    expected = neuron(norm(x))
    assert torch.equal(torch.compile(Pair(), backend="aot_eager", fullgraph=True)(x), expected)
    assert torch.equal(torch.export.export(Pair(), (x,)).module()(x), expected)
