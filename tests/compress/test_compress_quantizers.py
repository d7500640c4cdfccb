"""Every quantizer: exact decoding, its grid, its gradients, and the invariants of its method note."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from picojoule import compress
from picojoule.compress import (
    LSQ,
    Binary,
    Codebook,
    Codes,
    Grid,
    Standardized,
    Ternary,
    attach_,
    decode,
    get_codes,
)
from picojoule.compress.codebook import frequent_patterns, word_length
from picojoule.core.errors import ConfigError, KindError, NonFiniteError, ShapeError

MAKERS = {
    "lsq8": lambda: LSQ(8),
    "lsq4": lambda: LSQ(4),
    "lsq3": lambda: LSQ(3),
    "lsq2": lambda: LSQ(2),
    "lsq4_paper": lambda: LSQ(4, init="paper"),
    "binary": lambda: Binary(),
    "binary_open": lambda: Binary(clip=None),
    "standardized": lambda: Standardized(),
    "ternary": lambda: Ternary(),
    "codebook": lambda: Codebook(0.5),
    "grid0": lambda: Grid(0),
    "grid1": lambda: Grid(1, scale=0.3),
    "grid3": lambda: Grid(3, scale=0.7),
}
LAYERS = {
    "conv": lambda: nn.Conv2d(5, 7, 3),
    "depthwise": lambda: nn.Conv2d(6, 6, 3, groups=6),
    "linear": lambda: nn.Linear(16, 5),
    "conv1d": lambda: nn.Conv1d(8, 3, 1),
}


def layer_of(kind: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(1)
    return LAYERS[kind]().to(dtype)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_codes_decode_to_the_weight_bit_for_bit(kind: str, maker: str, dtype: torch.dtype) -> None:
    layer = attach_(layer_of(kind, dtype), MAKERS[maker]())
    codes = get_codes(layer)
    assert codes is not None
    assert torch.equal(decode(codes), layer.weight)
    assert decode(codes).dtype == dtype
    assert codes.shape == tuple(layer.weight.shape)
    assert not codes.ints.dtype.is_floating_point
    low, high = int(codes.ints.min()), int(codes.ints.max())
    limits = {
        "int": (-(1 << (codes.bits - 1)), (1 << (codes.bits - 1)) - 1),
        "sign": (-1, 1),
        "ternary": (-1, 1),
        "codebook": (0, (1 << codes.bits) - 1),
    }[codes.coding]
    assert limits[0] <= low <= high <= limits[1]
    assert bool((codes.scales >= 0).all())
    if codes.coding == "sign":
        assert bool((codes.ints != 0).all())


@pytest.mark.parametrize("maker", MAKERS)
def test_exact_after_training_steps_and_through_a_state_dict(maker: str) -> None:
    layer = attach_(layer_of("conv"), MAKERS[maker]())
    if not maker.startswith("grid"):
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.3)
        for step in range(3):
            compress.progress_(layer, step, step / 3)
            optimizer.zero_grad()
            layer(torch.randn(2, 5, 6, 6)).square().mean().backward()
            optimizer.step()
    codes = get_codes(layer)
    assert codes is not None
    assert torch.equal(decode(codes), layer.weight)
    other = attach_(nn.Conv2d(5, 7, 3), MAKERS[maker]())
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other.weight, layer.weight)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_lsq_levels_and_range(bits: int) -> None:
    layer = attach_(nn.Linear(400, 3), LSQ(bits))
    for row in layer.weight:
        assert len(row.unique()) <= 1 << bits
    step = layer.parametrizations.weight[0].step.detach()
    ints = layer.weight.detach() / step[:, None]
    assert torch.allclose(ints, ints.round(), atol=1e-4)
    assert int(ints.round().min()) >= -(1 << (bits - 1))
    assert int(ints.round().max()) <= (1 << (bits - 1)) - 1


def test_lsq_gradients_are_the_formula() -> None:
    torch.manual_seed(0)
    quantizer = LSQ(3)
    w = torch.randn(4, 6, 2, dtype=torch.float64)
    quantizer.prepare(w)
    with torch.no_grad():
        quantizer.step.mul_(0.5)  # so that some weights are clipped on both sides
    latent = w.clone().requires_grad_()
    grad = torch.randn_like(w)
    quantizer(latent).backward(grad)
    step = quantizer.step.detach().reshape(4, 1, 1)
    z = w / step
    inside = (z >= -4) & (z <= 3)
    assert 0 < int(inside.sum()) < inside.numel()
    assert torch.equal(latent.grad, grad * inside)
    slope = torch.where(inside, z.round() - z, z.clamp(-4, 3))
    expected = (grad * slope).sum(dim=(1, 2)) / math.sqrt(w.numel() * 3)
    assert torch.allclose(quantizer.step.grad, expected, rtol=1e-12)


def test_lsq_step_gradient_matches_finite_differences_where_it_should() -> None:
    # Outside the limits w_q = limit * s is smooth in s: there the formula is a true derivative.
    quantizer = LSQ(2)
    w = torch.tensor([[5.0, -7.0, 9.0]], dtype=torch.float64)
    quantizer.step = nn.Parameter(torch.tensor([0.5], dtype=torch.float64))
    quantizer(w).sum().backward()
    eps = 1e-6
    with torch.no_grad():
        high = quantizer.step + eps
        low = quantizer.step - eps
        values = [(w / s).clamp(-2, 1).round().mul(s).sum() for s in (high, low)]
    numeric = (values[0] - values[1]) / (2 * eps)
    assert quantizer.step.grad.item() * math.sqrt(3 * 1) == pytest.approx(numeric.item(), rel=1e-6)


def test_lsq_step_stays_positive_and_recovers() -> None:
    layer = attach_(nn.Linear(4, 2), LSQ(4))
    quantizer = layer.parametrizations.weight[0]
    with torch.no_grad():
        quantizer.step.fill_(-1.0)
    assert bool(torch.isfinite(layer.weight).all())
    assert bool((get_codes(layer).scales == 1e-8).all())
    layer.weight.sum().backward()
    assert bool((quantizer.step.grad != 0).any())


def test_lsq_paper_start() -> None:
    w = torch.randn(3, 50)
    quantizer = LSQ(4, init="paper")
    quantizer.prepare(w)
    assert torch.allclose(quantizer.step, (2 * w.abs().mean() / math.sqrt(7)).expand(3))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_lsq_least_square_start_beats_the_paper_start(bits: int) -> None:
    torch.manual_seed(3)
    w = torch.randn(6, 200) * torch.logspace(-2, 1, 6)[:, None]
    errors = []
    for init in ("mse", "paper"):
        quantizer = LSQ(bits, init=init)
        quantizer.prepare(w)
        errors.append(((quantizer(w) - w).square().mean(1) / w.square().mean(1)).mean().item())
    assert errors[0] < errors[1]
    assert errors[0] < {2: 0.2, 3: 0.05, 4: 0.02, 8: 1e-3}[bits]


def test_binary_values_scale_and_gradient() -> None:
    torch.manual_seed(0)
    w = torch.randn(3, 4, 2, 2)
    w[0, 0, 0, 0] = 0.0
    latent = w.clone().requires_grad_()
    value = Binary(clip=1.0)(latent)
    scale = w.abs().flatten(1).mean(1)
    assert torch.equal(value[0, 0, 0, 0], scale[0])  # sign(0) = +1
    for row, s in zip(value, scale, strict=True):
        assert torch.allclose(row.abs(), s.expand_as(row))
    grad = torch.randn_like(w)
    value.backward(grad)
    assert torch.equal(latent.grad, grad * (w.abs() <= 1.0))
    assert bool((w.abs() > 1.0).any())
    latent.grad = None
    Binary(clip=None)(latent).backward(grad)
    assert torch.equal(latent.grad, grad)


def test_a_zero_row_decodes_to_zero() -> None:
    for maker in ("lsq4", "binary", "standardized", "ternary", "codebook"):
        layer = nn.Conv2d(4, 3, 3)
        with torch.no_grad():
            layer.weight[1] = 0.0
        attach_(layer, MAKERS[maker]())
        assert bool((layer.weight[1] == 0).all()), maker
        layer.weight.square().sum().backward()
        assert bool(torch.isfinite(layer.parametrizations.weight.original.grad).all()), maker
        codes = get_codes(layer)
        assert torch.equal(decode(codes), layer.weight)


def test_standardized_scale_is_a_power_of_two() -> None:
    torch.manual_seed(0)
    for w in (torch.randn(8, 4, 3, 3), torch.rand(8, 200)):
        value = Standardized()(w)
        scale = value.flatten(1).abs().amax(1)
        assert torch.equal(value.abs().flatten(1), scale[:, None].expand(-1, w[0].numel()))
        assert bool((torch.log2(scale) == 0).all())  # Gaussian and uniform rows have exponent 0
    heavy = torch.zeros(1, 400)
    heavy[0, 0] = 100.0
    assert torch.log2(Standardized()(heavy).abs().max()).item() <= -2


def test_standardized_ignores_affine_changes_of_a_row() -> None:
    w = torch.randn(5, 30, dtype=torch.float64)
    c = torch.tensor([0.1, 1.0, 3.0, 10.0, 0.5], dtype=torch.float64)[:, None]
    assert torch.equal(Standardized()(w), Standardized()(w * c + 2.0 * c))


def test_standardized_slope_schedule() -> None:
    layer = attach_(nn.Linear(50, 3), Standardized())
    quantizer = layer.parametrizations.weight[0]
    k, t = quantizer.slope()
    assert k * t == pytest.approx(1.0)
    z = torch.linspace(-3, 3, 61, dtype=torch.float64)
    factor = k * t * (1 - torch.tanh(t * z) ** 2)
    assert 0.915 <= factor.min() <= factor.max() <= 1.0 + 1e-12
    compress.progress_(layer, 10, 1.0)
    k, t = quantizer.slope()
    assert k == 1.0
    assert t == pytest.approx(10.0)
    assert k * t * (1 - math.tanh(t) ** 2) < 1e-6


def test_standardized_gradient_flows_through_mean_and_deviation() -> None:
    torch.manual_seed(0)
    w = torch.randn(2, 12, dtype=torch.float64)
    grad = torch.randn_like(w)
    latent = w.clone().requires_grad_()
    Standardized()(latent).backward(grad)
    plain = w.clone().requires_grad_()
    z = (plain - plain.mean(1, keepdim=True)) / plain.std(1, keepdim=True)
    k, t = 10.0, 0.1
    z.backward(grad * k * t * (1 - torch.tanh(t * z.detach()) ** 2))
    assert torch.allclose(latent.grad, plain.grad, atol=1e-12)


def test_ternary_threshold_scale_and_gradient() -> None:
    torch.manual_seed(0)
    w = torch.randn(4, 100)
    latent = w.clone().requires_grad_()
    value = Ternary()(latent)
    for row, out in zip(w, value, strict=True):
        large = row.abs() > 0.7 * row.abs().mean()
        assert torch.equal(out != 0, large)
        assert torch.allclose(out[large], row[large].sign() * row[large].abs().mean())
        assert len(out.unique()) == 3
    grad = torch.randn_like(w)
    value.backward(grad)
    assert torch.equal(latent.grad, grad * (w.abs() <= 1))


@pytest.mark.parametrize(("bits", "eta"), [(0.44, 4), (0.56, 5), (0.67, 6), (1.0, 9)])
def test_codebook_words_and_bits(bits: float, eta: int) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(24, 32, 3)
    latent = layer.weight.detach().clone()
    attach_(layer, Codebook(bits))
    codes = get_codes(layer)
    assert codes.bits == eta
    assert codes.codebook.shape == (1 << eta, 9)
    assert len({tuple(row) for row in codes.codebook.tolist()}) == 1 << eta
    assert codes.bits_per_weight == pytest.approx(eta / 9 + (1 << eta) / (24 * 32))
    book = {tuple(row) for row in codes.codebook.tolist()}
    words = {tuple(k) for k in layer.weight.detach().sign().reshape(-1, 9).int().tolist()}
    assert words <= book
    if eta == 9:
        assert torch.equal(layer.weight.sign(), torch.where(latent >= 0, 1.0, -1.0))


def test_codebook_selection_is_the_nearest_word() -> None:
    torch.manual_seed(0)
    w = torch.randn(8, 4, 3, 3)
    quantizer = Codebook(0.44)
    quantizer.prepare(w)
    kernels = w.reshape(-1, 1, 9)
    nearest = (kernels - quantizer.words).square().sum(-1).argmin(1)
    assert torch.equal(quantizer.select(w).flatten(), nearest)


def test_codebook_frequent_patterns_beat_random_ones() -> None:
    torch.manual_seed(0)
    base = torch.where(torch.rand(12, 9) > 0.5, 1.0, -1.0)
    kernels = base[torch.randint(12, (500,))] + 0.3 * torch.randn(500, 9)
    words = frequent_patterns(kernels, 16)
    assert {tuple(r) for r in base.tolist()} <= {tuple(r) for r in words.tolist()}
    few = frequent_patterns(base[:3], 16)
    assert len({tuple(r) for r in few.tolist()}) == 16
    assert torch.equal(few, frequent_patterns(base[:3], 16))


def test_codebook_refreshes_then_freezes() -> None:
    torch.manual_seed(0)
    layer = attach_(nn.Conv2d(4, 8, 3), Codebook(0.44, refresh=5, freeze=0.5))
    quantizer = layer.parametrizations.weight[0]
    before = quantizer.words.clone()
    with torch.no_grad():
        layer.parametrizations.weight.original.neg_().add_(0.02)
    compress.progress_(layer, 5, 0.6)
    assert torch.equal(quantizer.words, before)
    compress.progress_(layer, 4, 0.1)
    assert torch.equal(quantizer.words, before)
    compress.progress_(layer, 5, 0.1)
    assert not torch.equal(quantizer.words, before)


def test_word_length() -> None:
    assert word_length((8, 4, 3, 3)) == 9
    assert word_length((8, 18, 1, 1)) == 9
    assert word_length((8, 6), 3) == 3
    with pytest.raises(ConfigError, match="binary"):
        word_length((8, 11))
    with pytest.raises(ConfigError, match="divide"):
        word_length((8, 10), 4)


def test_grid_snaps_once_and_is_guarded() -> None:
    layer = attach_(nn.Linear(30, 4), Grid(0))
    assert set(layer.weight.detach().unique().tolist()) == {-1.0, 1.0}
    assert compress.grid_parameters(layer)[0] is layer.parametrizations.weight.original
    ternary = attach_(nn.Linear(30, 4), Grid(1, scale=0.1))
    assert len(ternary.weight.unique()) <= 3
    five = attach_(nn.Linear(300, 4), Grid(2, scale=0.05))
    assert len(five.weight.unique()) == 5
    with torch.no_grad():
        layer.parametrizations.weight.original[0, 0] += 0.25
    with pytest.raises(KindError, match="left its grid"):
        get_codes(layer)


def test_attach_refuses() -> None:
    with pytest.raises(ConfigError, match="already"):
        attach_(attach_(nn.Linear(4, 4), Binary()), Binary())
    with pytest.raises(ConfigError, match="no tensor"):
        attach_(nn.ReLU(), Binary())
    with pytest.raises(ShapeError):
        attach_(nn.BatchNorm2d(4), Binary())
    bad = nn.Linear(4, 4)
    with torch.no_grad():
        bad.weight[0, 0] = math.nan
    with pytest.raises(NonFiniteError):
        attach_(bad, Binary())
    with pytest.raises(ConfigError, match="at least 2"):
        attach_(nn.Conv2d(3, 3, 1, groups=3), Standardized())


@pytest.mark.parametrize(
    "make",
    [
        lambda: LSQ(1),
        lambda: LSQ(9),
        lambda: LSQ(4, init="x"),
        lambda: Binary(clip=0.0),
        lambda: Ternary(factor=3.0),
        lambda: Codebook(1.5),
        lambda: Codebook(0.0),
        lambda: Codebook(0.5, word=20),
        lambda: Grid(9),
        lambda: Grid(1, scale=0.0),
    ],
)
def test_settings_out_of_range(make: object) -> None:
    with pytest.raises(ConfigError):
        make()  # type: ignore[operator]


def test_codes_count_bits_and_check_themselves() -> None:
    codes = get_codes(attach_(nn.Linear(10, 3), LSQ(3)))
    assert codes.payload_bits == 90
    assert codes.payload_bytes == 12 + 3 * 4
    assert codes.bits_per_weight == 3
    ints = torch.zeros(2, 2, dtype=torch.int8)
    with pytest.raises(ShapeError):
        Codes(ints, torch.ones(3), "int", 4, (2, 2))
    with pytest.raises(ShapeError):
        Codes(ints, torch.ones(1), "codebook", 4, (2, 2))
    assert get_codes(nn.Linear(2, 2)) is None


def net() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))
    attach_(model[0], LSQ(4))
    attach_(model[4], Binary())
    return model


def test_strip_leaves_the_original_alone() -> None:
    model = net().eval()
    x = torch.randn(3, 2, 4, 4)
    before: dict[str, Tensor] = copy.deepcopy(dict(model.state_dict()))
    y = model(x)
    plain = compress.strip(model)
    assert torch.equal(plain(x), y)
    assert type(plain[0]) is nn.Conv2d
    assert type(plain[4]) is nn.Linear
    assert set(plain.state_dict()) >= {"0.weight", "4.weight"}
    assert not any("parametrizations" in key for key in plain.state_dict())
    assert isinstance(plain[0].weight, nn.Parameter)
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[k], before[k]) for k in before)
    assert torch.equal(model(x), y)
    assert torch.equal(copy.deepcopy(model)(x), y)
    assert get_codes(model[0]) is not None


def test_remove_in_place_keeps_values() -> None:
    model = net().eval()
    twin = copy.deepcopy(model)
    x = torch.randn(3, 2, 4, 4)
    y = model(x)
    assert compress.remove_(model) is model
    assert torch.equal(model(x), y)
    assert compress.codes_of(model) == {}
    assert torch.equal(twin(x), y)
    assert len(compress.codes_of(twin)) == 2


def test_codes_of_and_parameters() -> None:
    model = net()
    assert set(compress.codes_of(model)) == {"0.weight", "4.weight"}
    steps = compress.quantizer_parameters(model)
    assert [p.shape for p in steps] == [torch.Size([4])]
    with pytest.raises(ConfigError, match="fraction"):
        compress.progress_(model, 0, 1.5)
