"""Counts against hand counts and against sum(conv(s, ones)); invariances; bad input."""

import numpy as np
import pytest
import torch
from measure_helpers import conv, linear, product
from torch import nn
from torch.nn import functional as F

from picojoule import graph, models, neurons, timeline
from picojoule.core import kinds
from picojoule.core.errors import ConfigError, DataError, KindError, NonFiniteError
from picojoule.graph import nodes as g
from picojoule.measure.counts import count
from picojoule.neurons.expand import thermometer

GEN = np.random.default_rng(0)


def spikes(shape, high=1, low=0, seed=0):
    return np.random.default_rng(seed).integers(low, high + 1, shape).astype(np.float64)


def layer(graph_, x, **options):
    return count(graph_, [x], **options).layers[0]


@pytest.mark.parametrize(
    ("c_in", "c_out", "k", "side", "stride", "padding", "groups"),
    [
        (2, 3, 3, 5, 1, 1, 1),
        (2, 4, 3, 6, 2, 1, 2),
        (3, 3, 3, 7, 3, 0, 3),
        (1, 2, 1, 4, 1, 0, 1),
        (2, 2, 5, 5, 2, 2, 1),
        (4, 2, 2, 7, 2, 0, 2),
    ],
)
def test_exact_sop_is_the_convolution_with_ones(c_in, c_out, k, side, stride, padding, groups):
    weight = GEN.normal(size=(c_out, c_in // groups, k, k))
    x = spikes((3, 2, c_in, side, side))
    found = layer(conv(weight, side, stride=stride, padding=padding, groups=groups), x)
    ones = torch.ones(c_out, c_in // groups, k, k, dtype=torch.float64)
    rows = torch.from_numpy(x).reshape(6, c_in, side, side)
    expected = F.conv2d(rows, ones, stride=stride, padding=padding, groups=groups).sum() / 3
    assert found.sop == pytest.approx(float(expected), abs=1e-9)
    assert found.effective == found.sop
    assert found.ac == found.sop
    assert found.mac == 0


def test_hand_counted_border_stride_and_groups():
    # One spike in a corner of a 4x4 map, 3x3 kernel, padding 1: 4 positions x 2 outputs; in the middle 9 x 2.
    corner, middle = np.zeros((1, 1, 1, 4, 4)), np.zeros((1, 1, 1, 4, 4))
    corner[..., 0, 0] = middle[..., 1, 1] = 1
    weight = np.ones((2, 1, 3, 3))
    assert layer(conv(weight, 4, T=1, padding=1), corner).sop == 8
    assert layer(conv(weight, 4, T=1, padding=1), middle).sop == 18
    # stride 2: outputs at 0 and 2 only; the corner is read by output (0, 0), position (1, 1) by all four
    assert layer(conv(weight, 4, T=1, padding=1, stride=2), corner).sop == 2
    assert layer(conv(weight, 4, T=1, padding=1, stride=2), middle).sop == 8
    # two groups: a spike of group 0 meets the one output of its group
    grouped = conv(np.ones((2, 1, 3, 3)), 4, T=1, padding=1, groups=2)
    both = np.concatenate([corner, np.zeros_like(corner)], 2)
    assert layer(grouped, both).sop == 4
    found = layer(conv(weight, 4, T=1, padding=1), corner)
    assert found.fl == 9 * 1 * 2 * 16
    assert found.sop_paper == pytest.approx(1 / 16 * found.fl)
    assert found.rate == 1 / 16


def test_paper_formula_is_exact_for_uniform_rates_without_padding():
    weight = GEN.normal(size=(3, 2, 1, 1))
    x = spikes((4, 2, 2, 6, 6))
    found = layer(conv(weight, 6), x)
    assert found.sop == pytest.approx(found.sop_paper)
    full = layer(conv(GEN.normal(size=(3, 2, 3, 3)), 6), np.ones((2, 2, 2, 6, 6)))
    assert full.sop == full.dense == full.sop_paper == 2 * full.fl


def test_neurobench_example():
    weight = np.array([[1.3, 0, -3.2], [0, 1.2, -5.1], [-1.1, 2.7, 0]])
    found = layer(linear(weight, kinds.real, T=1), np.array([[[0, 1.3, -1]]]))
    assert (found.effective, found.dense, found.mac, found.arithmetic) == (4, 9, 9, "MAC")


def test_zero_weights_do_not_count_in_the_effective_figure():
    weight = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0]])
    found = layer(linear(weight, T=1), np.array([[[1.0, 1.0]]]))
    assert (found.sop, found.effective) == (6, 3)
    w = np.zeros((2, 1, 3, 3))
    w[0, 0, 1, 1] = 1
    found = layer(conv(w, 4, T=1, padding=1), np.ones((1, 1, 1, 4, 4)))
    assert found.effective == 16


