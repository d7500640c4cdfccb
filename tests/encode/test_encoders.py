"""The assertions of the encodings note, in its order, and what the modules promise beyond it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from picojoule import encode, timeline
from picojoule.core.errors import KindError, NonFiniteError, ShapeError
from picojoule.encode.counter import mix

GRID = torch.linspace(0, 1, 257)


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


# -- 1. Poisson ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0.01, 0.3, 0.5, 0.97])
def test_poisson_mean_within_four_sigma(value):
    draws = encode.poisson(torch.full((100, 10), value), 10, seed=3)
    n = draws.numel()
    assert n == 10_000
    assert abs(float(draws.mean()) - value) < 4 * math.sqrt(value * (1 - value) / n)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_poisson_never_fires_at_zero_and_always_at_one(dtype):
    x = torch.tensor([[0.0, 1.0]], dtype=dtype).expand(500, 2)
    spikes = encode.poisson(x, 40)
    assert spikes.dtype == dtype
    assert not spikes[..., 0].any()
    assert spikes[..., 1].all()


def test_uniform_numbers_are_uniform_and_uncorrelated():
    u = encode.uniform(torch.zeros(50, 400), 50, seed=1)
    n = u.numel()
    assert float(u.min()) >= 0.0
    assert float(u.max()) < 1.0
    histogram = torch.histc(u, 64, 0, 1)
    chi2 = float(((histogram - n / 64) ** 2 / (n / 64)).sum())
    assert chi2 < 63 + 5 * math.sqrt(2 * 63)
    for a, b in ((u[1:], u[:-1]), (u[:, 1:], u[:, :-1]), (u[:, :, 1:], u[:, :, :-1])):
        r = float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])
        assert abs(r) < 4 / math.sqrt(a.numel())


def test_mix_is_splitmix64():
    def plain(z: int) -> int:
        mask = (1 << 64) - 1
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & mask
        return z ^ (z >> 31)

    values = [0, 1, 2**63 - 1, -(2**63), -1, 123456789]
    found = mix(torch.tensor(values)).tolist()
    assert [v % 2**64 for v in found] == [plain(v % 2**64) for v in values]


# -- 2. Latency ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("T", [1, 2, 7, 16, 100])
@pytest.mark.parametrize("curve", ["linear", "log"])
def test_latency_fires_once_and_reverses_order(T, curve):
    spikes = encode.latency(GRID, T, curve=curve, silent_zero=False)
    assert torch.equal(spikes.sum(0), torch.ones_like(GRID))
    t = encode.spike_steps(GRID, T, curve=curve, silent_zero=False)
    assert bool((t[1:] <= t[:-1]).all())
    assert t[-1] == 0
    assert t[0] == T - 1
    assert torch.equal(encode.first_steps(spikes), t)


def test_silent_zero_is_the_default():
    spikes = encode.latency(torch.tensor([0.0, 1e-6, 1.0]), 8)
    assert spikes.sum(0).tolist() == [0, 1, 1]
    assert encode.spike_steps(torch.tensor([0.0]), 8).item() == 8
    assert encode.Latency(8).decode(encode.Latency(8)(torch.zeros(1, 1))).item() == 0


@pytest.mark.parametrize("T", [2, 5, 32])
def test_latency_decodes_within_half_a_step(T):
    decoded = encode.decode_steps(encode.spike_steps(GRID, T, silent_zero=False), T, dtype=torch.float64)
    assert float((decoded - GRID).abs().max()) <= 0.5 / (T - 1) + 1e-12


@pytest.mark.parametrize("T", [5, 20, 89, 400, 900])
def test_log_latency_follows_its_formula_and_inverts(T):
    t = encode.spike_steps(GRID, T, curve="log", silent_zero=False)
    if T < 700:  # where the naive formula does not overflow in float64
        alpha = math.exp(T - 1) - 1
        naive = torch.round(T - 1 - torch.log(alpha * GRID.double() + 1)).to(torch.int64)
        assert torch.equal(t, naive)
    back = encode.decode_steps(t, T, curve="log", dtype=torch.float64)
    assert bool(torch.isfinite(back).all())
    assert bool((back.diff() >= 0).all())
    if T < 700:  # half a step of t is half a unit of ln(alpha x + 1)
        off = torch.log(alpha * back + 1) - torch.log(alpha * GRID.double() + 1)
        assert float(off.abs().max()) <= 0.5 + 1e-9


def test_continuous_times():
    times = encode.spike_times(torch.tensor([0.0, 0.25, 1.0]), 8.0, start=16.0)
    assert times.tolist() == [math.inf, 22.0, 16.0]


# -- 3. Phase ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("K", [1, 4, 8, 20])
def test_phase_is_the_binary_expansion(K):
    x = _random(500)
    spikes = encode.phase(x, K)
    expected = torch.floor(x.double() * 2**K) / 2**K
    total = (spikes.double() * encode.phase_weights(K, dtype=torch.float64)[:, None]).sum(0)
    assert torch.equal(total, expected)
    assert torch.equal(encode.decode_phase(spikes.double()), expected)
    assert bool(encode.phase(torch.tensor([1 - 2.0**-K]), K).all())
    assert bool(encode.phase(torch.tensor([1.0]), K).all())  # clamped instead of silent


def test_phase_lock_moves_to_the_next_peak():
    t = torch.tensor([[0.0, 0.0, 2.4, 5.0], [4.0, 4.1, 7.9, math.inf]], dtype=torch.float64)
    locked = encode.phase_lock(t, 4.0, phi0=0.3, dphi=0.7)
    phi = 0.3 + 0.7 * torch.arange(4)
    finite = torch.isfinite(t)
    peak = torch.cos(2 * math.pi * locked / 4.0 + phi)
    assert torch.allclose(peak[finite], torch.ones(7, dtype=torch.float64))
    wait = (locked - t)[finite]
    assert bool(((wait >= -1e-12) & (wait < 4.0)).all())
    assert locked[1, 3] == math.inf


# -- burst ---------------------------------------------------------------------------------------------


def test_burst_follows_its_formula():
    n_max, t_min, t_max = 5, 2, 6
    spikes = encode.burst(GRID, n_max, t_min, t_max)
    counts = spikes.sum(0)
    assert torch.equal(counts, torch.ceil(GRID * n_max))
    for i, x in enumerate(GRID.tolist()):
        at = torch.nonzero(spikes[:, i]).flatten()
        if len(at):
            assert at[0] == 0
        if len(at) > 1:
            assert set(at.diff().tolist()) == {math.floor((t_max - t_min) * (1 - x) + t_min)}
    decoded = encode.decode_burst(spikes, n_max)
    assert float((decoded - GRID).abs().max()) <= 0.5 / n_max + 1e-6
    assert encode.burst_steps(n_max, t_min, t_max) == int(torch.nonzero(spikes)[:, 0].max()) + 1


def test_burst_needs_its_steps():
    need = encode.burst_steps(5, 2, 5)
    with pytest.raises(ShapeError, match=f"need {need} steps"):
        encode.burst(GRID, 5, 2, 5, T=need - 1)
    module = encode.Burst(5, 2, 5)
    with pytest.raises(ShapeError, match="needs"):
        timeline.set_steps(module, need - 1)
    assert encode.Burst(5, 2, 5, T=need + 3)(GRID[None]).shape == (need + 3, 257)


# -- 4. Delta ------------------------------------------------------------------------------------------


def _signal(B: int = 3, N: int = 200) -> torch.Tensor:
    noise = torch.randn(B, N, 4, generator=torch.Generator().manual_seed(0))
    return noise.cumsum(1) * 0.3


@pytest.mark.parametrize("th", [0.1, 0.25, 1.7])
def test_send_on_delta_reconstructs_within_a_threshold(th):
    x = _signal().double()
    spikes, _ = encode.delta(x, th)
    back = encode.decode_delta(spikes, th, x[:, 0])
    assert float((x - back).abs().max()) < th
    assert not bool(((spikes[:, :, 0] > 0) & (spikes[:, :, 1] > 0)).any())
    assert spikes.sum() > 0


def test_send_on_delta_against_the_loop_of_its_definition():
    x, th = _signal(1, 100)[0, :, 0].double(), 0.25
    spikes, _ = encode.delta(x[None], th)
    ref = float(x[0])
    for t, value in enumerate(x.tolist()):
        on = off = 0
        while value - ref >= th:
            on, ref = on + 1, ref + th
        while ref - value >= th:
            off, ref = off + 1, ref - th
        assert spikes[t, 0].tolist() == [off, on]


@pytest.mark.parametrize(
    "code",
    [
        lambda x: encode.delta(x, 0.1)[0],
        lambda x: encode.delta(x, 0.1, levels=1)[0],
        lambda x: encode.moving_window(x, 0.1, 3)[0],
        lambda x: encode.level_crossing(x, torch.tensor([0.2, 0.4]))[0],
        lambda x: encode.event_camera(x)[0],
    ],
)
def test_a_constant_signal_gives_no_spikes(code):
    assert not code(torch.full((2, 20, 5), 0.3)).any()


def test_step_forward_sends_at_most_one_spike():
    x = torch.tensor([[0.0, 1.0, 1.0, 1.0, -1.0]])
    spikes, _ = encode.delta(x, 0.3, levels=1)
    assert (spikes[:, 0, 1] - spikes[:, 0, 0]).tolist() == [0, 1, 1, 1, -1]
    assert encode.Delta(0.3).kind.name == "binary"
    assert str(encode.Delta(0.3, levels=4).kind) == "integer(4)"
    assert encode.Delta(0.3, levels=4)(_signal()).max() <= 4


def test_moving_window_against_its_definition():
    x = _signal(1, 60)[0, :, 0]
    spikes, _ = encode.moving_window(x[None], 0.2, 5)
    for t in range(60):
        base = float(x[max(0, t - 5) : t].double().mean()) if t else float(x[0])
        assert spikes[t, 0].tolist() == [float(x[t]) < base - 0.2, float(x[t]) > base + 0.2]


def test_level_crossing_counts_each_crossing_once():
    x = torch.tensor([[0.0, 0.5, 0.45, 0.9, 0.1]])
    spikes, _ = encode.level_crossing(x, torch.tensor([0.25, 0.5, 0.75]))
    assert spikes[:, 0, 1].tolist() == [[0, 0, 0], [1, 1, 0], [0, 0, 0], [0, 1, 1], [0, 0, 0]]
    assert spikes[:, 0, 0].tolist() == [[0, 0, 0], [0, 0, 0], [0, 1, 0], [0, 0, 0], [1, 1, 1]]


def test_event_camera_counts_contrast_steps():
    video = torch.exp(torch.tensor([0.0, 0.65, 0.65, -0.1])).reshape(1, 4, 1, 1) - 1e-3
    spikes, _ = encode.event_camera(video.double(), 0.2)
    assert (spikes[:, 0, 1] - spikes[:, 0, 0]).flatten().tolist() == [0, 3, 0, -3]
    with pytest.raises(KindError, match="negative"):
        encode.event_camera(-video)


@pytest.mark.parametrize("chunks", [(200,), (1,) * 20 + (180,), (7, 93, 100)])
@pytest.mark.parametrize("module", [encode.Delta(0.2, 3), encode.MovingWindow(0.2, 6)])
def test_signals_stream_in_any_chunks(module, chunks):
    x = _signal()
    whole = timeline.split(module(x), 200)
    stream = timeline.stream(module)
    parts = [timeline.split(stream(part), part.shape[1]) for part in x.split(list(chunks), 1)]
    assert torch.equal(torch.cat(parts), whole)


# -- 5. Gaussian receptive fields ----------------------------------------------------------------------


@pytest.mark.parametrize("m", [3, 5, 8, 12])
@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-3.0, 5.0)])
def test_centres_are_equally_spaced_and_symmetric(m, low, high):
    mu = encode.centres(m, low, high)
    spacing = torch.full((m - 1,), (high - low) / (m - 2), dtype=torch.float64)
    torch.testing.assert_close(mu.diff(), spacing)
    torch.testing.assert_close(mu + mu.flip(0), torch.full((m,), low + high, dtype=torch.float64))


@pytest.mark.parametrize("m", [5, 8, 12])
def test_the_nearest_neuron_fires_first(m):
    x = GRID.double()
    spikes = encode.population(x[:, None], 64, m)[:, :, 0]
    t = encode.first_steps(spikes)
    nearest = (x[:, None] - encode.centres(m)).abs().argmin(1)
    assert torch.equal(t.gather(1, nearest[:, None])[:, 0], t.amin(1))
    assert bool((t.amin(1) < 64).all())
    r = encode.responses(x, encode.centres(m), encode.width(m))
    assert torch.equal(t == 64, r < 0.1)


@pytest.mark.parametrize("m", [5, 8, 12])
def test_the_sum_of_responses_varies_by_4_9_percent(m):
    x = torch.linspace(0, 1, 20001, dtype=torch.float64)
    total = encode.responses(x, encode.centres(m), encode.width(m)).sum(-1)
    assert float((total.max() - total.min()) / total.max()) == pytest.approx(0.0487, abs=2e-4)


@pytest.mark.parametrize("code", ["latency", "rate", "poisson"])
def test_population_decodes_to_less_than_a_spacing(code):
    module = encode.Population(200, 8, code=code, seed=1)
    x = torch.linspace(0.1, 0.9, 81)[:, None]
    back = module.decode(module(x))
    assert float((back - x).abs().max()) < 0.5 / 6


def test_population_rate_is_an_integrate_and_fire_neuron():
    x = _random(20, 1)
    r = encode.responses(x, encode.centres(6).float(), encode.width(6))
    counts = encode.population(x, 31, 6, code="rate").sum(0)
    assert torch.equal(counts, torch.floor(r.double() * 31).float())


@pytest.mark.parametrize("code", ["rate", "poisson"])
def test_learnable_fields_get_gradients(code):
    module = encode.Population(4, 5, code=code, learnable=True)
    x = torch.tensor([[0.3], [0.8]], requires_grad=True)
    weight = _random(8, 1, 5)
    (module(x) * weight).sum().backward()
    # Straight through: the gradient is that of the responses, repeated over the steps.
    y = x.detach().requires_grad_()
    mu, log_sigma = (p.detach().requires_grad_() for p in (module.mu, module.log_sigma))
    (timeline.repeat(encode.responses(y, mu, log_sigma.exp()), 4) * weight).sum().backward()
    for found, expected in ((x, y), (module.mu, mu), (module.log_sigma, log_sigma)):
        torch.testing.assert_close(found.grad, expected.grad)
    with pytest.raises(KindError, match="no gradient"):
        encode.Population(4, 5, learnable=True)


# -- 6. Deterministic rate -----------------------------------------------------------------------------


@pytest.mark.parametrize("T", [1, 4, 10, 100])
def test_rate_counts_are_rounded_exactly(T):
    x = torch.cat([GRID, _random(500)])
    product = x.double() * T
    assert torch.equal(encode.rate(x, T, v0=0.5).sum(0).double(), torch.floor(product + 0.5))
    assert torch.equal(encode.rate(x, T).sum(0).double(), torch.floor(product))
    spikes = encode.rate(x, T, v0=0.25)
    assert bool(((spikes == 0) | (spikes == 1)).all())
    assert (
        float((encode.Rate(T, 0.5).decode(encode.Rate(T, 0.5)(x[None]))[0] - x).abs().max()) <= 0.5 / T + 1e-6
    )


def test_rate_is_the_integrate_and_fire_neuron_of_its_equation():
    x = torch.arange(33) / 32.0  # dyadic: the membrane of the loop is exact
    spikes, v = encode.rate(x, 50, v0=0.5), torch.full((33,), 0.5)
    for t in range(50):
        v = v + x
        fired = (v >= 1).float()
        v = v - fired
        assert torch.equal(spikes[t], fired)


# -- 7. Direct -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("B", [1, 2, 5])
def test_direct_with_a_cached_first_layer_is_equal_bit_for_bit(B):
    torch.manual_seed(0)
    first = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8)).eval()
    first[1].running_mean.normal_()
    x = torch.rand(B, 3, 9, 7)
    with torch.no_grad():
        cached, uncached = (encode.Direct(4, first, cached=c)(x) for c in (True, False))
    assert cached.shape == (4 * B, 8, 5, 4)
    assert torch.equal(cached, uncached)


@pytest.mark.parametrize("B", [1, 2, 5])
def test_direct_commutes_with_a_first_layer_of_exact_arithmetic(B):
    torch.manual_seed(0)
    first = nn.Conv2d(3, 8, 3, 2, 1)
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.copy_(torch.randint(-8, 9, parameter.shape))
        x = torch.randint(0, 256, (B, 3, 9, 7)).float()
        assert torch.equal(encode.Direct(4, first)(x), first(timeline.repeat(x, 4)))


def test_direct_and_inject():
    x = _random(2, 3)
    assert torch.equal(encode.Direct(3)(x), timeline.repeat(x, 3))
    assert torch.equal(encode.direct(x, 3).flatten(0, 1), timeline.repeat(x, 3))
    assert torch.equal(encode.Direct(3).decode(encode.Direct(3)(x)), x)
    rows = encode.Inject(3)(x)
    assert torch.equal(rows[:2], x)
    assert not rows[2:].any()
    assert torch.equal(encode.Inject(3).decode(rows), x)
    assert encode.Direct(2).kind.name == encode.Inject(2).kind.name == "real"
    with pytest.raises(ShapeError, match="must keep"):
        encode.Direct(2, nn.Flatten(0))(x)


# -- 8. Same seed, same spikes -------------------------------------------------------------------------


def test_poisson_does_not_depend_on_the_batch():
    x, index = _random(12, 3, 5), torch.arange(100, 112)
    whole = encode.poisson(x, 6, seed=4, index=index)
    for size in (1, 5, 12):
        parts = [encode.poisson(a, 6, seed=4, index=i) for a, i in zip(x.split(size), index.split(size))]
        assert torch.equal(torch.cat(parts, 1), whole)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    assert torch.equal(encode.poisson(x[order], 6, seed=4, index=index[order]), whole[:, order])
    assert torch.equal(encode.poisson(x, 3, seed=4, index=index, start=3), whole[3:])
    assert not torch.equal(encode.poisson(x, 6, seed=5, index=index), whole)
    assert torch.equal(encode.poisson(x[:4], 6), encode.poisson(x, 6)[:, :4])  # also without numbers


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_poisson_does_not_depend_on_the_device():
    x = _random(12, 3, 5)
    assert torch.equal(encode.poisson(x.cuda(), 6, seed=4).cpu(), encode.poisson(x, 6, seed=4))


def test_poisson_module_repeats_in_evaluation_and_varies_in_training():
    module, x = encode.Poisson(8, seed=2), _random(4, 50)
    module.eval()
    assert torch.equal(module(x), module(x))
    assert torch.equal(module(x), encode.poisson(x, 8, seed=2).flatten(0, 1))
    module.train()
    torch.manual_seed(0)
    first, second = module(x), module(x)
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    assert torch.equal(module(x), first)
    module.fresh = False
    assert torch.equal(module(x), module(x))


def test_poisson_passes_the_gradient_straight_through():
    x = _random(2, 3).requires_grad_()
    weight = _random(4, 2, 3)
    (encode.poisson(x, 4) * weight).sum().backward()
    torch.testing.assert_close(x.grad, weight.sum(0))


# -- every encoder of still values ---------------------------------------------------------------------

STILL = [
    encode.Poisson(12, seed=1),
    encode.Rate(12),
    encode.Latency(12),
    encode.Latency(12, "log", silent_zero=False),
    encode.Phase(12),
    encode.Burst(3, 1, 4, T=12),
    encode.Population(12, 4),
    encode.Population(12, 4, code="rate"),
    encode.Population(12, 4, code="poisson"),
    encode.Direct(12),
    encode.Inject(12),
]


@pytest.mark.parametrize("module", STILL, ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("shape", [(2, 3), (3, 2, 4, 5), (1, 1)])
def test_rows_are_time_major_and_samples_are_apart(module, shape):
    module.eval()
    x = _random(*shape)
    rows = timeline.split(module(x), 12)
    assert rows.shape[: x.dim() + 1] == (12, *shape)
    changed = x.clone()
    changed[-1] = 1 - changed[-1]
    other = timeline.split(module(changed), 12)
    assert torch.equal(rows[:, :-1], other[:, :-1])
    strided = torch.stack([x, x], -1)[..., 0]
    assert torch.equal(timeline.split(module(strided), 12), rows)


@pytest.mark.parametrize("module", STILL, ids=lambda m: type(m).__name__)
def test_kinds_hold_on_data(module):
    module.eval()
    rows = module(_random(4, 5))
    if module.kind.name == "binary":
        assert bool(((rows == 0) | (rows == 1)).all())
    else:
        assert module.kind.name == "real"


@pytest.mark.parametrize("module", STILL, ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("chunks", [(12,), (1,) * 12, (5, 4, 3)])
def test_still_values_stream_in_any_chunks(module, chunks):
    module.eval()
    x = _random(2, 3)
    whole = timeline.split(module(x), 12)
    stream = timeline.stream(module)
    parts = [timeline.split(stream(x, T=n), n) for n in chunks]
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("module", STILL, ids=lambda m: type(m).__name__)
def test_an_empty_batch_gives_empty_rows(module):
    module.eval()
    assert module(torch.zeros(0, 3)).shape[:2] == (0, 3)


@pytest.mark.parametrize(
    "module", [m for m in STILL if isinstance(m, encode.Encoder)], ids=lambda m: type(m).__name__
)
def test_wrong_values(module):
    if not isinstance(module, encode.Population):
        for bad in (torch.tensor([[1.01]]), torch.tensor([[-0.01]])):
            with pytest.raises(KindError, match="training split"):
                module(bad)
        with pytest.raises(NonFiniteError, match="NaN"):
            module(torch.tensor([[math.nan]]))
        with pytest.raises(KindError, match="int64"):
            module(torch.tensor([[1]]))


@pytest.mark.parametrize(
    "call",
    [
        lambda: encode.Rate(0),
        lambda: encode.rate(GRID, 4, v0=1.0),
        lambda: encode.Rate(4, v0=-0.1),
        lambda: encode.Latency(4, "cubic"),
        lambda: encode.spike_steps(GRID, 4, curve="cubic"),
        lambda: encode.spike_times(GRID, 0.0),
        lambda: encode.phase(GRID, 0),
        lambda: encode.phase(GRID, 53),
        lambda: encode.phase_lock(GRID, 0.0),
        lambda: encode.burst_steps(3, 4, 2),
        lambda: encode.delta(_signal(), 0.0),
        lambda: encode.delta(_signal(), 0.1, levels=0),
        lambda: encode.delta(torch.zeros(3), 0.1),
        lambda: encode.delta(torch.full((1, 2), math.nan), 0.1),
        lambda: encode.Delta(-1.0),
        lambda: encode.MovingWindow(0.1, 0),
        lambda: encode.moving_window(_signal(), 0.1, 0),
        lambda: encode.level_crossing(_signal(), torch.zeros(0)),
        lambda: encode.centres(2),
        lambda: encode.width(5, gamma=0.0),
        lambda: encode.population(GRID, 4, 5, code="burst"),
        lambda: encode.poisson(GRID, 4, index=torch.arange(3)),
        lambda: encode.Direct(0),
    ],
)
def test_wrong_settings(call):
    with pytest.raises((KindError, ShapeError, NonFiniteError)):
        call()
