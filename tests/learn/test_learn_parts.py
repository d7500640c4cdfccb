from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from picojoule import compress
from picojoule.core.errors import CheckpointError, ConfigError, ShapeError
from picojoule.learn import EMA, LAMB, TET, CrossEntropy, load_checkpoint, load_weights, save_checkpoint
from picojoule.learn import checkpoint as checkpoints
from picojoule.learn.optim import cosine, make_optimizer, parameter_groups


def test_tet_is_the_mean_over_steps_plus_the_pull():
    torch.manual_seed(0)
    logits, y = torch.randn(5, 3, 4), torch.randint(4, (5,))
    plain = sum(nn.functional.cross_entropy(logits[:, t], y) for t in range(3)) / 3
    torch.testing.assert_close(TET(lam=0.0)(logits, y), plain)
    pulled = 0.9 * plain + 0.1 * (logits - 1).square().mean()
    torch.testing.assert_close(TET(lam=0.1)(logits, y), pulled)
    with pytest.raises(ShapeError, match="logits of every step"):
        TET()(logits[:, 0], y)


def test_cross_entropy_takes_class_probabilities():
    logits, y = torch.randn(6, 4), torch.randint(4, (6,))
    soft = nn.functional.one_hot(y, 4).float()
    torch.testing.assert_close(CrossEntropy(0.1)(logits, y), CrossEntropy(0.1)(logits, soft))


def test_cosine_warms_up_and_ends_at_the_floor():
    factors = [cosine(s, 100, 10, 0.01) for s in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == factors[10] == 1.0
    assert factors[100] == pytest.approx(0.01)
    assert all(a >= b for a, b in itertools.pairwise(factors[10:]))


def test_lamb_step_equals_its_formula():
    torch.manual_seed(0)
    w = nn.Parameter(torch.randn(4, 3))
    start, g = w.detach().clone(), torch.randn(4, 3) * 0.1
    optimizer = LAMB([w], lr=0.01, weight_decay=0.1, eps=1e-6)
    w.grad = g.clone()
    optimizer.step()
    g = g / max(1.0, float(g.norm()))
    # After bias correction the first moments are g and g^2.
    r = g / (g.abs() + 1e-6) + 0.1 * start
    ratio = min(float(start.norm() / r.norm()), 10.0)
    torch.testing.assert_close(w.detach(), start - 0.01 * ratio * r, rtol=1e-4, atol=1e-6)


def test_only_weights_decay():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    groups = parameter_groups(model, 0.1)
    assert [p.shape for p in groups[0]["params"]] == [(4, 3)]
    assert groups[0]["weight_decay"] == 0.1
    assert groups[1]["weight_decay"] == 0.0
    assert len(groups[1]["params"]) == 3
    compress.attach_(model[0], compress.Grid())
    left = [p for g in parameter_groups(model, 0.1) for p in g["params"]]
    assert all(p.dim() < 2 for p in left)
    with pytest.raises(ConfigError, match="did you mean 'adamw'"):
        make_optimizer(model, "adam", 0.1, 0.0)


def test_ema_follows_and_gives_the_model_back():
    model = nn.BatchNorm1d(2)
    ema = EMA(model, 0.9)
    with torch.no_grad():
        model.weight.fill_(3.0)
    ema.update(model)
    d = min(0.9, 2 / 11)
    expected = d * 1.0 + (1 - d) * 3.0
    with ema.applied(model):
        assert model.weight[0].item() == pytest.approx(expected)
    assert model.weight[0].item() == 3.0
    with pytest.raises(ValueError, match="must lie in"):
        EMA(model, 1.0)


def test_checkpoint_round_trip_keeps_every_type(tmp_path):
    state = {
        "a": torch.arange(6).reshape(2, 3).T,
        "b": [1, 2.5, None, True, "x"],
        3: (torch.zeros(0), {"k": math.pi}),
    }
    save_checkpoint(tmp_path / "c.safetensors", state)
    back = load_checkpoint(tmp_path / "c.safetensors")
    assert torch.equal(back["a"], state["a"])
    assert back["b"] == state["b"]
    assert isinstance(back[3], tuple)
    assert back[3][1] == {"k": math.pi}
    with pytest.raises(CheckpointError, match="cannot store"):
        save_checkpoint(tmp_path / "d.safetensors", {"f": object()})


def test_full_disk_leaves_the_old_checkpoint_whole(tmp_path, monkeypatch):
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, {"n": 1})

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints.os, "fsync", full)
    with pytest.raises(CheckpointError, match="No space left"):
        save_checkpoint(path, {"n": 2})
    monkeypatch.undo()
    assert load_checkpoint(path) == {"n": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["c.safetensors"]


def test_damaged_and_foreign_checkpoints(tmp_path):
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, {"n": torch.zeros(10)})
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(path)
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="not a checkpoint of this version"):
        load_checkpoint(path)
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        load_checkpoint(tmp_path / "absent")


def test_weights_of_another_architecture_are_refused_whole():
    model = nn.Linear(3, 4)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"another architecture.*weight: \(5, 3\) there, \(4, 3\) here"):
        load_weights(model, nn.Linear(3, 5).state_dict(), "x")
    with pytest.raises(CheckpointError, match="absent there: bias"):
        load_weights(model, nn.Linear(3, 4, bias=False).state_dict(), "x")
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