def test_integer_spikes_count_their_size_and_equal_their_virtual_steps():
    weight = GEN.normal(size=(4, 3, 3, 3))
    x = spikes((2, 2, 3, 5, 5), high=4)
    whole = layer(conv(weight, 5, kinds.integer(4), padding=1), x)
    planes = thermometer(torch.from_numpy(x), 4)  # [D, B, T, ...]
    binary = planes.permute(1, 2, 0, 3, 4, 5).reshape(2, 8, 3, 5, 5).numpy()
    assert set(np.unique(binary)) == {0, 1}
    spread = layer(conv(weight, 5, T=8, padding=1), binary)
    assert whole.sop == spread.sop
    assert whole.ac == spread.ac
    assert whole.sop_paper == pytest.approx(spread.sop_paper)


def test_bit_planes_count_one_bits():
    # 3 = 0b11 counts 3 unary and 2 in bit planes; 4 = 0b100 counts 4 and 1
    found = layer(linear(np.ones((5, 2)), kinds.integer(4), T=1), np.array([[[3.0, 4.0]]]))
    assert (found.sop, found.bitplane, found.active) == (35, 15, 1.0)


def test_ternary_spikes_count_by_magnitude():
    found = layer(linear(np.ones((5, 3)), kinds.ternary, T=1), np.array([[[-1.0, 0.0, 1.0]]]))
    assert (found.sop, found.arithmetic) == (10, "AC")
    assert found.rate == pytest.approx(2 / 3)


def test_products_of_one_and_two_spiking_operands():
    a, b = spikes((3, 2, 3, 4)), spikes((3, 2, 4, 5), seed=1)
    both = layer(product(kinds.binary, kinds.binary), [a, b])
    assert both.sop == min(a.sum() * 5, b.sum() * 3) / 3
    coincident = np.einsum("btnk,btkm->", a, b) / 3
    assert both.effective == pytest.approx(coincident)
    real = GEN.normal(size=b.shape)
    one = layer(product(kinds.binary, kinds.real), [a, real])
    assert (one.arithmetic, one.sop, one.effective) == ("AC", a.sum() * 5 / 3, a.sum() * 5 / 3)
    none = layer(product(kinds.real, kinds.real), [GEN.normal(size=a.shape), real])
    assert (none.arithmetic, none.mac) == ("MAC", 2 * 3 * 4 * 5)


def test_integer_product_counts_its_spikes():
    a, b = spikes((2, 2, 3, 4), high=3), spikes((2, 2, 4, 5), high=3, seed=1)
    found = layer(product(kinds.integer(3), kinds.real), [a, b + 0.5])
    assert found.sop == a.sum() * 5 / 2


class Small(nn.Module):
    def __init__(self, pool=None, T=3, bias=True):
        super().__init__()
        self.entry = timeline.Entry(T)
        self.conv1 = nn.Conv2d(1, 4, 3, padding=1, bias=bias)
        self.lif1 = neurons.LIF(T, v_th=0.3)
        self.pool = pool or nn.Identity()
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1, bias=bias)
        self.lif2 = neurons.ILIF(T, D=4)
        self.head = nn.Linear(4 * 36 if pool is None else 4 * 9, 3, bias=bias)
        self.out = timeline.Readout(T)

    def forward(self, x):
        s = self.pool(self.lif1(self.conv1(self.entry(x))))
        return self.out(self.head(self.lif2(self.conv2(s)).flatten(1)))


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    model = Small().eval()
    return graph.capture(model, torch.rand(2, 1, 6, 6))


def test_batch_size_changes_nothing(small):
    x = torch.rand(7, 1, 6, 6)
    whole, parts = count(small, [x]), count(small, [x[:1], x[1:4], x[4:]])
    assert [n.sop for n in whole.layers] == [n.sop for n in parts.layers]
    assert [n.sop_error for n in whole.layers] == [n.sop_error for n in parts.layers]
    assert whole.neurons == parts.neurons
    assert whole.updates == parts.updates
    assert whole.other == parts.other
    assert whole.labels == parts.labels


