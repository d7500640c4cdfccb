"""The captured graph computes what the model computes, for every family and any batch."""

import copy
import inspect

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from picojoule import graph, models, neurons, timeline
from picojoule.core.errors import ShapeError
from picojoule.graph import nodes as g
from picojoule.graph.foreign import spiking
from picojoule.neurons import Recurrent, RecurrentLIF

T = 3


def lively(model: nn.Module, seed: int = 0) -> nn.Module:
    """Eval mode, float64, statistics of BatchNorm set from data, so that neurons fire."""
    torch.manual_seed(seed)
    for m in model.modules():
        if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d):
            m.weight.data.uniform_(0.8, 2.0)
            m.bias.data.uniform_(0.2, 0.9)
            m.running_mean.normal_(0, 0.2)
            m.running_var.uniform_(0.2, 0.6)
    return model.double().eval()


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.entry = timeline.Entry(T)
        self.stem = nn.Conv2d(2, 6, 3, padding="same")
        self.norm = nn.BatchNorm2d(6)
        self.lif1 = neurons.LIF(T)
        self.conv = nn.Conv2d(6, 6, 3, padding=1, groups=2, bias=False)
        self.lif2 = neurons.ILIF(T, D=4)
        self.down = nn.Conv2d(6, 6, 4, stride=2, padding="valid", dilation=1)
        self.head = nn.Linear(6, 5)
        self.out = timeline.Readout(T)

    def forward(self, x):
        x = self.norm(self.stem(self.entry(x)))
        s = self.lif1(x)
        x += self.conv(s)
        s = self.lif2(x * 1.5)
        return self.out(self.head(self.down(s).mean((2, 3))))


class Attention(nn.Module):
    """Softmax-free attention in the usual ViT spelling: a neuron on q k^T."""

    def __init__(self, D=8, heads=2):
        super().__init__()
        self.heads = heads
        self.entry = timeline.Entry(T)
        self.embed = nn.Conv2d(1, D, 2, stride=2)
        self.pos = nn.Parameter(torch.randn(1, 9, D) * 0.1)
        self.cls = nn.Parameter(torch.randn(1, 1, D))
        self.lif = neurons.LIF(T, v_th=0.3)
        self.qkv = nn.Linear(D, 3 * D)
        self.lif_qkv = neurons.LIF(T, v_th=0.2)
        self.lif_map = neurons.LIF(T, v_th=0.1)
        self.scale = nn.Parameter(torch.rand(D))
        self.proj = nn.Linear(D, D)
        self.out = timeline.Readout(T, "sum")

    def forward(self, x):
        x = self.embed(self.entry(x)).flatten(2).transpose(1, 2) + self.pos
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1)
        N, L, D = x.shape
        qkv = self.lif_qkv(self.qkv(self.lif(x)))
        q, k, v = qkv.reshape(N, L, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)
        a = self.lif_map((q @ k.transpose(-2, -1)) * 0.5)
        y = (a @ v).transpose(1, 2).reshape(N, L, D)
        x = x + self.scale * self.proj(y)
        return self.out(x[:, 0])


class EinsumAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.entry = timeline.Entry(T)
        self.lif = neurons.LIF(T, v_th=0.2)
        self.mix = nn.Parameter(torch.randn(8, 6))
        self.out = timeline.Readout(T, "max")

    def forward(self, x):
        s = self.lif(self.entry(x))  # [TB, 2, 8, 8]
        a = torch.einsum("bhnd,bhmd->bhnm", s, s)
        y = torch.einsum("bhnm,bhmd->bnhd", a, s)
        z = torch.einsum("bnhd,de->bhne", y, self.mix)
        return self.out(F.scaled_dot_product_attention(z, z, z).sum((1, 2)))


