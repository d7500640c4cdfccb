"""What capture sees: nodes, kinds, names, sources, untouched originals; and refusals that say what to do."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from picojoule import graph, neurons, timeline
from picojoule.compress.base import QUANTIZERS, attach_
from picojoule.core import kinds
from picojoule.core.errors import CaptureError
from picojoule.core.spec import spec
from picojoule.graph import nodes as g
from picojoule.graph.rows import Lead, lead_of, regroup, row_axes
from picojoule.graph.tidy import moved_shape, simplified
from picojoule.neurons import Recurrent, RecurrentLIF

T = 2


class Wrapped(nn.Module):
    """Entry, a body given as a function of rows, Readout."""

    def __init__(self, function, **parts):
        super().__init__()
        self.entry, self.out = timeline.Entry(T), timeline.Readout(T)
        self.inner = inner(function, parts)

    def forward(self, x):
        return self.out(self.inner(self.entry(x)))


def inner(function, parts):
    """A module whose forward is `function` itself, so that traces show its line."""
    code = function.__code__.replace(co_name="forward")  # torch keeps the lines of functions of this name
    forward = type(function)(code, globals(), "forward")
    module = type("Inner", (nn.Module,), {"forward": forward})()
    for name, part in parts.items():
        setattr(module, name, part)
    return module


def ones(*shape):
    return torch.ones(*shape, dtype=torch.float64)


def body(function, *shape, **parts):
    """Nodes that `function` becomes, without border and time."""
    model = Wrapped(function, **parts).double().eval()
    captured = graph.capture(model, torch.rand(1, *shape).double())
    data = torch.rand(3, *shape).double()
    wanted = model(data)
    assert torch.allclose(graph.execute(captured, data)["out"], wanted, atol=1e-9)
    return [
        n for n in captured.nodes if not isinstance(n, g.Input | g.Output | g.Repeat | g.Readout)
    ], captured


def types(nodes):
    return [type(n).__name__ for n in nodes]


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.entry = timeline.Entry(T)
        self.stem = nn.Sequential(nn.Conv2d(1, 3, 3, bias=False), nn.BatchNorm2d(3), neurons.LIF(T, tau=4.0))
        self.head = nn.Linear(3, 4)
        self.out = timeline.Readout(T)

    def forward(self, x):
        x = self.stem(self.entry(x))
        return self.out(self.head(x.mean((2, 3))))


# -- nodes, names, sources -------------------------------------------------------------------------------


def test_a_small_network_is_the_expected_graph():
    captured = graph.capture(Small(), torch.rand(1, 1, 6, 6))
    assert types(captured.nodes) == [
        "Input", "Repeat", "Conv", "Affine", "Neuron", "Mean", "Linear", "Readout", "Output",
    ]  # fmt: skip
    names = [n.name for n in captured.nodes]
    assert names == ["x", "entry", "stem.0", "stem.1", "stem.2", "mean", "head", "out", "out.2"]
    assert [n.key for n in captured.outputs] == ["out"]
    assert [n.edge.steps for n in captured.nodes] == [0, T, T, T, T, T, T, 0, 0]
    conv, affine, neuron = captured["stem.0"], captured["stem.1"], captured["stem.2"]
    assert conv.weight == "stem.0.weight"
    assert conv.bias is None
    assert captured.tensor(affine.gain).shape == (3,)
    assert str(neuron.edge.kind) == "binary"
    assert captured.tensor(neuron.decay).item() == 0.75
    for node in captured.nodes[1:-1]:
        file, line = node.source.rsplit(":", 1)
        assert file.endswith("test_graph_capture.py")
        text = Path(__file__).read_text().splitlines()[int(line) - 1]
        assert "self." in text or "mean" in text
    assert captured["stem.0"].module == "stem.0"
    assert captured["mean"].module == ""


def test_steps_can_be_chosen():
    captured = graph.capture(Small(), torch.rand(1, 1, 6, 6), steps=5)
    assert captured["stem.2"].edge.steps == 5


def test_frames_fold_at_the_border():
    model = nn.Sequential(timeline.Entry(T, "frames"), nn.Linear(3, 2), timeline.Readout(T, "steps"))
    captured = graph.capture(model, torch.rand(1, T, 3), input_kinds="integer(4)")
    assert types(captured.nodes) == ["Input", "Linear", "Output"]
    assert captured.inputs[0].edge == g.Edge(kinds.integer(4), (3,), T)
    assert captured.outputs[0].edge.steps == T


def test_input_kinds_by_name_and_wrong_names():
    captured = graph.capture(nn.Linear(3, 2), torch.rand(1, 3), input_kinds={"input": kinds.binary})
    assert captured.inputs[0].edge.kind == kinds.binary
    with pytest.raises(CaptureError, match="inputs are"):
        graph.capture(nn.Linear(3, 2), torch.rand(1, 3), input_kinds={"image": "binary"})


def test_outputs_keep_their_names():
    class Two(nn.Module):
        def forward(self, x):
            return {"a": x + 1, "b": {"c": x * 2}}

    assert [n.key for n in graph.capture(Two(), torch.rand(2, 3)).outputs] == ["a", "b.c"]


def test_a_module_called_twice_gets_two_names_and_one_weight():
    nodes, captured = body(lambda m, x: m.fc(m.fc(x)), 4, fc=nn.Linear(4, 4))
    assert [n.name for n in nodes] == ["inner.fc", "inner.fc.2"]
    assert len(captured.tensors) == 2


def test_dead_code_is_gone():
    def function(m, x):
        m.fc(x)
        return x + 1

    nodes, captured = body(function, 4, fc=nn.Linear(4, 4))
    assert types(nodes) == ["Affine"]
    assert not any("fc" in name for name in captured.tensors)


# -- recognised operators --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "shape", "expected"),
    [
        (lambda m, x: F.dropout(x, 0.5, m.training).contiguous().clone() * 1, (4,), []),
        (lambda m, x: x.flatten(1).reshape(-1, 2, 6).flatten(1), (3, 4), ["Reshape"]),
        (lambda m, x: x.transpose(1, 2).transpose(1, 2), (3, 4), []),
        (lambda m, x: x.unsqueeze(1).squeeze(1), (4,), []),
        (lambda m, x: F.pad(x, (1, 2)).roll(1, 2).flip(1)[:, :, ::2], (3, 4), ["Reshape"]),
        (lambda m, x: torch.cat(x.chunk(2, 1)[::-1], 1), (4, 3), ["Reshape", "Reshape", "Concat"]),
        (lambda m, x: torch.stack([x, x], 1).flatten(1), (3,), [*["Reshape"] * 2, "Concat", "Reshape"]),
        (lambda m, x: F.max_pool2d(x, 3, 2, 1), (2, 7, 7), ["Pool"]),
        (lambda m, x: F.max_pool2d(x, 3, 2, ceil_mode=True), (2, 6, 6), ["Pool"]),
        (lambda m, x: F.avg_pool2d(x, 3, 2, 1), (2, 7, 7), ["Pool"]),
        (lambda m, x: F.avg_pool1d(x, 2), (2, 6), ["Pool"]),
        (lambda m, x: F.adaptive_avg_pool2d(x, (2, 3)), (2, 4, 6), ["Pool"]),
        (lambda m, x: F.adaptive_avg_pool2d(x, 1), (2, 4, 6), ["Mean"]),
        (lambda m, x: F.adaptive_avg_pool2d(x, 3), (2, 4, 4), ["Opaque"]),
        (lambda m, x: x.sum((1, 2), keepdim=True), (2, 4, 6), ["Mean"]),
        (lambda m, x: F.interpolate(x, scale_factor=3), (2, 2, 2), ["Upsample"]),
        (lambda m, x: F.interpolate(x, size=(3, 3)), (2, 2, 2), ["Opaque"]),
        (lambda m, x: F.pixel_shuffle(x, 2), (8, 3, 3), ["Reshape"]),
        (lambda m, x: F.conv2d(x, ones(2, 2, 4, 4), padding="same"), (2, 6, 6), ["Conv"]),
        (lambda m, x: F.conv1d(x, ones(4, 1, 3), padding=2, dilation=2, groups=4), (4, 6), ["Conv"]),
        (lambda m, x: F.conv3d(x, ones(2, 1, 1, 3, 3), stride=(1, 2, 2)), (1, 2, 6, 6), ["Conv"]),
        (lambda m, x: torch.addmm(ones(2), x, ones(3, 2)), (3,), ["Linear"]),
        (lambda m, x: x @ ones(3, 2), (5, 3), ["Linear"]),
        (lambda m, x: ones(2, 5) @ x, (5, 3), ["Reshape", "Linear", "Reshape"]),
        (lambda m, x: x @ x.mT, (5, 3), ["Reshape", "MatMul"]),
        (lambda m, x: (3 - x) / 4 + torch.arange(5.0)[:, None], (5, 3), ["Affine"] * 3),
        (lambda m, x: -x, (3,), ["Affine"]),
        (lambda m, x: x * torch.arange(20.0).view(4, 5), (4, 5), ["Reshape", "Affine", "Reshape"]),
        (lambda m, x: torch.add(x, x * x, alpha=3), (4,), ["Mul", "Affine", "Add"]),
        (lambda m, x: x - x.sigmoid(), (4,), ["Opaque", "Add"]),
        (lambda m, x: torch.where(x > 0.5, x, torch.zeros_like(x)), (4,), ["Opaque", "Opaque"]),
        (lambda m, x: F.layer_norm(x, (4,)), (4,), ["Opaque"]),
        (lambda m, x: x.softmax(-1), (3, 4), ["Opaque"]),
        (lambda m, x: x.gather(1, torch.zeros(x.shape[0], 2, dtype=torch.long)), (4,), ["Opaque"]),
        (lambda m, x: x.topk(2, -1)[0] + x.max(-1, keepdim=True)[0], (4,), ["Opaque", "Opaque", "Add"]),
        (lambda m, x: F.conv_transpose2d(x, ones(4, 3, 2, 2), stride=2), (4, 3, 3), ["Opaque"]),
        (lambda m, x: x.masked_fill(x > 0.5, 0.0), (4,), ["Opaque", "Opaque"]),
    ],
)  # fmt: skip
def test_operators_become_nodes_and_compute_the_same(function, shape, expected):
    nodes, _ = body(function, *shape)
    assert types(nodes) == expected


def windows(m, x):
    """Attention in 2x2 windows that are fused with the batch, as Swin spells it."""
    N, H, W, C = x.shape
    w = x.view(N, H // 2, 2, W // 2, 2, C).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, C)
    w = m.fc(w)
    w = (w @ w.transpose(-2, -1)).softmax(-1) @ w
    return w.view(N, H // 2, W // 2, 2, 2, C).permute(0, 1, 3, 2, 4, 5).reshape(N, H, W, C)


def sequence_first(m, x):
    """torch's own attention puts the batch on the second axis."""
    return m.attention(x, x, x)[0]


