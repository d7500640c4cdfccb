"""The rules of docs/folding.md, one test each, and training after snapping."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from picojoule import timeline
from picojoule.compress import (
    LSQ,
    Standardized,
    TanhMembrane,
    UniformMembrane,
    attach_,
    get_codes,
    quantizer_of,
)
from picojoule.core.errors import ConfigError, PackError
from picojoule.core.kinds import binary
from picojoule.graph import Grid, capture, execute, reference, snap
from picojoule.graph import nodes as g
from picojoule.neurons import IF, ILIF, LIF, PSN, TernaryLIF


def net(*layers: nn.Module, T: int = 1, mode: str = "static", read: str = "sum") -> nn.Sequential:
    """Entry, layers, readout; every weight on a grid of its own, so that folding rounds none."""
    for layer in layers:
        if isinstance(layer, nn.Conv2d | nn.Linear) and quantizer_of(layer) is None:
            attach_(layer, LSQ(6))
    return nn.Sequential(timeline.Entry(T, mode), *layers, timeline.Readout(T, read)).eval()


def norm(C: int, slope: list[float], bias: float = 0.1) -> nn.BatchNorm2d:
    layer = nn.BatchNorm2d(C)
    layer.weight.data = torch.tensor(slope)
    layer.bias.data.fill_(bias)
    layer.running_mean.fill_(0.2)
    layer.running_var.fill_(0.5)
    return layer


def dyadic(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    """Data on a grid of 8 fraction bits, so that the input is not rounded."""
    return torch.from_numpy(np.random.default_rng(seed).integers(-400, 400, shape) / 256).float()


def agree(model: nn.Module, x: torch.Tensor, grid: Grid | int = 20, kind: str = "real") -> g.Graph:
    """Captured spikes == reference spikes, at every neuron; reference == snapped model."""
    captured = capture(model, x, input_kinds=kind)
    snapped = snap(captured, grid)
    graph = snapped.graph()
    names = [n.name for n in captured.nodes if isinstance(n, g.Neuron)]
    want = execute(captured, x, watch=names)
    got = reference.run(graph, x, watch=names)
    mine = snapped.integers(x, watch=names)
    for name in names:
        node = captured[name]
        counts = reference.batch_first((want[name] / node.out_scale).round().long(), node.edge.steps)
        assert torch.equal(got[name], counts), name
        assert torch.equal(got[name], mine[name]), name
        assert counts.unique().numel() > 1, "the neuron is silent, the test would show nothing"
    return graph


def nodes(graph: g.Graph, cls: type) -> list:
    return [n for n in graph.nodes if isinstance(n, cls)]


def test_negative_slope_reverses_the_comparison_and_keeps_the_most_negative_code() -> None:
    conv = nn.Conv2d(2, 4, 3, padding=1, bias=False)
    attach_(conv, LSQ(4))
    parts = conv.parametrizations.weight
    with torch.no_grad():
        parts.original[:, 0, 0, 0] = -100.0
    model = net(conv, norm(4, [1.0, -1.0, 0.5, -2.0]), LIF(3, v_th=0.3), T=3)
    graph = agree(model, dyadic((5, 2, 6, 6)))
    weight = graph.tensor(nodes(graph, g.Conv)[0].weight)
    assert weight.min() == -8
    assert weight.max() <= 7
    gain = graph.tensor(nodes(graph, g.Neuron)[0].gain)
    assert np.sign(gain).tolist() == [[1, -1, 1, -1]]


def test_max_pool_after_a_negative_slope_becomes_min() -> None:
    model = net(
        nn.Conv2d(2, 3, 3, padding=1), norm(3, [1.0, -1.0, -0.3]), nn.MaxPool2d(3, 2, 1), IF(2, v_th=0.5), T=2
    )
    graph = agree(model, dyadic((5, 2, 7, 7)))
    pool = nodes(graph, g.Pool)[0]
    assert graph.tensor(pool.flip).astype(bool).tolist() == [False, True, True]


def test_zero_slope_is_a_constant_neuron() -> None:
    layer = norm(3, [1.0, 0.0, 0.0], bias=0.3)
    layer.bias.data[2] = 1.5
    model = net(nn.Conv2d(2, 3, 1), layer, LIF(4, v_th=1.0), T=4, read="steps")
    x = dyadic((6, 2, 5, 5))
    graph = agree(model, x)
    assert graph.tensor(nodes(graph, g.Neuron)[0].gain)[0, 1:].tolist() == [0, 0]
    counts = reference.run(graph, x)["out"]
    assert counts[:, :, 1].unique().tolist() == [0]
    # tau = 2: 0.75, 1.125 -> fires at every second step, whatever the input
    assert counts[:, :, 2].float().mean((0, 2, 3)).tolist() == [0.0, 1.0, 0.0, 1.0]


class Normalised(nn.Module):
    """(x - mean) / std, then a zero-padded convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.entry, self.read = timeline.Entry(2), timeline.Readout(2, "sum")
        self.scale = norm(3, [1.0, 1.2, 0.7], bias=0.4)
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.fire = IF(2, v_th=0.4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.read(self.fire(self.conv(self.scale(self.entry(x)))))


def test_input_is_fixed_point_after_normalisation() -> None:
    torch.manual_seed(0)
    model = Normalised().eval()
    pixels = torch.randint(0, 256, (4, 3, 6, 6), dtype=torch.uint8)
    real = pixels.double() / 255
    captured = capture(model, real.float())
    names = [n.name for n in nodes(captured, g.Neuron)]
    want = execute(captured, real, watch=names)[names[0]].reshape(2, 4, 4, 6, 6).transpose(0, 1)
    for grid, data in (
        (Grid(20, input_frac=20), real),
        (Grid(20, input_frac=20, input_bytes=1 / 255), pixels),
    ):
        snapped = snap(captured, dataclasses.replace(grid, input_bits=28))
        graph = snapped.graph()
        got = reference.run(graph, data, watch=names)[names[0]]
        flips = (got != want.round().long()).float()
        assert flips.mean() < 5e-3
        assert flips[..., 0].mean() < 5e-3, "the border saw mean and deviation in place of zeros"
        assert torch.equal(got, snapped.integers(data, watch=names)[names[0]])
    entry = graph.inputs[0]
    assert graph.tensor(entry.table).shape == (3, 256)
    assert not nodes(graph, g.Affine), "normalisation costs no node"


def test_bias_is_added_once_per_real_step() -> None:
    """A count of n spikes within a step does not bring the bias n times."""
    conv = nn.Conv2d(2, 3, 1)
    conv.bias.data.fill_(0.75)
    model = net(ILIF(3, D=4), conv, ILIF(3, D=4), T=3)
    graph = agree(model, 3 * dyadic((5, 2, 6, 6)))
    counts = nodes(graph, g.Neuron)[0].edge.kind
    assert counts.levels == 4


def test_ties_follow_the_rounding_flag() -> None:
    x = torch.tensor([[0.5, 1.5, 2.5, 3.5, 0.75]])
    for rounding, want in (("half_even", [0, 2, 2, 4, 1]), ("half_up", [1, 2, 3, 4, 1])):
        model = net(ILIF(1, D=4, decay=0.0, rounding=rounding))
        graph = snap(capture(model, x), 4).graph()
        assert reference.run(graph, x)["out"].tolist() == [want]
    y = torch.tensor([[1.0, 1.25, 0.75]])
    for T, strict, want in (
        (1, False, [1, 1, 0]),
        (1, True, [0, 1, 0]),
        (2, False, [2, 2, 1]),
        (2, True, [1, 2, 1]),
    ):
        model = net(LIF(T, v_th=1.0, decay_input=False, strict=strict), T=T)  # T = 1: no memory
        assert reference.run(snap(capture(model, y), 8).graph(), y)["out"].tolist() == [want]


def test_average_pool_is_a_sum_with_a_scale() -> None:
    model = net(
        IF(2, v_th=0.5), nn.AvgPool2d(3, 2, 1), nn.Conv2d(2, 3, 3, padding=1), nn.AdaptiveAvgPool2d(1),
        IF(2, v_th=0.1), T=2,
    )  # fmt: skip
    graph = agree(model, dyadic((5, 2, 8, 8)))
    assert nodes(graph, g.Pool)[0].mode == "sum"
    assert all(n.total for n in nodes(graph, g.Mean))


@pytest.mark.parametrize(("rounding", "first"), [("floor", 0), ("half_up", 1)])
def test_decay_is_rounded_after_each_step_in_its_direction(rounding: str, first: int) -> None:
    """v = -3 decays to -1.5: floor gives -2, below the threshold of -1, half_up gives -1."""
    edge = g.Edge(binary, (1,), 2)
    entry = g.Input(name="x", edge=edge)
    node = g.Neuron(
        name="n", inputs=("x",), edge=edge, decay="half", gain="one", bias="zero", thresholds="th",
        reset="none", reset_value="zero", v_init="start",
    )  # fmt: skip
    out = g.Output(name="o", inputs=("n",), edge=edge)
    tensors = {"half": 0.5, "one": 1.0, "zero": 0.0, "start": -3.0}
    arrays = {name: np.full((1, 1), value) for name, value in tensors.items()} | {
        "th": np.full((1, 1, 1), -1.0)
    }
    graph = snap(g.Graph((entry, node, out), arrays), Grid(0, decay_rounding=rounding)).graph()
    made = nodes(graph, g.Neuron)[0]
    assert (made.frac, made.decay_shift, graph.tensor(made.decay).item()) == (0, 1, 1)
    assert reference.run(graph, torch.zeros(1, 2, 1))["out"].flatten()[0] == first


@pytest.mark.parametrize("table", [TanhMembrane, UniformMembrane])
def test_scales_fold_only_into_homogeneous_neurons(table: type) -> None:
    """With a membrane table the scale becomes a gain: the unit is the same in all channels."""
    torch.manual_seed(1)
    layers = nn.Conv2d(2, 3, 3, padding=1), norm(3, [1.0, -0.5, 2.0])
    plain = agree(net(*layers, LIF(4, v_th=0.4), T=4), dyadic((6, 2, 6, 6)))
    made = nodes(plain, g.Neuron)[0]
    assert len(np.unique(plain.tensor(made.unit))) == 3
    assert np.unique(np.abs(plain.tensor(made.gain))).size == 1
    quantised = agree(net(*layers, LIF(4, v_th=0.4, membrane_quant=table(4, 2.0)), T=4), dyadic((6, 2, 6, 6)))
    made = nodes(quantised, g.Neuron)[0]
    assert len(np.unique(quantised.tensor(made.unit))) == 1
    assert np.unique(np.abs(quantised.tensor(made.gain))).size == 3
    assert made.breaks is not None


def test_conv_chains_keep_their_codes() -> None:
    torch.manual_seed(0)
    convs = [nn.Conv2d(2, 4, 1), nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.Conv2d(4, 3, 1)]
    for conv in convs:
        attach_(conv, LSQ(4))
    model = net(convs[0], norm(4, [1.0, -1.0, 2.0, 0.5], bias=0.0), convs[1], convs[2], IF(2, v_th=0.2), T=2)
    graph = agree(model, dyadic((5, 2, 6, 6)))
    for conv, node in zip(convs, nodes(graph, g.Conv)):
        assert np.array_equal(graph.tensor(node.weight), get_codes(conv).ints.numpy())
    # one grid before the padded depthwise convolution (offset), one before the last (scales differ)
    assert len(nodes(graph, g.Affine)) >= 1


def test_first_layer_is_computed_once_a_sample() -> None:
    model = net(nn.Conv2d(2, 3, 3), norm(3, [1.0, 2.0, 0.5]), LIF(4, v_th=0.3), T=4)
    graph = agree(model, dyadic((3, 2, 6, 6)))
    assert nodes(graph, g.Conv)[0].edge.steps == 0
    repeat = nodes(graph, g.Repeat)[0]
    assert graph.consumers(repeat.name)[0] is nodes(graph, g.Neuron)[0]


def test_memoryless_neurons_are_exact_without_fraction_bits() -> None:
    conv = nn.Conv2d(2, 3, 3, padding=1)
    attach_(conv, LSQ(3))
    model = net(conv, norm(3, [1.0, -0.7, 0.3]), ILIF(1, D=4, decay=0.25), T=1, read="last")
    graph = agree(model, 2 * dyadic((5, 2, 7, 7)), grid=0)
    made = nodes(graph, g.Neuron)[0]
    assert made.frac == 0
    assert not graph.tensor(made.decay).any()
    kept = snap(capture(model, dyadic((2, 2, 7, 7))), Grid(4, stream=True)).graph()
    assert kept.tensor(nodes(kept, g.Neuron)[0].decay).any()


def test_a_stream_of_any_length_stays_within_its_bits() -> None:
    x = dyadic((3, 1, 4))
    model = net(nn.Linear(4, 5), LIF(1, v_th=0.3), nn.Linear(5, 2), T=1, mode="frames", read="last")
    graph = snap(capture(model, x), Grid(6, stream=True)).graph()
    stream = reference.Stream(graph)
    for _ in range(100):
        stream(torch.full((3, 1, 4), 60.0))
    leaky = net(nn.Linear(4, 5), IF(1), T=1, mode="frames", read="last")
    with pytest.raises(PackError, match="no leak"):
        snap(capture(leaky, x), Grid(6, stream=True)).graph()
    with pytest.raises(PackError, match="running sum"):
        snap(capture(net(LIF(1), T=1, mode="frames"), x), Grid(6, stream=True))


def test_ternary_psn_and_standardised_weights() -> None:
    torch.manual_seed(3)
    conv = nn.Conv2d(2, 3, 3, padding=1, bias=False)
    attach_(conv, Standardized())
    agree(net(conv, norm(3, [0.2, -0.1, 0.3]), TernaryLIF(3), T=3), dyadic((5, 2, 6, 6)))
    psn = PSN(3)
    psn.bias.data.fill_(-0.2)
    x = dyadic((5, 2, 6, 6))
    agree(net(nn.Conv2d(2, 3, 1), psn, T=3), x, Grid(20, mix_bits=22))


def test_equal_scales_add_exactly_and_others_meet_on_a_grid() -> None:
    class Residual(nn.Module):
        def __init__(self, sew: bool) -> None:
            super().__init__()
            self.entry, self.read = timeline.Entry(2), timeline.Readout(2, "mean")
            self.first, self.second = LIF(2, v_th=0.4), LIF(2, v_th=0.3)
            self.conv, self.sew = attach_(nn.Conv2d(2, 2, 3, padding=1), LSQ(6)), sew

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            s = self.first(self.entry(x))
            y = self.conv(s)
            return self.read(self.second(y) + s if self.sew else self.second(y + s))

    torch.manual_seed(0)
    x = dyadic((4, 2, 5, 5))
    graph = agree(Residual(True).eval(), x)
    assert nodes(graph, g.Add)[0].shifts == (0, 0)
    graph = agree(Residual(False).eval(), x, 12)
    assert nodes(graph, g.Add)[0].edge.kind.frac == 12


def test_what_cannot_be_packed_is_named_with_advice() -> None:
    class Smooth(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(4, 4), nn.GELU())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.body(x)

    with pytest.raises(PackError, match=r"body\.1.*integer form.*spiking"):
        snap(capture(Smooth(), torch.randn(2, 4)))
    with pytest.raises(ConfigError, match="frac"):
        Grid(40)
    model = net(nn.Linear(4, 3), T=1)
    snapped = snap(capture(model, torch.randn(2, 4)), 8)
    with pytest.raises(PackError, match="captured"):
        snap(snapped.graph())


def test_training_goes_on_after_snapping() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(1, 8, 3, padding=1, bias=False)
    attach_(conv, LSQ(4))
    model = net(
        conv, norm(8, [1.0] * 8), LIF(2, v_th=0.5), nn.Flatten(), nn.Linear(8 * 16, 3), T=2, read="mean"
    )
    x = dyadic((48, 1, 4, 4))
    y = (x.mean((1, 2, 3)) > 0).long() + (x[:, 0, 0, 0] > 0).long()
    snapped = snap(capture(model, x[:2]), 6).float()
    before = snapped.graph()
    optimizer = torch.optim.Adam(snapped.parameters(), lr=5e-3)
    losses = []
    for _ in range(40):
        loss = nn.functional.cross_entropy(snapped(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]
    assert all(
        p.grad is not None and p.grad.abs().sum() > 0 for n, p in snapped.named_parameters() if "weight" in n
    )
    exact = snapped.double()
    graph = exact.graph()
    assert not np.array_equal(
        graph.tensor(nodes(graph, g.Conv)[0].weight), before.tensor(nodes(before, g.Conv)[0].weight)
    )
    got = reference.run(graph, x, watch="neurons")
    assert all(torch.equal(got[k], v) for k, v in exact.integers(x, watch="neurons").items())