class TCJA(nn.Module):
    """Temporal-channel joint attention: two convolutions on the (T, C) matrix of a spiking map."""

    def __init__(self, C=4):
        super().__init__()
        self.entry = timeline.Entry(T, "frames")
        self.conv = nn.Conv2d(2, C, 3, padding=1)
        self.lif = neurons.LIF(T, v_th=0.3)
        self.by_time = nn.Conv1d(T, T, 4, padding="same", bias=False)
        self.by_channel = nn.Conv1d(C, C, 4, padding="same", bias=False)
        self.pool = nn.MaxPool2d(2)
        self.out = timeline.Readout(T)

    def forward(self, x):
        s = self.lif(self.conv(self.entry(x)))
        z = timeline.split(s, T).mean((3, 4)).permute(1, 0, 2)  # [B, T, C]
        a = self.by_time(z)
        b = self.by_channel(z.transpose(1, 2)).transpose(1, 2)
        gate = torch.sigmoid(a * b).transpose(0, 1)[..., None, None]
        y = (timeline.split(s, T) * gate).flatten(0, 1)
        return self.out(self.pool(y).flatten(1))


class SampleGate(nn.Module):
    """A gate of one row a sample meets rows of T steps, by broadcasting; steps scaled one by one."""

    def __init__(self):
        super().__init__()
        self.entry = timeline.Entry(T, "frames")
        self.lif = neurons.LIF(T, v_th=0.3)
        self.p = nn.Parameter(torch.rand(T, 1, 1, 1, 1))

    def forward(self, x):
        s = timeline.split(self.lif(self.entry(x)), T)
        gate = s.mean(0, keepdim=True).mean((3, 4), keepdim=True)
        return timeline.unfold((s * gate * self.p).flatten(0, 1).flip(-1).roll(1, -1), T)


class RecurrentNet(nn.Module):
    def __init__(self, reset="soft"):
        super().__init__()
        self.entry = timeline.Entry(T, "frames")
        self.rnn = Recurrent(RecurrentLIF(6, 7, v_th=0.4, reset=reset), T)
        self.head = nn.Linear(7, 3)
        self.out = timeline.Readout(T, "last")

    def forward(self, x):
        return self.out(self.head(self.rnn(self.entry(x))))


class Detector(nn.Module):
    """Two outputs, a pyramid with nearest upsampling and a skip by concatenation."""

    def __init__(self):
        super().__init__()
        self.entry = timeline.Entry(T)
        self.c1, self.l1 = nn.Conv2d(1, 4, 3, padding=1), neurons.LIF(T, v_th=0.2)
        self.c2, self.l2 = nn.Conv2d(4, 4, 3, stride=2, padding=1), neurons.LIF(T, v_th=0.1)
        self.up = nn.Upsample(scale_factor=2)
        self.c3, self.l3 = nn.Conv2d(8, 4, 1), neurons.LIF(T, v_th=0.1)
        self.boxes, self.scores = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1)
        self.out = timeline.Readout(T)

    def forward(self, x):
        s1 = self.l1(self.c1(self.entry(x)))
        s2 = self.l2(self.c2(s1))
        s3 = self.l3(self.c3(torch.cat([s1, self.up(s2)], 1)))
        return {"boxes": self.out(self.boxes(s3)), "scores": self.out(self.scores(s2))}


class PlainBlock(nn.Module):
    def __init__(self, c, d, stride=1):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(c, d, 3, stride, 1, bias=False), nn.BatchNorm2d(d)
        self.conv2, self.bn2 = nn.Conv2d(d, d, 3, 1, 1, bias=False), nn.BatchNorm2d(d)
        self.relu = nn.ReLU(inplace=True)
        self.short = (
            nn.Sequential() if c == d else nn.Sequential(nn.Conv2d(c, d, 1, stride), nn.BatchNorm2d(d))
        )

    def forward(self, x):
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += self.short(x)
        return self.relu(out)