def over_time(m, x):
    """Weights over time, written three ways."""
    steps = timeline.split(x, T)
    by_last = m.fc(steps.permute(1, 2, 0)).permute(2, 0, 1).flatten(0, 1)
    by_einsum = torch.einsum("tu,ubc->tbc", m.fc.weight, steps).flatten(0, 1)
    by_matmul = (m.fc.weight @ steps.flatten(1)).view(x.shape)
    return by_last + by_einsum + by_matmul


@pytest.mark.parametrize(
    ("function", "shape", "parts"),
    [
        (windows, (4, 4, 6), lambda: {"fc": nn.Linear(6, 6)}),
        (sequence_first, (5, 8), lambda: {"attention": nn.MultiheadAttention(8, 2, batch_first=True)}),
        (over_time, (3,), lambda: {"fc": nn.Linear(T, T)}),
    ],
)
def test_foreign_spellings_of_attention_and_time_compute_the_same(function, shape, parts):
    body(function, *shape, **parts())


def test_the_channel_axis_of_a_constant_is_found():
    nodes, captured = body(lambda m, x: x * torch.arange(1.0, 4.0)[:, None], 2, 3, 5)
    assert nodes[0].axis == 1
    assert captured.tensor(nodes[0].gain).tolist() == [1, 2, 3]