def test_repeated_samples_and_standard_error(small):
    x = torch.rand(1, 1, 6, 6)
    one, five = count(small, [x]), count(small, [x.expand(5, 1, 6, 6)])
    assert [n.sop for n in one.layers] == [n.sop for n in five.layers]
    assert one.layers[1].sop_error is None
    assert five.layers[1].sop_error == pytest.approx(0, abs=1e-9)
    assert any("one sample" in w for w in one.warnings)


def test_standard_error_is_that_of_the_mean():
    x = spikes((5, 1, 6))
    found = layer(linear(np.ones((2, 6)), T=1), x)
    per_sample = x.sum((1, 2)) * 2
    assert found.sop == per_sample.mean()
    assert found.sop_error == pytest.approx(per_sample.std(ddof=1) / np.sqrt(5))


def test_first_layer_is_cached_or_counted_every_step(small):
    x = torch.rand(2, 1, 6, 6)
    cached, every = count(small, [x]).layers[0], count(small, [x], first_layer="every step").layers[0]
    assert cached.mac == cached.fl == 9 * 4 * 36
    assert every.mac == cached.mac_uncached == 3 * cached.fl
    assert "analogue input" in cached.why
    with pytest.raises(ConfigError, match="first_layer"):
        count(small, [x], first_layer="never")


def test_zero_input_without_shifts_fires_nothing():
    torch.manual_seed(0)
    model = Small(bias=False).eval()
    found = count(graph.capture(model, torch.rand(2, 1, 6, 6)), [torch.zeros(4, 1, 6, 6)])
    assert found.sop == 0
    assert sum(row["spikes"] for row in found.neurons) == 0
    assert all(row["dead"] == 1 for row in found.neurons)
    assert any("100 % of neurons never fire on 4 samples" in w for w in found.warnings)


def test_average_pool_is_expanded_or_mac():
    torch.manual_seed(0)
    net = graph.capture(Small(nn.AvgPool2d(2)).eval(), torch.rand(2, 1, 6, 6))
    x = torch.rand(3, 1, 6, 6)
    expanded, dense = count(net, [x]), count(net, [x], expand_sums=False)
    assert expanded.layers[1].operand == "integer(4)"
    assert "sum or average" in expanded.layers[1].why
    assert dense.layers[1].mac == dense.layers[1].dense
    assert "a pool sums 4 spikes" in dense.layers[1].why
    # every spike of the pool's input reaches all outputs whose window holds its place
    assert expanded.layers[1].spikes == expanded.neurons[0]["spikes"]


def test_snapped_graph_counts_what_the_captured_one_does():
    torch.manual_seed(3)
    model = Small(nn.AvgPool2d(2)).eval()
    x = torch.rand(4, 1, 6, 6)
    captured = graph.capture(model, x[:2])
    snapped = graph.snap(captured, graph.Grid()).graph()
    a, b = count(captured, [x]), count(snapped, [x])
    assert [n.arithmetic for n in a.layers] == [n.arithmetic for n in b.layers] == ["MAC", "AC", "AC"]
    assert [n.dense for n in a.layers] == [n.dense for n in b.layers]
    assert a.layers[0].mac == b.layers[0].mac
    assert b.layers[1].sop == pytest.approx(a.layers[1].sop, rel=0.05)


def test_neuron_updates():
    T, x = 2, np.zeros((3, 2, 5))

    def net(decay):
        neuron = g.Neuron(
            name="n", inputs=("x",), edge=g.Edge(kinds.binary, (5,), T), axis=0,
            decay="d", gain="one", bias="zero", thresholds="th", reset_value="one", v_init="zero",
        )  # fmt: skip
        one = np.ones((1, 1))
        nodes = (
            g.Input(name="x", edge=g.Edge(kinds.real, (5,), T)),
            neuron,
            g.Output(name="out", inputs=("n",), edge=neuron.edge),
        )
        return g.Graph(nodes, {"d": one * decay, "one": one, "zero": one * 0, "th": np.ones((1, 1, 1))})

    assert count(net(1.0), [x]).updates == {"ac": 10, "mac": 0, "compares": 10}
    assert count(net(0.5), [x]).updates == {"ac": 10, "mac": 0, "compares": 10}
    assert count(net(0.9), [x]).updates == {"ac": 0, "mac": 10, "compares": 10}


def test_saturated_neurons_are_named():
    torch.manual_seed(0)
    model = Small().eval()
    nn.init.constant_(model.conv1.bias, 100.0)
    found = count(graph.capture(model, torch.rand(2, 1, 6, 6)), [torch.rand(3, 1, 6, 6)])
    assert found.neurons[0]["saturated"] == 1
    assert any("lif1" in w and "maximum in every step" in w for w in found.warnings)


