from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from learn_helpers import digits_recipe

from picojoule.core.errors import CheckpointError, ConfigError, DataError, NonFiniteError, PicojouleError
from picojoule.learn import Trainer, load_checkpoint, make_recipe, train
from picojoule.learn.logs import read_metrics
from picojoule.learn.setup import _check_outputs
from picojoule.models import create_model


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(folder / "weights.safetensors")["model"]


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_learns_digits_and_writes_a_run_folder(tmp_path):
    values = digits_recipe(epochs=6).to_dict()
    values["model"] = {"name": "spiking_vgg_digits", "T": 1, "args": {"neuron": "sfa"}}
    values["data"]["limit"] = None
    model, result = train(make_recipe(values), tmp_path / "run", quiet=True)
    assert result.test_accuracy > 93
    assert not model.training
    files = {p.name for p in (tmp_path / "run").iterdir()}
    assert {"config.yaml", "metrics.jsonl", "result.json", "weights.safetensors", "tensorboard"} <= files
    rows = read_metrics(tmp_path / "run")
    assert [r["epoch"] for r in rows if "epoch" in r] == [1, 2, 3, 4, 5, 6]
    assert json.loads((tmp_path / "run" / "result.json").read_text())["test_samples"] == result.test_samples


def test_same_seed_same_run_other_seed_other_run(tmp_path):
    a = train(digits_recipe(), tmp_path / "a", quiet=True)[1]
    b = train(digits_recipe(), tmp_path / "b", quiet=True)[1]
    train(digits_recipe().model_copy(update={"seed": 1}), tmp_path / "c", quiet=True)
    assert a.history == b.history
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert not same(weights(tmp_path / "a"), weights(tmp_path / "c"))


@pytest.mark.parametrize("rule", ["bptt", "sltt", "sltt_realtime"])
@pytest.mark.parametrize("extra", [{}, {"accumulate": 3, "clip": 1.0, "ema": 0.9}])
def test_every_rule_lowers_the_loss(tmp_path, rule, extra):
    values = digits_recipe(epochs=3, rule=rule, **extra).to_dict()
    values["model"]["T"], values["data"]["limit"] = 2, 128
    recipe = make_recipe(values)
    train(recipe, tmp_path / "run", quiet=True)
    losses = [r["train_loss"] for r in read_metrics(tmp_path / "run") if "epoch" in r]
    assert losses[-1] < losses[0]


def test_realtime_rule_steps_once_a_time_step(tmp_path):
    recipe = digits_recipe(epochs=1, rule="sltt_realtime")
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"T": 3})})
    trainer = Trainer(recipe, tmp_path / "run", quiet=True)
    assert trainer.fit().steps == 3 * trainer.feed.batches


@pytest.mark.parametrize("name", ["tet", "ce"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "lamb"])
def test_losses_and_optimizers_run(tmp_path, name, optimizer):
    recipe = digits_recipe(epochs=1, optimizer=optimizer, loss={"name": name, "label_smoothing": 0.1})
    trainer = Trainer(recipe, tmp_path / "run", quiet=True)
    before = {k: v.clone() for k, v in trainer.raw.state_dict().items()}
    result = trainer.fit()
    assert result.steps == trainer.feed.batches
    assert not same(before, weights(tmp_path / "run"))


def test_accumulation_of_two_half_batches_equals_one_batch(tmp_path):
    """Without BatchNorm's batch statistics (eval mode) the gradients are the same."""
    grads = []
    for batch, accumulate in ((32, 1), (16, 2)):
        recipe = digits_recipe(epochs=1, accumulate=accumulate)
        recipe = recipe.model_copy(
            update={"data": recipe.data.model_copy(update={"batch": batch, "limit": 32})}
        )
        trainer = Trainer(recipe, tmp_path / f"r{batch}", quiet=True)
        trainer.raw.eval()
        kept = []
        trainer.optimizer.step = lambda *_, model=trainer.raw, kept=kept: kept.extend(
            p.grad.clone() for p in model.parameters() if p.grad is not None
        )
        for x, y in trainer.feed.train():
            trainer._batch(x, y, False)
        grads.append(kept)
    assert len(grads[0]) == len(grads[1]) > 0
    for a, b in zip(*grads):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_time_limit_stops_cleanly_and_resumes(tmp_path):
    whole = train(digits_recipe(epochs=2), tmp_path / "whole", quiet=True)[1]
    short = digits_recipe(epochs=2, minutes=1e-9)
    stopped = train(short, tmp_path / "cut", quiet=True)[1]
    assert stopped.stopped == "time limit"
    assert stopped.epochs < 2
    while stopped.stopped == "time limit" and stopped.epochs < 2:
        stopped = train(short, tmp_path / "cut", quiet=True, resume=True)[1]
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "cut"))
    assert stopped.history == whole.history


def test_patience_keeps_the_best_weights(tmp_path):
    result = train(
        digits_recipe(epochs=30, lr=1e-9, patience=2, optimizer="sgd"), tmp_path / "run", quiet=True
    )[1]
    assert result.stopped == "patience"
    assert result.epochs < 30
    assert result.val_accuracy == max(result.history)
    assert same(weights(tmp_path / "run"), load_checkpoint(tmp_path / "run" / "best.safetensors")["model"])