def test_same_padding_of_an_even_kernel_is_asymmetric():
    nodes, _ = body(lambda m, x: F.conv2d(x, ones(2, 2, 4, 2), padding="same"), 2, 6, 6)
    assert nodes[0].padding == ((1, 2), (0, 1))


def test_mean_over_split_time_is_a_readout():
    class Net(nn.Module):
        def forward(self, x):
            rows = timeline.repeat(x, T)
            return timeline.split(rows, T).mean(0), rows.view(T, -1, 3)[-1], timeline.split(rows, T).amax(0)

    captured = graph.capture(Net(), torch.rand(2, 3))
    assert [n.mode for n in captured.nodes if isinstance(n, g.Readout)] == ["mean", "last", "max"]
    assert all(n.edge.steps == 0 for n in captured.outputs)


def test_writing_in_place_is_followed():
    def function(m, x):
        y = x * 2
        y += 1
        y.relu_()
        z = y.flatten(1)
        z.mul_(3)
        return y + z.view_as(y)

    body(function, 2, 3)


def test_masking_and_sums_keep_spike_kinds():
    def function(m, x):
        s = m.lif(x)
        t = m.lif2(x)
        both = s + t
        return torch.cat([both, (s * t), F.max_pool1d(s, 3, 1, 1)], 1)

    nodes, captured = body(function, 2, 3, lif=neurons.LIF(T), lif2=neurons.LIF(T))
    by_type = {type(n).__name__: n for n in nodes}
    assert by_type["Add"].edge.kind == kinds.integer(2)
    assert by_type["Mul"].edge.kind == kinds.binary
    assert by_type["Pool"].edge.kind == kinds.binary
    assert by_type["Concat"].edge.kind == kinds.integer(2)
    graph.check_kinds(captured, torch.rand(3, 2, 3))


