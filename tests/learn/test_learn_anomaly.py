"""NaN and infinity are reported with the qualified name of the layer in which they are born."""

from __future__ import annotations

import pytest
import torch
from learn_helpers import digits_recipe
from torch import nn

from picojoule.cli.main import main
from picojoule.core.errors import NonFiniteError
from picojoule.learn import Trainer, checkpoint_, named_anomalies
from picojoule.learn.setup import prepare
from picojoule.models import create_model


class Root(nn.Module):
    def forward(self, x):
        return (x - x.detach()).abs().sqrt()  # the slope at 0 is 0 times infinity


def net() -> nn.Module:
    return create_model("spiking_vgg_tiny", T=2)


def test_weights_and_result_are_as_without():
    torch.manual_seed(0)
    model, x = net(), torch.rand(4, 1, 8, 8)
    model(x).sum().backward()
    before = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    with named_anomalies(model):
        model(x).sum().backward()
    assert all(torch.equal(a, p.grad) for a, p in zip(before, model.parameters()))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_input():
    x = torch.rand(4, 1, 8, 8)
    x[2, 0, 1, 1] = float("nan")
    with named_anomalies(model := net()), pytest.raises(NonFiniteError, match=r"input.*NaN in rows \[2\]"):
        model(x)


@pytest.mark.parametrize("mode", ["none", "block"])
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_weight(value, mode):
    model = checkpoint_(net(), mode)
    with torch.no_grad():
        model.features[2].conv.weight[0, 0, 0, 0] = float(value)
    word = "NaN" if value == "nan" else "infinity"
    with (
        named_anomalies(model),
        pytest.raises(NonFiniteError, match=rf"features\.2\.conv \(Conv2d\).*its weight holds {word}"),
    ):
        model(torch.rand(4, 1, 8, 8))


def test_statistics_of_a_norm():
    model = net().eval()
    model.features[0].norm.running_var.fill_(float("nan"))
    with named_anomalies(model), pytest.raises(NonFiniteError, match=r"features\.0\.norm.*running_var holds"):
        model(torch.rand(4, 1, 8, 8))


def test_layer_that_makes_infinity_from_finite_numbers():
    model = nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.Identity(), nn.Linear(3, 2)))
    with torch.no_grad():
        model[1][1].weight.fill_(3e38)
    with named_anomalies(model), pytest.raises(NonFiniteError, match=r"layer 1\.1 \(Linear\).*largest input"):
        model(10 + torch.rand(2, 3))


def test_gradient_born_in_a_layer():
    model = nn.Sequential(nn.Linear(3, 3), Root(), nn.Linear(3, 2))
    with named_anomalies(model), pytest.raises(NonFiniteError, match=r"born in 1:"):
        model(torch.rand(2, 3)).sum().backward()
    with named_anomalies(model, backward=False):
        model(torch.rand(2, 3)).sum().backward()


def test_gradient_born_in_the_loss():
    model = nn.Linear(3, 1)
    with named_anomalies(model), pytest.raises(NonFiniteError, match="the loss"):
        (model(torch.rand(2, 3)) * 0).sqrt().sum().backward()


def test_trainer_names_the_layer(tmp_path):
    task = prepare(recipe := digits_recipe(detect_anomaly=True))
    with torch.no_grad():
        task.model.features[2].norm.bias.fill_(float("nan"))
    trainer = Trainer(recipe, tmp_path / "run", quiet=True, task=task)
    with pytest.raises(NonFiniteError, match=r"features\.2\.norm \(BatchNorm2d\).*step 0"):
        trainer.fit()


def test_option_of_the_command(tmp_path, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(Trainer, "fit", lambda self: seen.append(self.recipe.train.detect_anomaly) or 1 / 0)
    line = ["train", "digits_vgg", "--out", str(tmp_path / "run"), "-q", "--detect-anomaly"]
    assert main(line) == 1
    assert seen == [True]
