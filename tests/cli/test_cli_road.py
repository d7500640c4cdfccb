"""The road from a run to a packed file, as `pj pack` and `pj demo` walk it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from picojoule import deploy
from picojoule.cli import demo as demo_verb
from picojoule.cli.main import main
from picojoule.cli.road import gate_samples, open_run, pack_run, raw_inputs
from picojoule.learn import make_recipe, train


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short 1-bit run on the digits."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("runs") / "w1"
    recipe = make_recipe(
        {
            "name": "short",
            "model": {"name": "spiking_vgg_digits", "T": 1, "args": {"neuron": "sfa"}},
            "data": {"name": "digits", "batch": 64},
            "train": {"epochs": 5, "lr": 0.004},
            "compress": "w1",
        }
    )
    train(recipe, folder, quiet=True)
    return folder


def test_pack_writes_a_file_that_runs_without_the_run(run_folder, tmp_path, capsys):
    file = tmp_path / "short.pj"
    assert main(["pack", str(run_folder), "--out", str(file), "--grid", "8", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["parity"] is True
    assert figures["reference_equals_snapped"] is True
    assert figures["accuracy_packed"] > 90
    assert figures["bytes"] == file.stat().st_size
    model = deploy.load(file)
    pixels, labels = raw_inputs(open_run(run_folder))
    assert pixels.dtype == np.uint8
    accuracy = 100 * float((model.predict(pixels) == labels).mean())
    assert accuracy == pytest.approx(figures["accuracy_packed"])
    assert model.card["classes"] == [str(i) for i in range(10)]
    assert model.card["test"]["samples"] == len(labels)


def test_pixels_and_normalised_floats_give_the_same_integers(run_folder):
    """The byte table at the input is the training's normalisation on the input's grid."""
    run = open_run(run_folder)
    packed = pack_run(run, run_folder / "p.pj", grid=6, progress=False)
    plain = packed.graph.replace(
        nodes=tuple(
            type(n)(**{f: getattr(n, f) for f in n.__dataclass_fields__} | {"table": None}) if i == 0 else n
            for i, n in enumerate(packed.graph.nodes)
        )
    )
    from picojoule.graph import reference

    x, _ = run.samples("test", 50)
    pixels = raw_inputs(run)[0][:50]
    a, b = reference.run(packed.graph, pixels), reference.run(plain, x.numpy())
    assert all(np.array_equal(np.asarray(a[k]), np.asarray(b[k])) for k in a)


def test_the_test_split_never_chooses_the_grid(run_folder):
    run = open_run(run_folder)
    x, y = gate_samples(run)
    data = run.task.data
    assert len(x) == len(y) == len(data.val) + len(data.train)
    kept = set(data.val.index.tolist()) | set(data.train.index.tolist())
    assert len(kept) == len(x)


def test_pack_refuses_what_is_no_run(tmp_path, capsys, run_folder):
    assert main(["pack", str(tmp_path)]) == 2
    assert "is no finished run; train one with" in capsys.readouterr().err
    assert main(["pack", str(run_folder), "--grid", "many"]) == 2
    assert "fraction bits or 'search'" in capsys.readouterr().err


def test_demo_walks_the_whole_road_and_does_not_repeat_itself(tmp_path, monkeypatch, capsys):
    plan = {**demo_verb.PLANS["digits"], "models": ("spiking_vgg_digits",), "epochs": 2, "tune": 1}
    plan["data"] = {**plan["data"], "limit": 256}
    monkeypatch.setitem(demo_verb.PLANS, "digits", plan)
    out = tmp_path / "demo"
    assert main(["demo", "--out", str(out), "--threads", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [r["weights"] for r in found["rows"]] == ["float", "w4", "w1"]
    for row in found["rows"][1:]:
        assert row["parity"] is True
        assert row["images_s_native"] > 0
        assert deploy.load(row["file"]).card["name"] == f"spiking_vgg_digits_{row['weights']}"
        assert row["payload_bytes"] < found["rows"][0]["payload_bytes"]
    assert Path(found["report"]).read_text().startswith("<!doctype html>")
    assert main(["demo", "--out", str(out), "--threads", "1"]) == 0
    text = capsys.readouterr()
    assert "train" not in text.err
    assert "spiking_vgg_digits" in text.out
    assert main(["demo", "--data", "digitz"]) == 2
    assert "did you mean 'digits'" in capsys.readouterr().err