class PlainResNet(nn.Module):
    """A plain torch network that knows nothing of spikes."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.relu = nn.Conv2d(3, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.blocks = nn.Sequential(PlainBlock(8, 8), PlainBlock(8, 12, 2))
        self.avg, self.drop, self.fc = nn.AdaptiveAvgPool2d(1), nn.Dropout(0.5), nn.Linear(12, 4)

    def forward(self, x):
        x = self.blocks(self.pool(self.relu(self.bn(self.conv(x)))))
        return self.fc(self.drop(torch.flatten(self.avg(x), 1)))


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.entry = timeline.Entry(T)
        self.lif = neurons.LIF(T, v_th=0.3)
        self.out = timeline.Readout(T)

    def forward(self, image, mask):
        a, b = self.lif(self.entry(image)), self.lif(self.entry(mask) * 2)
        return self.out(a * b), self.out(a.logical_or(b).to(a.dtype) - a)


def psn_net():
    neuron = neurons.PSN(T)
    neuron.bias.data.zero_()
    return nn.Sequential(
        timeline.Entry(T, "frames"), nn.Linear(6, 5), neuron, nn.Linear(5, 2), timeline.Readout(T, "steps")
    )


def ternary_net():
    return nn.Sequential(
        timeline.Entry(T), nn.Linear(6, 5), neurons.TernaryLIF(T, v_th=0.3), timeline.Readout(T)
    )


CASES = {
    "vgg": (lambda: models.create_model("spiking_vgg_tiny"), (1, 28, 28)),
    "residual": (Residual, (2, 9, 9)),
    "ms_resnet": (lambda: models.create_model("ms_resnet_tiny"), (1, 28, 28)),
    "sdt_v3": (lambda: models.create_model("sdt_v3_tiny"), (1, 28, 28)),
    "attention": (Attention, (1, 6, 6)),
    "einsum": (EinsumAttention, (2, 8, 8)),
    "tcja": (TCJA, (T, 2, 8, 8)),
    "sample_gate": (SampleGate, (T, 2, 4, 4)),
    "recurrent": (RecurrentNet, (T, 6)),
    "recurrent_hard": (lambda: RecurrentNet("hard"), (T, 6)),
    "detector": (Detector, (1, 8, 8)),
    "foreign": (lambda: spiking(PlainResNet(), lambda: neurons.LIF(T, v_th=0.5), T), (3, 16, 16)),
    "psn": (psn_net, (T, 6)),
    "ternary": (ternary_net, (6,)),
    "two_inputs": (TwoInputs, ((1, 4, 4), (1, 4, 4))),
}


@pytest.fixture(scope="module", params=list(CASES))
def case(request):
    make, shape = CASES[request.param]
    torch.manual_seed(1)
    model = lively(make())
    shapes = shape if isinstance(shape[0], tuple) else (shape,)
    example = tuple(torch.rand(1, *s, dtype=torch.float64) for s in shapes)
    return request.param, model, graph.capture(model, example), shapes


def flat(result):
    if isinstance(result, dict):
        return list(result.values())
    return list(result) if isinstance(result, tuple | list) else [result]


def hooked(model, data):
    """Outputs of the model and the spikes of its neurons by module path, in call order."""
    seen = []
    hooks = [
        m.register_forward_hook(lambda m, i, o, p=p: seen.append((p, o)))
        for p, m in model.named_modules()
        if isinstance(m, neurons.Neuron)
    ]
    with torch.no_grad():
        result = flat(model(*data))
    for hook in hooks:
        hook.remove()
    return result, seen


@pytest.mark.parametrize("B", [1, 2, 7])
def test_outputs_and_spikes_equal_the_model(case, B):
    _, model, captured, shapes = case
    data = tuple(2 * torch.rand(B, *s, dtype=torch.float64) - 0.4 for s in shapes)
    expected, spikes = hooked(model, data)
    fired = [n for n in captured.nodes if isinstance(n, g.Neuron)]
    result = graph.execute(captured, data, watch=[n.name for n in fired])
    assert len(captured.outputs) == len(expected)
    for node, wanted in zip(captured.outputs, expected):
        assert torch.allclose(result[node.key], wanted, rtol=1e-9, atol=1e-9)
    outer = [(p, s) for p, s in spikes if not p.endswith("cell.fire")]
    assert [n.module for n in fired] == [p for p, _ in outer]
    for node, (_, wanted) in zip(fired, outer):
        assert torch.equal(result[node.name], wanted), node.name
    if fired and B == 7:
        assert any(0 < float((s != 0).double().mean()) < 1 for _, s in outer)  # not a silent network


def test_an_empty_batch_keeps_the_shapes(case):
    _, _, captured, shapes = case
    one = graph.execute(captured, tuple(torch.rand(1, *s) for s in shapes))
    none = graph.execute(captured, tuple(torch.rand(0, *s) for s in shapes))
    assert {k: (0, *v.shape[1:]) for k, v in one.items()} == {k: tuple(v.shape) for k, v in none.items()}


def test_one_sample_never_changes_another(case):
    _, _, captured, shapes = case
    data = tuple(torch.rand(3, *s, dtype=torch.float64) for s in shapes)
    other = tuple(x.clone() for x in data)
    for x in other:
        x[1] = 1.5 * torch.rand_like(x[1])
    before, after = graph.execute(captured, data), graph.execute(captured, other)
    for key in before:
        assert torch.equal(before[key][[0, 2]], after[key][[0, 2]])


def test_kinds_hold_on_data(case):
    _, _, captured, shapes = case
    graph.check_kinds(captured, tuple(2 * torch.rand(4, *s) - 0.4 for s in shapes))


NEURONS = [
    name
    for name in neurons.__all__
    if inspect.isclass(getattr(neurons, name))
    and issubclass(getattr(neurons, name), neurons.Neuron)
    and name != "Neuron"
]


@pytest.mark.parametrize("name", NEURONS)
def test_every_neuron_executes_as_it_runs(name):
    """Lowered ones from their constants, the others through the live module: the same spikes."""
    cls = getattr(neurons, name)
    wants = inspect.signature(cls.__init__).parameters
    torch.manual_seed(0)
    neuron = cls(T=T, **({"channels": 4} if "channels" in wants else {}))
    model = nn.Sequential(timeline.Entry(T, "frames"), neuron, timeline.Readout(T, "steps")).double().eval()
    captured = graph.capture(model, torch.rand(1, T, 4, 3).double())
    x = 3 * torch.randn(5, T, 4, 3).double()
    assert torch.equal(graph.execute(captured, x)["out"], model(x))
    graph.check_kinds(captured, x)
    (node,) = [n for n in captured.nodes if isinstance(n, g.Neuron)]
    assert node.lowered == neuron.packable
    assert bool(graph.unpackable(captured)) != node.lowered


def test_float32_agrees_to_rounding():
    model = lively(Residual())
    captured = graph.capture(model, torch.rand(1, 2, 9, 9).double())
    x = torch.rand(2, 2, 9, 9)
    low = graph.execute(captured, x, dtype=torch.float32)["out"]
    assert low.dtype == torch.float32
    assert torch.allclose(low.double(), graph.execute(captured, x)["out"], atol=1e-4)


def test_executor_refuses_wrong_shapes_and_names():
    captured = graph.capture(lively(Residual()), torch.rand(1, 2, 9, 9).double())
    with pytest.raises(ShapeError, match="must be"):
        graph.execute(captured, torch.rand(1, 3, 9, 9))
    with pytest.raises(ShapeError, match="inputs are"):
        graph.execute(captured, {"image": torch.rand(1, 2, 9, 9)})
    with pytest.raises(ShapeError, match="no such nodes"):
        graph.execute(captured, torch.rand(1, 2, 9, 9), watch=["nowhere"])


@pytest.mark.parametrize("reset", ["soft", "hard"])
def test_recurrent_streams_in_any_chunking(reset):
    model = lively(RecurrentNet(reset))
    x = torch.rand(2, T, 6).double()
    rows = model.rnn(timeline.fold(x))
    stream = timeline.stream(model)
    pieces = [stream(x[:, :1]), stream(x[:, 1:])]
    assert torch.equal(pieces[-1], model(x))
    # the reference: the equations written out
    cell, v, s, out = model.rnn.cell, torch.zeros(2, 7).double(), torch.zeros(2, 7).double(), []
    for t in range(T):
        h = cell.decay * v + cell.input(x[:, t]) + s @ cell.recurrent.weight.t()
        s = (h >= cell.v_th).double()
        v = h * (1 - s) if reset == "hard" else h - cell.v_th * s
        out.append(s)
    assert torch.equal(rows, torch.cat(out))
    assert 0 < rows.mean() < 1


def test_recurrent_trains():
    model = RecurrentNet()
    model(torch.rand(2, T, 6)).sum().backward()
    assert model.rnn.cell.recurrent.weight.grad.abs().sum() > 0


def test_capture_leaves_no_trace_on_the_model():
    model = copy.deepcopy(lively(Attention()))
    model.train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    graph.capture(model, torch.rand(1, 1, 6, 6).double())
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    after = model.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[k], after[k]) for k in before)
