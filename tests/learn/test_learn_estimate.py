"""`pj train --estimate`: structure here; `benchmarks/train/estimate.py` compares it with real epochs."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from learn_helpers import digits_recipe

from picojoule.cli.main import main
from picojoule.core.errors import ConfigError, DataError
from picojoule.learn import Trainer, load_recipe
from picojoule.learn.estimate import Estimate, _steps, estimate, measure, peak_bytes
from picojoule.learn.setup import load_data


def test_command_tells_memory_and_time_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "digits_vgg", "model.T=1", "train.epochs=3", "--estimate", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["recipe"] == "digits_vgg"
    # a process that has loaded torch, and no more than the machine of the tests can have
    assert 100 << 20 < found["peak_bytes"] < 16 << 30
    parts = (
        found["batches"] * found["step_seconds"] + found["validation_seconds"] + found["checkpoint_seconds"]
    )
    assert found["epoch_seconds"] == pytest.approx(parts)
    whole = found["setup_seconds"] + 3 * found["epoch_seconds"] + found["test_seconds"]
    assert found["run_seconds"] == pytest.approx(whole)
    assert min(v for k, v in found.items() if k.endswith("seconds")) > 0
    assert not list(tmp_path.iterdir())


def test_measured_figures(tmp_path):
    found = measure(digits_recipe(epochs=4), 9, tmp_path / "run")  # more steps than an epoch has batches
    assert (found.batches, found.epochs, found.device_bytes) == (8, 4, 0)
    assert found.peak_bytes <= peak_bytes()
    assert isinstance(found, Estimate)


def test_a_loss_over_all_steps(tmp_path):
    recipe = digits_recipe(loss={"name": "tet"})
    found = measure(recipe, 1, tmp_path / "run")
    assert found.step_seconds > 0


@pytest.mark.parametrize(("spent", "count"), [(1e-3, 42), (1.0, 10), (0.25, 20)])
def test_as_many_steps_as_their_time_allows(monkeypatch, tmp_path, spent, count):
    """8 to 40 after two warm ones, until five seconds have passed."""
    clock = iter(range(10**6))
    trainer = Trainer(digits_recipe(), tmp_path / "run", quiet=True)
    monkeypatch.setattr(trainer, "_batch", lambda x, y, last: None)
    monkeypatch.setattr("picojoule.learn.estimate.time.perf_counter", lambda: next(clock) * spent)
    assert len(_steps(trainer, None)) == count - 2
    assert len(_steps(trainer, 3)) == 3


def test_refusals_are_those_of_the_recipe(capsys):
    with pytest.raises(ConfigError, match="steps=0"):
        estimate(digits_recipe(), 0)
    assert main(["train", "digits_vgg", "model.name=spiking_vg_digits", "--estimate"]) == 2
    assert "did you mean 'spiking_vgg_digits'?" in capsys.readouterr().err


def test_table_for_people(monkeypatch, capsys):
    made = Estimate(3 << 20, 0, 1.0, 0.25, 2.0, 0.5, 3.0, 40, 10, 1000, 1, "cpu")
    monkeypatch.setattr("picojoule.learn.estimate.estimate", lambda recipe: made)
    assert main(["train", "digits_vgg", "--estimate"]) == 0
    out = capsys.readouterr().out
    assert "3 MiB" in out
    assert "12.5 s: 40 batches of 250.0 ms" in out
    assert "129 s for 10 epochs" in out


def benchmark():
    """benchmarks/train/estimate.py, which runs estimate and epoch in processes of their own."""
    path = Path(__file__).parents[2] / "benchmarks" / "train" / "estimate.py"
    spec = importlib.util.spec_from_file_location("estimate_benchmark", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "digits_vgg",
        "digits_vgg+model.T=16+data.batch=256",
        "digits_vgg+model.T=16+data.batch=256+train.checkpoint=block",
        "digits_vgg_w1+train.spike_aware=true",
        "digits_sdt_v3+train.ema=0.9+train.accumulate=4",
        "fashion_vgg",
        "nmnist_vgg",
        "cifar10_ms_resnet",
    ],
)
def test_peak_memory_within_a_fifth_of_an_epoch(name):
    try:
        load_data(load_recipe(name.partition("+")[0])).train  # noqa: B018
    except DataError as absent:
        pytest.skip(f"{name}: {absent}")
    found = benchmark().compare(name, limit=2000, rounds=1)
    assert abs(found["memory_error"]) <= 0.2, found
