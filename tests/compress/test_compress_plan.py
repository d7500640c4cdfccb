"""Plans: round trip, matching, errors before anything changes, presets, the byte table."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from picojoule import compress
from picojoule.compress import CompressPlan, MembraneRule, Rule, WeightRule, compress_, preset
from picojoule.core.errors import ConfigError
from picojoule.neurons.lif import LIF


def net() -> nn.Sequential:
    torch.manual_seed(0)
    parts = {
        "stem": nn.Conv2d(3, 8, 3, padding=1),
        "lif0": LIF(T=2),
        "conv1": nn.Conv2d(8, 8, 3, padding=1),
        "lif1": LIF(T=2, v_th=0.5),
        "pool": nn.Flatten(),
        "fc": nn.Linear(8 * 16, 16),
        "lif2": LIF(T=2),
        "head": nn.Linear(16, 10),
    }
    model = nn.Sequential()
    for name, part in parts.items():
        model.add_module(name, part)
    return model


FULL = """
version: 1
first_last_bits: 8
rules:
- match: '*'
  weights: {method: lsq, bits: 3}
- match: conv*
  weights: {method: codebook, bits: 0.56, options: {refresh: 0}}
- match: lif*
  membrane: {bits: 4}
- match: lif2
  membrane: {bits: 8, limit: 3.0}