def test_recurrent_cells_are_counted_inside():
    from picojoule.neurons import Recurrent, RecurrentLIF

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.entry = timeline.Entry(3, "frames")
            self.rnn = Recurrent(RecurrentLIF(6, 7, v_th=0.1), 3)
            self.head = nn.Linear(7, 2)
            self.out = timeline.Readout(3, "last")

        def forward(self, x):
            return self.out(self.head(self.rnn(self.entry(x))))

    torch.manual_seed(0)
    net = graph.capture(Net().eval(), torch.rand(2, 3, 6))
    x = torch.rand(4, 3, 6)
    found, parts = count(net, [x]), count(net, [x[:1], x[1:]])
    inner = [n for n in found.layers if "/" in n.name]
    assert len(inner) == 2
    assert {n.steps for n in inner} == {3}
    assert sum(n.mac for n in inner) == 3 * 6 * 7
    recurrent = next(n for n in inner if n.arithmetic == "AC")
    assert recurrent.sop > 0
    assert [n.sop for n in found.layers] == [n.sop for n in parts.layers]


# -- bad input -------------------------------------------------------------------------------------------


def test_kind_that_the_data_contradicts_names_the_layer():
    with pytest.raises(KindError, match=r"'x'.*declared binary but carries 0\.5"):
        layer(linear(np.ones((2, 2)), T=1), np.array([[[0.5, 1.0]]]))
    with pytest.raises(KindError, match=r"integer\(2\) but carries 3"):
        layer(linear(np.ones((2, 2)), kinds.integer(2), T=1), np.array([[[3.0, 1.0]]]))


def test_real_edge_that_looks_binary_is_mac_with_a_warning():
    found = count(linear(np.ones((2, 2)), kinds.real, T=1), [np.array([[[0.0, 1.0]]])])
    assert found.layers[0].arithmetic == "MAC"
    assert any("declared real but carried only 0 and 1" in w for w in found.warnings)
    halves = count(linear(np.ones((2, 2)), kinds.real, T=1), [np.array([[[0.0, 0.5]]])])
    assert not any("only 0 and 1" in w for w in halves.warnings)


class Unfolded(nn.Module):
    def __init__(self):
        super().__init__()
        self.entry = timeline.Entry(2)
        self.lif = neurons.LIF(2)
        self.norm = nn.BatchNorm2d(1)
        self.conv = nn.Conv2d(1, 2, 3, padding=1)
        self.out = timeline.Readout(2)
        nn.init.constant_(self.norm.bias, 0.3)

    def forward(self, x):
        return self.out(self.conv(self.norm(self.lif(self.entry(x)))).mean((2, 3)))


def test_unfolded_norm_before_a_synapse_is_refused_or_named():
    net = graph.capture(Unfolded().eval(), torch.rand(2, 1, 4, 4))
    with pytest.raises(KindError, match=r"'conv'.*unfolded normalisation.*'norm'"):
        count(net, [torch.rand(2, 1, 4, 4)])
    found = count(net, [torch.rand(2, 1, 4, 4)], allow_unfolded=True)
    assert found.layers[0].arithmetic == "MAC"
    assert any("'norm'" in w and "'conv'" in w for w in found.warnings)


def test_empty_and_not_finite_data(small):
    with pytest.raises(DataError, match="at least one sample"):
        count(small, [])
    with pytest.raises(DataError, match="at least one sample"):
        count(small, [torch.rand(0, 1, 6, 6)])
    bad = torch.rand(2, 1, 6, 6)
    bad[0, 0, 0, 0] = float("nan")
    with pytest.raises(NonFiniteError, match="1 of 72"):
        count(small, [bad])


@pytest.mark.parametrize("name", ["sdt_v1_tiny", "sdt_v3_tiny", "sew_resnet_tiny", "ms_resnet_tiny"])
def test_every_family_is_counted(name):
    torch.manual_seed(0)
    model = models.create_model(name).eval()
    x = torch.rand(3, 1, 8, 8)
    found = count(graph.capture(model, x[:2]), [x])
    assert not found.not_counted
    assert found.layers[0].arithmetic == "MAC"
    spiking = [n for n in found.layers if n.arithmetic == "AC"]
    dense = [n for n in found.layers[1:] if n.arithmetic == "MAC"]
    assert not dense or name.startswith("ms_")  # shortcuts and head of MS-ResNet read membranes
    for n in spiking:
        assert n.effective <= n.sop + 1e-9
        assert n.bitplane <= n.sop + 1e-9
