"""Membrane quantizers: the trained staircase equals its table exactly, levels, gradients, calibration."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from picojoule.compress import (
    TanhMembrane,
    UniformMembrane,
    attach_membrane_,
    calibrate_membranes_,
    membranes,
)
from picojoule.core.errors import ConfigError
from picojoule.neurons.lif import LIF

MAKERS = {"uniform": UniformMembrane, "tanh": TanhMembrane}


def staircase(table: object, v: np.ndarray) -> np.ndarray:
    return table.values[np.searchsorted(table.breaks, v, side="right")]  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("limit", [0.3, 1.0, 2.0, 7.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_forward_is_the_table_bit_for_bit(kind: str, bits: int, limit: float, dtype: torch.dtype) -> None:
    quantizer = MAKERS[kind](bits, limit).to(dtype)
    table = quantizer.table()
    torch.manual_seed(0)
    v = 3 * torch.randn(4000, dtype=dtype)
    edges = torch.from_numpy(table.breaks).to(dtype)
    near = torch.cat([edges, torch.nextafter(edges, edges - 1), torch.nextafter(edges, edges + 1)])
    v = torch.cat([v, near, torch.tensor([0.0, -0.0, 1e30, -1e30], dtype=dtype)])
    out = quantizer(v)
    assert np.array_equal(out.double().numpy(), staircase(table, v.double().numpy()))
    assert len(out.unique()) <= 1 << bits
    assert len(table.values) == ((1 << bits) if kind == "uniform" else (1 << bits) - 1)
    assert bool((np.diff(table.breaks) > 0).all())
    assert bool((np.diff(table.values) > 0).all())


def test_uniform_step_is_dyadic_and_covers_the_limit() -> None:
    for limit in (0.1, 1.0, 1.7, 5.0):
        quantizer = UniformMembrane(4, limit)
        assert torch.log2(quantizer.step) == torch.log2(quantizer.step).round()
        assert quantizer.table().values[0] <= -limit
        assert quantizer.table().values[0] > -2 * limit - 1e-9


def test_uniform_gradient() -> None:
    quantizer = UniformMembrane(3, 1.0)  # step 1/4, levels -1 .. 0.75
    v = torch.tensor([-2.0, -1.0, 0.1, 0.75, 0.8], requires_grad=True)
    quantizer(v).sum().backward()
    assert v.grad.tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]


def test_tanh_gradient_and_bound() -> None:
    quantizer = TanhMembrane(4, 1.0)
    v = torch.tensor([-0.5, 0.2, 3.0], requires_grad=True)
    out = quantizer(v)
    out.sum().backward()
    expected = 1 - torch.tanh(v.detach()) ** 2
    expected[2] = 0.0
    assert torch.allclose(v.grad, expected)
    assert float(out.detach().abs().max()) <= 1.0


def test_zero_is_a_level() -> None:
    for maker in MAKERS.values():
        assert float(maker(4, 1.0)(torch.zeros(1))) == 0.0


def test_attached_to_a_neuron_and_lowered() -> None:
    neuron = LIF(T=6, v_reset=None)
    attach_membrane_(neuron, UniformMembrane(3, 2.0))
    spec = neuron.lower()
    assert spec.table is not None
    assert not spec.homogeneous
    torch.manual_seed(0)
    x = torch.randn(6 * 2, 5, dtype=torch.float64) * 2
    neuron = neuron.double()
    fired = neuron.run(x, 6, None, True)
    v = np.zeros((2, 5))
    for t in range(6):
        h = spec.decay[0, 0] * v + spec.gain[0, 0] * x[2 * t : 2 * t + 2].numpy() + spec.bias[0, 0]
        n = (h >= spec.thresholds[0, 0, 0]).astype(float)
        assert np.array_equal(fired.spikes[2 * t : 2 * t + 2].detach().numpy(), n)
        v = staircase(spec.table, h - n * spec.reset_value[0, 0])
    assert np.array_equal(fired.state.v.detach().numpy(), v)
    assert len(np.unique(v)) <= 8
    with pytest.raises(ConfigError, match="already"):
        attach_membrane_(neuron, UniformMembrane(3))
    with pytest.raises(ConfigError, match="neurons"):
        attach_membrane_(nn.Linear(2, 2), UniformMembrane(3))


def test_a_quantized_membrane_trains() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), LIF(T=3), nn.Linear(8, 2))
    attach_membrane_(model[1], UniformMembrane(4))
    model(torch.randn(6, 4)).square().sum().backward()
    assert bool((model[0].weight.grad != 0).any())


@pytest.mark.parametrize("quantile", [1.0, 0.9])
def test_calibration_sets_the_range_from_data(quantile: float) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 64), LIF(T=2)).train()
    attach_membrane_(model[1], UniformMembrane(8, 1000.0))
    x = torch.randn(64, 4)
    calibrate_membranes_(model, [x[:32], x[32:]], quantile)
    assert model[1].training
    (_, quantizer), *rest = membranes(model)
    assert not rest
    quantizer.observing = True  # see the true membranes
    seen = []
    for part in (x[:32], x[32:]):
        h = model[0](part).detach().reshape(2, 16, 64)
        v = torch.zeros(16, 64)
        for t in range(2):
            h_t = v + (h[t] - v) / 2
            v = torch.where(h_t >= 1, torch.zeros(()), h_t)
            seen.append(v.abs().flatten())
    limit = float(torch.cat(seen).quantile(quantile))
    top = -quantizer.table().values[0]
    assert limit * 0.9 <= top <= 2.2 * limit


def test_bad_settings() -> None:
    for maker in MAKERS.values():
        with pytest.raises(ConfigError, match=r"2\.\.16"):
            maker(1)
        with pytest.raises(ConfigError, match="positive"):
            maker(4, 0.0)
        with pytest.raises(ConfigError, match="positive"):
            maker(4, float("inf"))
    with pytest.raises(ConfigError, match="no neuron"):
        calibrate_membranes_(nn.Linear(2, 2), [])
    with pytest.raises(ConfigError, match="quantile"):
        calibrate_membranes_(nn.Linear(2, 2), [], 0.0)