def test_a_loop_over_time_written_by_hand_is_understood():
    def function(m, x):
        v, out = 0.0, []
        for step in timeline.split(x, T):
            v = v * 0.5 + step
            out.append(v)
        return torch.stack(out).flatten(0, 1)

    body(function, 4)


def test_psn_is_a_time_mix_and_a_memoryless_neuron():
    nodes, captured = body(lambda m, x: m.psn(x), 4, psn=neurons.PSN(T))
    assert types(nodes) == ["TimeMix", "Neuron"]
    assert captured.tensor(nodes[0].matrix).shape == (T, T)
    assert not nodes[0].causal
    assert captured.tensor(nodes[1].decay).item() == 0


def test_a_neuron_without_packed_form_stays_live():
    class Odd(neurons.Neuron):
        def run(self, x, T, state=None, want_h=False):
            return neurons.Fired((x > 0.5).to(x.dtype), None, None)

    model = nn.Sequential(timeline.Entry(T), Odd(T), timeline.Readout(T))
    captured = graph.capture(model, torch.rand(1, 4))
    assert not captured["1"].lowered
    assert isinstance(captured.live["1"], Odd)
    x = torch.rand(3, 4)
    assert torch.equal(graph.execute(captured, x)["out"], (x > 0.5).double())


def test_a_recurrent_cell_is_a_scan():
    model = nn.Sequential(timeline.Entry(T), Recurrent(RecurrentLIF(3, 5), T), timeline.Readout(T))
    captured = graph.capture(model, torch.rand(1, 3))
    scan = captured["1"]
    assert isinstance(scan, g.Scan)
    assert [n.name for n in scan.body.inputs] == ["x", "state0", "state1"]
    assert [n.key for n in scan.body.outputs] == ["y", "state0", "state1"]
    assert scan.body.inputs[2].edge.kind == kinds.binary
    assert scan.edge.kind == kinds.binary
    assert {n.module for n in scan.body.nodes if isinstance(n, g.Linear)} == {
        "1.cell.input",
        "1.cell.recurrent",
    }
    assert graph.unpackable(captured) == []


