"""Surrogates: g' against the derivative of its primitive, areas, windows and values at zero."""

import math

import pytest
import torch

from picojoule.core.errors import ConfigError
from picojoule.neurons import surrogate as sg

NAMES = sg.SURROGATES.names()
AT_ZERO = {
    "sigmoid": 1.0, "atan": 1.0, "triangle": 1.0, "rect": 1.0, "exp": 0.5, "softsign": 1.0, "superspike": 1.0,
    "erf": 2 / math.sqrt(math.pi), "logabs": 1.0,
    "leaky_rect": 0.5, "leaky_relu": 1.0, "log_tailed_relu": 0.0,
    "s2nn": 1.0, "q_pseudo_spike": 1.0, "fourier": 0.5, "fake_numerical": 0.3, "straight_through": 1.0,
    "fast_sigmoid": 1.0, "rate_escape": 25 / math.e,
}  # fmt: skip


def test_there_are_at_least_twelve():
    assert len(NAMES) >= 12
    assert set(AT_ZERO) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_grad_is_the_derivative_of_the_primitive(name):
    s = sg.get(name)
    z = torch.linspace(-3.0, 3.0, 601, dtype=torch.float64) + 0.00123  # away from the kinks
    eps = 1e-6
    numeric = (s.primitive(z + eps) - s.primitive(z - eps)) / (2 * eps)
    torch.testing.assert_close(s.grad(z), numeric, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_value_at_zero(name):
    value = sg.get(name).grad(torch.zeros(1, dtype=torch.float64)).item()
    assert value == pytest.approx(AT_ZERO[name], abs=1e-12)


@pytest.mark.parametrize("name", [n for n in NAMES if math.isfinite(sg.get(n).area)])
def test_area(name):
    s = sg.get(name)
    half = 5000.0 if name in ("superspike", "q_pseudo_spike", "fast_sigmoid") else 500.0
    z = torch.linspace(-half, half, 4_000_001, dtype=torch.float64)
    assert torch.trapezoid(s.grad(z), z).item() == pytest.approx(s.area, abs=1e-3, rel=1e-3)


@pytest.mark.parametrize("name", ["sigmoid", "triangle", "rect", "exp"])
def test_area_is_one_within_fifty(name):
    z = torch.linspace(-50.0, 50.0, 1_000_001, dtype=torch.float64)
    assert torch.trapezoid(sg.get(name).grad(z), z).item() == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize(
    "s", [*(sg.get(n) for n in NAMES), sg.Rect(2.0), sg.Triangle(0.5), sg.PiecewiseLeakyReLU(0.7, 0.0),
          sg.Shifted(sg.Rect(1.0), 0.2)], ids=repr
)  # fmt: skip
def test_window_is_tight(s):
    z = torch.linspace(-5.0, 5.0, 100_001, dtype=torch.float64)
    nonzero = z[s.grad(z) != 0].abs().max().item()
    if math.isinf(s.window):
        assert nonzero > 4.9 or isinstance(s, sg.LogTailedReLU)
    else:
        assert s.window - 2e-4 <= nonzero <= s.window


def test_published_rectangles():
    h = torch.linspace(-1.0, 1.0, 201, dtype=torch.float64) + 0.0013
    assert torch.equal(sg.Rect(1.0).grad(h - 0.5), ((h - 0.5).abs() < 0.5).double())
    assert torch.equal(sg.Rect(2.0).grad(h - 0.3), ((h - 0.3).abs() < 0.25).double() * 2)
    assert torch.equal(sg.Shifted(sg.Rect(1.0), 0.2).grad(h - 0.2), (h.abs() < 0.5).double())
    gamma = 0.5
    expected = ((gamma - h.abs()).clamp_min(0)) / gamma**2
    torch.testing.assert_close(sg.Triangle(1 / gamma).grad(h), expected, atol=1e-12, rtol=0)


def test_a_wrong_name_suggests_the_nearest():
    with pytest.raises(ConfigError, match="atan"):
        sg.get("atann")
    with pytest.raises(ValueError, match="above 1"):
        sg.QPseudoSpike(1.0)


@pytest.mark.parametrize("name", NAMES)
def test_dtype_and_shape_are_kept(name):
    z = torch.zeros(0, 3, dtype=torch.float32)
    out = sg.get(name).grad(z)
    assert out.shape == z.shape
    assert out.dtype == z.dtype
