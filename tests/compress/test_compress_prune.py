"""Pruning: ties are followed, masked and shrunk models agree, bad requests change nothing."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from picojoule import compress
from picojoule.compress import Codebook, CompressPlan, Grid, UniformMembrane, attach_, prune_, shrink
from picojoule.compress.channels import trace_channels
from picojoule.compress.prune import ChannelMask
from picojoule.core.errors import ConfigError
from picojoule.neurons.lif import LIF


class Residual(nn.Module):
    """Membrane shortcut around neuron-conv-BN twice, with a per-channel factor."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.lif1, self.conv1, self.bn1 = (
            LIF(T=2, v_th=0.3),
            nn.Conv2d(width, hidden, 3, padding=1),
            nn.BatchNorm2d(hidden),
        )
        self.lif2, self.conv2, self.bn2 = (
            LIF(T=2, v_th=0.3),
            nn.Conv2d(hidden, width, 1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.factor = nn.Parameter(torch.rand(width, 1, 1) + 0.5)

    def forward(self, u: Tensor) -> Tensor:
        return u + self.factor * self.bn2(self.conv2(self.lif2(self.bn1(self.conv1(self.lif1(u))))))


class Net(nn.Module):
    """Stem, residual block, depthwise convolution, concatenation, pool, flatten, two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.block = Residual(12, 20)
        self.lif = LIF(T=2, v_th=0.3)
        self.dw, self.dwn = nn.Conv2d(12, 12, 3, padding=1, groups=12), nn.BatchNorm2d(12)
        self.side = nn.Conv2d(12, 6, 1)
        self.lif3 = LIF(T=2, v_th=0.1)
        self.fc, self.lif4, self.head = nn.Linear(18 * 4, 16), LIF(T=2, v_th=0.1), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = x.unsqueeze(0).expand(2, *x.shape).reshape(2 * len(x), *x.shape[1:])
        u = self.block(self.norm(self.stem(x)))
        s = self.lif(u)
        both = torch.cat([self.dwn(self.dw(s)), self.side(s)], dim=1)
        s = nn.functional.avg_pool2d(self.lif3(both), 2)
        out = self.head(self.lif4(self.fc(torch.flatten(s, 1))))
        return out.reshape(2, -1, 5).mean(0)


def net() -> Net:
    torch.manual_seed(0)
    model = Net()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


def example(n: int = 3) -> Tensor:
    return torch.randn(n, 3, 4, 4, generator=torch.Generator().manual_seed(1)) * 2


def test_ties_are_found() -> None:
    found = trace_channels(net(), example())
    stem = found.rows["stem"].tolist()
    assert found.rows["block.conv2"].tolist() == stem  # the residual sum
    assert found.rows["dw"].tolist() == stem  # depthwise
    assert found.cols["side"].tolist() == stem
    assert len(set(stem)) == 12
    hidden = found.rows["block.conv1"].tolist()
    assert not set(hidden) & set(stem)
    assert found.cols["block.conv2"].tolist() == hidden
    side = found.rows["side"].tolist()
    assert found.cols["fc"].tolist() == [x for x in stem + side for _ in range(4)]
    assert found.vectors[("block", "factor")][1].tolist() == stem
    assert set(found.rows["head"].tolist()) == {0}  # outputs stay
    assert "outputs" in found.reasons["head"]


@pytest.mark.parametrize(
    "ratios",
    [{"stem": 0.5}, {"block.conv1": 0.6}, {"side": 0.34}, {"fc": 0.5}, {"*": 0.4}, {"*": 0.3, "fc": 0.7}],
)
def test_shrunk_equals_masked(ratios: dict[str, float]) -> None:
    model = net()
    plain = model(example(8))
    pruned = prune_(model, ratios, example())
    assert pruned.kept
    masked = model(example(8))
    assert not torch.equal(masked, plain)
    state = copy.deepcopy(model.state_dict())
    small = shrink(model, example())
    assert torch.allclose(small(example(8)), masked, atol=1e-6)
    for path, (kept, total) in pruned.kept.items():
        layer = small.get_submodule(path)
        assert layer.weight.shape[0] == kept < total
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())
    assert not any(isinstance(m, ChannelMask) for m in small.modules())
    assert type(small.stem) is nn.Conv2d
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert torch.equal(model(example(8)), masked)
    small.train()(example(8)).sum().backward()


def test_kept_count_and_the_smallest_go() -> None:
    model = net()
    with torch.no_grad():
        model.fc.weight[[2, 7]] *= 1e-3
    prune_(model, {"fc": 2 / 16}, example())
    mask = model.fc.parametrizations.weight[0]
    assert (~mask.rows.flatten()).nonzero().flatten().tolist() == [2, 7]
    assert bool((model.fc.weight[[2, 7]] == 0).all())
    assert bool((model.fc.bias[[2, 7]] == 0).all())
    assert bool((model.head.weight[:, [2, 7]] == 0).all())


@pytest.mark.parametrize("name", ["w8", "w4", "w2", "w1", "ternary"])
@pytest.mark.parametrize("order", ["prune first", "quantize first"])
def test_pruning_composes_with_quantizers(name: str, order: str) -> None:
    model = net()
    if order == "prune first":
        prune_(model, {"*": 0.4}, example())
        compress.compress_(model, compress.preset(name))
    else:
        compress.compress_(model, compress.preset(name))
        prune_(model, {"*": 0.4}, example())
    for path, module, tensor, _ in compress.quantized(model):
        assert torch.equal(compress.get_codes(module, tensor).decode(), getattr(module, tensor)), path
        rows = compress.get_codes(module).decode().flatten(1)
        mask = next((m for m in module.parametrizations.weight if isinstance(m, ChannelMask)), None)
        if mask is not None and mask.rows is not None:
            assert bool((rows[~mask.rows.flatten()] == 0).all())
    model.train()
    model(example(8)).square().sum().backward()
    assert all(p.grad is None or bool(torch.isfinite(p.grad).all()) for p in model.parameters())
    model.eval()
    masked = model(example(8))
    small = shrink(model, example())
    assert torch.allclose(small(example(8)), masked, atol=1e-6)
    assert len(compress.codes_of(small)) == len(compress.codes_of(model))
    for module, tensor in [(m, t) for _, m, t, _ in compress.quantized(small)]:
        assert torch.equal(compress.get_codes(module, tensor).decode(), getattr(module, tensor))


def test_standardized_and_codebook_compose() -> None:
    model = net()
    attach_(model.block.conv1, compress.Standardized())
    attach_(model.block.conv2, compress.Standardized())
    attach_(model.stem, Codebook(0.56))
    model.block.lif1.membrane_quant = UniformMembrane(6)
    prune_(model, {"block.conv1": 0.5, "stem": 0.25}, example())
    masked = model(example(8))
    small = shrink(model, example())
    assert torch.allclose(small(example(8)), masked, atol=1e-6)
    assert compress.quantizer_of(small.stem).setting == "codebook, 5/9 bit"


def test_torn_code_words_are_refused() -> None:
    model = net()
    attach_(model.head, Codebook(0.5))
    prune_(model, {"fc": 0.25}, example())
    with pytest.raises(ConfigError, match="tear code words"):
        shrink(model, example())


def test_a_plan_prunes_quantizes_and_quantizes_membranes() -> None:
    plan = CompressPlan.from_yaml(
        "rules:\n- {match: '*', weights: {method: lsq, bits: 4}}\n"
        "- {match: block.conv1, prune: {ratio: 0.5}}\n"
        "- {match: '*lif*', membrane: {bits: 8}}\n"
    )
    assert CompressPlan.from_yaml(plan.to_yaml()) == plan
    model = net()
    with pytest.raises(ConfigError, match="example"):
        compress.compress_(model, plan)
    compress.compress_(model, plan, example())
    assert "10 of 20 channels" in str(compress.report(model))
    masked = model(example(8))
    small = shrink(model, example())
    assert torch.allclose(small(example(8)), masked, atol=1e-6)
    assert compress.report(small).total_bytes < compress.report(model).total_bytes
    assert small.block.conv1.out_channels == 10
    assert torch.equal(compress.strip(small)(example()), small(example()))
    assert torch.equal(compress.strip(model)(example()), model(example()))


@pytest.mark.parametrize(
    ("ratios", "message"),
    [
        ({"stem": 0.99}, "empty layer 'stem'"),
        ({"stem": 1.0}, "empty"),
        ({"stem": -0.1}, r"\[0, 1\)"),
        ({"stm": 0.5}, "did you mean 'stem'"),
        ({"head": 0.5}, "outputs of the model"),
        ({"stem": 0.5, "dw": 0.25}, "one ratio"),
    ],
)
def test_bad_requests_change_nothing(ratios: dict[str, float], message: str) -> None:
    model = net()
    before = list(model.state_dict())
    with pytest.raises(ConfigError, match=message):
        prune_(model, ratios, example())
    assert list(model.state_dict()) == before


def test_pruning_twice_or_on_a_grid_is_refused() -> None:
    model = net()
    prune_(model, {"stem": 0.5}, example())
    with pytest.raises(ConfigError, match="already"):
        prune_(model, {"fc": 0.5}, example())
    other = net()
    attach_(other.fc, Grid(0))
    with pytest.raises(ConfigError, match="Grid"):
        prune_(other, {"fc": 0.5}, example())


def test_bad_plan_ratio() -> None:
    for ratio in (0.0, 1.0, 1.5):
        with pytest.raises(ConfigError, match="ratio"):
            CompressPlan.from_dict({"rules": [{"match": "*", "prune": {"ratio": ratio}}]})


class Heads(nn.Module):
    """Channels that are reshaped into heads must stay."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.v, self.up, self.out = (
            nn.Linear(6, 8),
            nn.Linear(6, 8),
            nn.Linear(8, 10),
            nn.Linear(10, 4),
        )

    def forward(self, x: Tensor) -> Tensor:
        q = self.q(x).reshape(*x.shape[:2], 2, 4)
        v = self.v(x).reshape(*x.shape[:2], 2, 4)
        y = (q * v.sum(-1, keepdim=True)).flatten(2)
        return self.out(torch.relu(self.up(y))).mean(1)


def test_what_is_not_understood_is_frozen() -> None:
    model = Heads()
    x = torch.randn(2, 3, 6)
    found = trace_channels(model, x)
    assert set(found.rows["q"].tolist()) == {0}
    assert "reshape" in found.reasons["q"]
    with pytest.raises(ConfigError, match="reshape"):
        prune_(model, {"q": 0.5}, x)
    with torch.no_grad():
        model.up.bias.zero_()
    prune_(model, {"*": 0.5}, x)
    assert torch.allclose(shrink(model, x)(x), model(x), atol=1e-6)
    assert shrink(model, x).up.out_features == 5


def test_a_neuron_that_fires_without_input() -> None:
    torch.manual_seed(0)
    x = torch.randn(5, 4)
    model = nn.Sequential(nn.Linear(4, 6), LIF(T=1, v_th=-0.5), nn.Linear(6, 3))
    prune_(model, {"0": 0.5}, x)
    # Columns of the next layer are masked too, so that even this neuron is cut off.
    assert torch.allclose(shrink(model, x)(x), model(x), atol=1e-6)
    # A binary quantizer has no zero: it turns masked columns into +-scale, and the neuron shows.
    attach_(model[2], compress.Binary())
    with pytest.raises(ConfigError, match="not silent"):
        shrink(model, x)


def test_a_residual_stream_that_fires_without_input_is_still_equal() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 8, 1), LIF(T=1, v_th=-0.1), nn.Conv2d(8, 8, 3, groups=8), nn.Flatten(1)
    )
    model.append(nn.Linear(8 * 4, 2))
    x = torch.randn(3, 2, 4, 4)
    prune_(model, {"0": 0.5}, x)
    assert torch.allclose(shrink(model, x)(x), model(x), atol=1e-6)