"""


def test_yaml_and_dict_round_trip(tmp_path: Path) -> None:
    plan = CompressPlan.from_yaml(FULL)
    assert CompressPlan.from_yaml(plan.to_yaml()) == plan
    assert CompressPlan.from_dict(plan.to_dict()) == plan
    file = tmp_path / "plan.yaml"
    file.write_text(plan.to_yaml())
    assert CompressPlan.from_yaml(file) == plan
    assert CompressPlan.from_yaml(str(file)) == plan
    open_edges = CompressPlan(rules=plan.rules, first_last_bits=None)
    assert CompressPlan.from_yaml(open_edges.to_yaml()) == open_edges
    with pytest.raises(ValueError, match="frozen"):
        plan.first_last_bits = 4  # type: ignore[misc]


def test_later_rules_win_and_edges_keep_eight_bits() -> None:
    model = compress_(net(), CompressPlan.from_yaml(FULL))
    settings = {path: q.setting for path, _, _, q in compress.quantized(model)}
    assert settings == {
        "stem": "lsq, 8 bit",
        "conv1": "codebook, 5/9 bit",
        "fc": "lsq, 3 bit",
        "head": "lsq, 8 bit",
    }
    assert {p: q.bits for p, q in compress.membranes(model)} == {"lif0": 4, "lif1": 4, "lif2": 8}
    limits = {p: -q.table().values[0] for p, q in compress.membranes(model)}
    assert limits == {"lif0": 2.0, "lif1": 1.0, "lif2": 4.0}  # twice the threshold; 3 rounded up
    x = torch.randn(4, 3, 4, 4)
    model(x).sum().backward()
    for path, codes in compress.codes_of(model).items():
        layer = model.get_submodule(path.removesuffix(".weight"))
        assert torch.equal(codes.decode(), layer.weight)


def test_an_exact_rule_overrides_the_edges() -> None:
    rules = (
        Rule(match="*", weights=WeightRule(method="binary")),
        Rule(match="head", weights=WeightRule(method="lsq", bits=2)),
        Rule(match="stem", weights=WeightRule(method="none")),
    )
    found = CompressPlan(rules=rules).weights(net())
    assert {p: (r.method, r.bits) for p, r in found.items()} == {
        "conv1": ("binary", None),
        "fc": ("binary", None),
        "head": ("lsq", 2),
    }
    all_binary = CompressPlan(rules=rules[:1], first_last_bits=None).weights(net())
    assert {r.method for r in all_binary.values()} == {"binary"}
    assert len(all_binary) == 4
    middle = CompressPlan(rules=(Rule(match="conv*", weights=WeightRule(bits=4)),))
    assert list(middle.weights(net())) == ["conv1"]


@pytest.mark.parametrize("name", compress.PRESETS)
def test_presets_apply_train_and_decode(name: str) -> None:
    model = compress_(net(), preset(name))
    codes = compress.codes_of(model)
    assert len(codes) == 4
    expected = {"w8": 8, "w4": 4, "w3": 3, "w2": 2, "w1": 1, "ternary": 2, "subbit": 5}[name]
    assert codes["conv1.weight"].bits == expected
    assert codes["stem.weight"].bits == codes["head.weight"].bits == 8
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    x, y = torch.randn(8, 3, 4, 4), torch.arange(8) % 10
    losses = []
    for step in range(25):
        compress.progress_(model, step, step / 25)
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    for path, code in compress.codes_of(model).items():
        assert torch.equal(code.decode(), model.get_submodule(path.removesuffix(".weight")).weight)


def test_a_missing_layer_names_the_nearest() -> None:
    model = net()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ConfigError, match="did you mean 'conv1'"):
        compress_(model, CompressPlan(rules=(Rule(match="conv2", weights=WeightRule(bits=4)),)))
    with pytest.raises(ConfigError, match="did you mean 'lif2'"):
        compress_(model, CompressPlan(rules=(Rule(match="lif9_", membrane=MembraneRule()),)))
    assert list(model.state_dict()) == list(before)


def test_nothing_changes_when_a_later_layer_is_refused() -> None:
    model = nn.Sequential(nn.Linear(8, 11), nn.Linear(11, 8))
    plan = CompressPlan(rules=(Rule(match="*", weights=WeightRule(method="codebook")),), first_last_bits=None)
    with pytest.raises(ConfigError, match=r"^1: .*binary"):
        compress_(model, plan)
    assert compress.codes_of(model) == {}
    with torch.no_grad():
        model[1].weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        compress_(model, preset("w4"))
    assert compress.codes_of(model) == {}


def test_twice_is_refused() -> None:
    model = compress_(net(), CompressPlan.from_yaml(FULL))
    with pytest.raises(ConfigError, match="already"):
        compress_(model, preset("w4"))
    only = CompressPlan(rules=(Rule(match="lif*", membrane=MembraneRule()),))
    with pytest.raises(ConfigError, match="already"):
        compress_(model, only)
    compress.remove_(model)
    compress_(model, preset("w4"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rules: [{match: '*', weights: {method: lsq, bits: 1}}]", r"2\.\.8"),
        ("rules: [{match: '*', weights: {method: lsq, bits: 9}}]", r"2\.\.8"),
        ("rules: [{match: '*', weights: {method: lsq, bits: 3.5}}]", r"2\.\.8"),
        ("rules: [{match: '*', weights: {method: lsk, bits: 4}}]", "did you mean 'lsq'"),
        ("rules: [{match: '*', weights: {method: binary, bits: 2}}]", "leave bits out"),
        ("rules: [{match: '*', weights: {method: codebook, bits: 2}}]", r"\(0, 1\]"),
        ("rules: [{match: '*', weights: {method: lsq, options: {inti: mse}}}]", "did you mean 'init'"),
        ("rules: [{match: '*', weigths: {method: lsq}}]", "did you mean 'weights'"),
        ("rules: [{match: '*', weights: {methd: lsq}}]", "did you mean 'method'"),
        ("rulez: []", "did you mean 'rules'"),
        ("rules: [{match: '*'}]", "does nothing"),
        ("rules: [{match: '*', membrane: {bits: 1}}]", r"2\.\.16"),
        ("rules: [{match: '*', membrane: {method: unifrom}}]", "did you mean 'uniform'"),
        ("rules: [{match: '*', membrane: {limit: -1}}]", "positive"),
        ("version: 2\nrules: []", "version"),
        ("first_last_bits: 1\nrules: []", r"2\.\.8"),
        ("- a\n- b", "mapping"),
        ("rules: [", "YAML"),
        ("absent.yaml", "no plan file"),
    ],
)
def test_bad_plans_are_refused_when_read(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CompressPlan.from_yaml(text)


def test_unknown_preset() -> None:
    with pytest.raises(ConfigError, match="ternary"):
        preset("ternery")


def test_report_counts_bytes_before_and_after() -> None:
    plan = CompressPlan.from_yaml(FULL)
    model = net()
    before = copy.deepcopy(model.state_dict())
    planned = plan.report(model)
    assert list(model.state_dict()) == list(before)
    rows = {row.layer: row for row in planned.rows}
    assert rows["stem"].bytes == 3 * 8 * 9 + 8 * 4
    assert rows["conv1"].bytes == 8 * 8 * 5 // 8 + 32 * 9 // 8 + 8 * 4
    assert rows["fc"].bytes == 128 * 16 * 3 // 8 + 16 * 4
    assert rows["fc"].bits == 3
    assert rows["lif1"].what == "membrane"
    assert planned.float_bytes == 4 * sum(
        m.weight.numel() for m in (model.stem, model.conv1, model.fc, model.head)
    )
    compress_(model, plan)
    assert compress.report(model).rows == tuple(planned.rows)
    text = str(planned)
    assert "total" in text
    assert "codebook, 5/9 bit" in text
    assert planned.to_dict()["total_bytes"] == planned.total_bytes
    plain = compress.report(net())
    assert plain.total_bytes == plain.float_bytes


def test_a_checkpoint_restores_into_a_freshly_compressed_model() -> None:
    plan = CompressPlan.from_yaml(FULL)
    model = compress_(net(), plan)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.01 * torch.randn_like(p))
    other = compress_(net(), plan)
    other.load_state_dict(model.state_dict())
    x = torch.randn(4, 3, 4, 4)
    assert torch.equal(model.eval()(x), other.eval()(x))