SCRIPT = """
import sys, yaml, torch
torch.set_num_threads(1)
from picojoule.learn import make_recipe, train
train(make_recipe(yaml.safe_load(open(sys.argv[1]))), sys.argv[2], resume=True, quiet=True)
"""


def kills_and_finishes(tmp_path: Path, kills: int, epochs: int, seed: int) -> None:
    """Kill a run `kills` times, each time after one more checkpoint and a random while; then let it end."""
    recipe = digits_recipe(epochs=epochs, checkpoint_steps=3, ema=0.95)
    values = recipe.to_dict()
    values["data"]["augment"] = {"crop": 1, "mixup": 0.2}
    file = tmp_path / "r.yaml"
    file.write_text(yaml.safe_dump(values))
    torch.set_num_threads(1)
    train(make_recipe(values), tmp_path / "whole", quiet=True)
    rng = random.Random(seed)
    killed = 0
    while killed < kills:
        process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(file), str(tmp_path / "cut")])
        seen = tmp_path / "cut" / "checkpoints" / "last.safetensors"
        stamp = seen.stat().st_mtime_ns if seen.exists() else 0
        while process.poll() is None and (seen.stat().st_mtime_ns if seen.exists() else 0) == stamp:
            time.sleep(0.002)
        time.sleep(rng.random() * 0.08)
        process.kill()
        assert process.wait() == -signal.SIGKILL, f"the run ended after {killed} kills; give it more epochs"
        killed += 1
    subprocess.run([sys.executable, "-c", SCRIPT, str(file), str(tmp_path / "cut")], check=True)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "cut"))
    clean = [{k: v for k, v in r.items() if k != "seconds"} for r in read_metrics(tmp_path / "whole")]
    again = [{k: v for k, v in r.items() if k != "seconds"} for r in read_metrics(tmp_path / "cut")]
    assert clean == again


def test_kill_and_resume_is_bit_for_bit(tmp_path):
    kills_and_finishes(tmp_path, kills=2, epochs=10, seed=0)


@pytest.mark.slow
def test_twenty_random_kills(tmp_path):
    kills_and_finishes(tmp_path, kills=20, epochs=80, seed=1)


def test_folder_rules(tmp_path):
    train(digits_recipe(epochs=1), tmp_path / "run", quiet=True)
    with pytest.raises(ConfigError, match="already holds a run"):
        Trainer(digits_recipe(epochs=1), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"started with other settings \(train\.epochs was 1, now 2\)"):
        Trainer(digits_recipe(epochs=2), tmp_path / "run", resume=True)


def test_bad_input_is_told_before_training(tmp_path):
    def refused(error: type[PicojouleError], match: str, **changes):
        base = digits_recipe().to_dict()
        for section, values in changes.items():
            base[section] = {**base[section], **values} if isinstance(values, dict) else values
        with pytest.raises(error, match=match):
            Trainer(make_recipe(base), tmp_path / "r", quiet=True)
        assert not (tmp_path / "r" / "checkpoints" / "last.safetensors").exists()
        for file in (tmp_path / "r").glob("config.yaml"):
            file.unlink()

    refused(ConfigError, "did you mean 'spiking_vgg_tiny'", model={"name": "spiking_vgg_tyni"})
    refused(ConfigError, "did you mean 'digits'", data={"name": "digitz"})
    refused(ConfigError, "use the loss 'ce'", train={"rule": "sltt", "loss": {"name": "tet"}})
    refused(ConfigError, "learning rule", train={"rule": "bppt"})
    refused(ConfigError, "preset", compress="w99")
    refused(DataError, "num_classes", model={"name": "spiking_vgg_tiny", "args": {"num_classes": 7}})
    with pytest.raises(DataError, match=r"cannot take samples of shape \(4, 24\)"):
        _check_outputs(create_model("spiking_vgg_tiny", T=4, mode="frames"), torch.zeros(2, 4, 24), 10)
    refused(CheckpointError, "nothing at", start=str(tmp_path / "absent"))
    train(digits_recipe(epochs=0), tmp_path / "other", quiet=True)
    refused(
        CheckpointError,
        "another architecture",
        model={"name": "spiking_vgg_digits"},
        start=str(tmp_path / "other"),
    )


def test_a_loss_that_is_not_a_number_stops_the_run(tmp_path):
    trainer = Trainer(digits_recipe(), tmp_path / "run", quiet=True)
    with torch.no_grad():
        list(trainer.raw.parameters())[-1].fill_(float("nan"))
    with pytest.raises(NonFiniteError, match=r"loss is nan at step 0.*train\.lr"):
        trainer.fit()


def test_compressed_run_starts_from_a_float_run(tmp_path):
    train(digits_recipe(epochs=2), tmp_path / "float", quiet=True)
    values = {**digits_recipe(epochs=1).to_dict(), "start": str(tmp_path / "float"), "compress": "w1"}
    model, result = train(make_recipe(values), tmp_path / "w1", quiet=True)
    assert result.epochs == 1
    from picojoule.compress import codes_of

    assert any(codes.coding == "sign" for codes in codes_of(model).values())


def test_mixed_precision_trains(tmp_path):
    result = train(
        digits_recipe(epochs=1, precision="bf16", channels_last=False), tmp_path / "run", quiet=True
    )[1]
    assert result.steps > 0
    assert all(torch.isfinite(v).all() for v in weights(tmp_path / "run").values())
