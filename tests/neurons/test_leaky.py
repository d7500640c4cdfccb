"""The linear-charge core: fast kernel against the readable reference, and `lower()` against the module."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from picojoule import neurons as pn
from picojoule.core.errors import ConfigError
from picojoule.core.kinds import binary, integer, ternary
from picojoule.core.spec import MembraneTable, NeuronSpec
from picojoule.neurons.leaky import LeakyParams, leaky, leaky_reference

DECAYS = (0.0, 0.5, 1.0, torch.tensor(0.6, dtype=torch.float64))


@pytest.mark.parametrize("kind", [binary, ternary, integer(3)], ids=str)
@pytest.mark.parametrize("reset", ["hard", "soft", "none"])
@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("strict", [False, True])
def test_fast_equals_reference(kind, reset, detach, strict):
    generator = torch.Generator().manual_seed(0)

    def randn(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    for decay, gain, value, T in itertools.product(
        DECAYS, (1.0, torch.tensor([0.5, 2.0, 1.0])), (0.0, 0.3), (1, 4)
    ):
        constants = [
            c.double().clone().requires_grad_() if isinstance(c, torch.Tensor) else c for c in (decay, gain)
        ]
        bias = randn(3).requires_grad_() if value else 0.1
        rule = pn.FireRule(kind=kind, v_th=0.4, strict=strict)
        p = LeakyParams(*constants, bias, rule, reset, value, detach, v_init=0.1, out_scale=0.5)
        x, v0 = randn(T * 2, 3).requires_grad_(), randn(2, 3).requires_grad_()
        x.data[0, 0] = 0.4  # a membrane close to the threshold
        weights = [randn(T * 2, 3), randn(2, 3), randn(T * 2, 3)]
        inputs = [x, v0, *(c for c in (*constants, bias) if isinstance(c, torch.Tensor))]
        results = []
        for function in (leaky, leaky_reference):
            fired = function(x, T, pn.Membrane(v0), p, None, True)
            outputs = (fired.spikes, fired.state.v, fired.h)
            loss = sum((o * w).sum() for o, w in zip(outputs, weights))
            grads = torch.autograd.grad(loss, inputs, allow_unused=True)
            results.append((outputs, [torch.zeros(1) if g is None else g for g in grads]))
        for a, b in zip(results[0][0], results[1][0]):
            assert torch.equal(a, b)
        for a, b in zip(results[0][1], results[1][1]):
            torch.testing.assert_close(a.expand_as(b), b, atol=1e-12, rtol=0)


def test_ternary_hard_reset_turns_with_the_sign():
    """|n| = up + down, so d|n|/dh = g(h - th) - g(-h - th), not the sum and not sign(n) times it."""
    rule = pn.FireRule(kind=ternary, v_th=0.5)
    h = torch.linspace(-2, 2, 41, dtype=torch.float64)
    g = rule.surrogate.grad
    assert torch.equal(rule.fired_grad(h), g(h - 0.5) - g(-h - 0.5))
    p = LeakyParams(decay=0.7, rule=rule, reset="hard")
    x = torch.tensor([[0.3], [0.2]], dtype=torch.float64, requires_grad=True)
    (dx,) = torch.autograd.grad(leaky(x, 2, None, p).state.v.sum(), x)
    h0 = torch.tensor(0.3, dtype=torch.float64)
    h1 = 0.7 * h0 + 0.2
    keep = [1 - h * (g(h - 0.5) - g(-h - 0.5)) for h in (h0, h1)]
    assert dx[0].item() == pytest.approx(float(keep[1] * 0.7 * keep[0]), abs=1e-12)


def interpret(spec: NeuronSpec, x: np.ndarray) -> np.ndarray:
    """The equation of NeuronSpec in numpy, on [T, B, C]."""
    T = x.shape[0]

    def at(array, t):
        return array[t if array.shape[0] > 1 else 0]

    v = np.broadcast_to(spec.v_init[0], x.shape[1:]).astype(np.float64)
    out = np.zeros_like(x)
    for t in range(T):
        h = at(spec.decay, t) * v + (at(spec.gain, t) * x[t] + at(spec.bias, t))
        n = np.zeros_like(h)
        for level, strict in zip(spec.thresholds, spec.strict):
            n += h > at(level, t) if strict else h >= at(level, t)
        if spec.neg_threshold is not None:
            low = at(spec.neg_threshold, t)
            n -= h < low if spec.neg_strict else h <= low
        value = at(spec.reset_value, t)
        v = {"hard": np.where(n != 0, value, h), "soft": h - n * value, "none": h}[spec.reset]
        if spec.table is not None:
            v = spec.table.values[np.searchsorted(spec.table.breaks, v, side="right")]
        out[t] = n * spec.out_scale
    return out


class Staircase(nn.Module):
    def forward(self, v):
        return (v * 4).floor().clamp(-8, 7) / 4

    def table(self):
        return MembraneTable(breaks=np.arange(-7, 8) / 4, values=np.arange(-8, 8) / 4)


def test_lower_is_the_neuron(make):
    torch.manual_seed(0)
    neuron = make(5).double()
    if not neuron.packable or (hasattr(neuron, "amplitude") and not neuron.shared):
        pytest.skip("no packed form for this one; the contract test checks its message")
    x = torch.randn(5, 40, 3, dtype=torch.float64) * 2
    x = (x * 8).round() / 8  # exact ties on purpose
    got = neuron(x.reshape(-1, 3)).reshape(x.shape)
    current = x.numpy()
    if hasattr(neuron, "time_matrix"):
        matrix, bias = neuron.time_matrix()
        current = np.einsum("tj,jbc->tbc", matrix, current) + bias[:, None, None]
    np.testing.assert_array_equal(interpret(neuron.lower(), current), got.detach().numpy())


@pytest.mark.parametrize(
    "neuron",
    [pn.LIF(5, membrane_quant=Staircase()), pn.IF(5, v_reset=None, membrane_quant=Staircase()),
     pn.ILIF(5, membrane_quant=Staircase()), pn.TernaryLIF(5, membrane_quant=Staircase())],
    ids=repr,
)  # fmt: skip
def test_membrane_quantizer_becomes_the_table(neuron):
    neuron = neuron.double()
    x = (torch.randn(5, 40, 3, dtype=torch.float64) * 8).round() / 8
    spec = neuron.lower()
    assert spec.table is not None
    np.testing.assert_array_equal(
        interpret(spec, x.numpy()), neuron(x.reshape(-1, 3)).reshape(x.shape).numpy()
    )
    v = neuron.run(x.reshape(-1, 3), 5).state.v
    assert torch.equal(v, Staircase()(v)), "the membrane is quantized after reset"


@pytest.mark.parametrize("name", ["qif", "eif", "klif", "cuba", "alif"])
def test_membrane_quantizer_of_step_neurons(name):
    cls = {"qif": pn.QIF, "eif": pn.EIF, "klif": pn.KLIF, "cuba": pn.CUBA, "alif": pn.ALIF}[name]
    v = cls(3, membrane_quant=Staircase()).run(torch.randn(6, 4), 3).state.v
    assert torch.equal(v, Staircase()(v))


def test_a_quantizer_is_used_or_refused(make):
    """Never attached and then ignored."""
    torch.manual_seed(0)
    neuron = make(4).double()
    if not neuron.quantizable:
        with pytest.raises(ConfigError, match="no membrane"):
            neuron.membrane_quant = Staircase()
        return
    neuron.membrane_quant = Staircase()
    x = torch.randn(8, 3, dtype=torch.float64)
    v = neuron.run(x, 4).state.v
    assert torch.equal(v, Staircase()(v))


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="use IF"):
        pn.LIF(tau=1.0, decay_input=False)
    with pytest.raises(ValueError, match="hard, soft, none"):
        pn.LIF(reset="subtract")
    with pytest.raises(ValueError, match="half_even"):
        pn.ILIF(rounding="down")
    with pytest.raises(ValueError, match="positive"):
        pn.TernaryLIF(v_th=0.0)