# -- parametrizations ------------------------------------------------------------------------------------


class Doubled(nn.Module):
    def forward(self, w):
        return 2 * w


@pytest.mark.parametrize("quantizer", ["binary", "lsq"])
def test_parametrized_weights_become_codes_and_the_original_is_untouched(quantizer):
    torch.manual_seed(0)
    model = Small()
    attach_(model.stem[0], QUANTIZERS.get(quantizer)())
    parametrize.register_parametrization(model.head, "weight", Doubled())
    model.train()
    x = torch.rand(4, 1, 6, 6)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    classes = [type(m) for m in model.modules()]
    captured = graph.capture(model, x[:1])
    assert model.training
    assert [type(m) for m in model.modules()] == classes
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert parametrize.is_parametrized(model.stem[0], "weight")
    conv = captured["stem.0"]
    codes = captured.tensor(conv.weight)
    assert np.issubdtype(codes.dtype, np.integer)
    scale = captured.tensor(conv.scale).reshape(-1, 1, 1, 1)
    assert np.array_equal((codes * scale).astype(np.float32), model.stem[0].weight.detach().numpy())
    assert np.array_equal(captured.tensor(captured["head"].weight), model.head.weight.detach().numpy())
    wanted = model.eval()(x)
    assert torch.allclose(graph.execute(captured, x)["out"].float(), wanted, atol=1e-5)


# -- the algebra of axes ---------------------------------------------------------------------------------


def test_regroup_splits_and_fuses():
    edge = g.Edge(kinds.real, (6, 4), 3)
    axes = row_axes(edge)
    split = regroup(axes, edge, [(3, 0), (1, 1), (6, 0), (4, 0)])
    assert split.axes == (("T",), ("B",), (0,), (1,))
    assert regroup(split.axes, edge, [(3, 1), (6, 0), (4, 0)]).axes == axes
    heads = regroup(axes, edge, [(6, 1), (3, 0), (4, 0)])
    assert heads.axes == (("N", 0), (1,), (2,))
    assert heads.shape == (2, 3, 4)
    assert lead_of(heads.axes, g.Edge(kinds.real, heads.shape, 3)) == Lead(False, 1)
    with pytest.raises(CaptureError, match="mixes"):
        regroup(axes, edge, [(2, 0), (9, 1), (4, 0)])


def test_moves_are_simplified_to_the_same_shape():
    moves = (
        ("permute", (1, 0, 2)),
        ("permute", (1, 0, 2)),
        ("view", (8, 3)),
        ("view", (4, 6)),
        ("pad", ((0, 0), (1, 0))),
    )
    shape = (2, 4, 3)
    short = simplified(moves, shape)
    assert short == (("view", (4, 6)), ("pad", ((0, 0), (1, 0))))
    for move in short:
        shape = moved_shape(move, shape)
    assert shape == (4, 7)


def test_lowered_neurons_keep_their_constants_per_channel():
    class PerChannel(neurons.LIF):
        def lower(self):
            return spec(self.kind, thresholds=np.array([[1.0, 2.0, 3.0]]), decay=0.5, reset="soft")

    model = nn.Sequential(timeline.Entry(T), PerChannel(T), timeline.Readout(T))
    captured = graph.capture(model, torch.rand(1, 5, 3))
    assert captured["1"].axis == 1
    with pytest.raises(CaptureError, match="3 channels"):
        graph.capture(model, torch.rand(1, 5, 4))
