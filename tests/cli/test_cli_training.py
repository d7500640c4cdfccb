"""`pj list`, `pj train`, `pj compress`, and what holds for every verb."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cli_page import commands

from picojoule.cli import list as list_verb
from picojoule.cli.main import VERBS, main

TINY = ["model.T=1", "train.epochs=2", "data.limit=128"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short finished run."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("cli") / "float"
    assert main(["train", "digits_vgg", *TINY, "--out", str(folder), "--quiet"]) == 0
    return folder


# -- every verb ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", sorted(commands()))
def test_help_has_an_example_and_json(verb: str, capsys) -> None:
    assert main([verb, "--help"]) == 0
    text = capsys.readouterr().out
    assert text.count(f"pj {verb}") >= 2, "the usage line, and an example"
    assert "--json" in text


def test_verbs_are_files_that_import_no_torch() -> None:
    code = "import sys, picojoule.cli.main as m; m.build(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    assert len(commands()) >= len(VERBS)


def test_nothing_given_shows_the_verbs(capsys) -> None:
    main([])
    shown = capsys.readouterr()
    assert all(verb in shown.out + shown.err for verb in VERBS)


def test_unknown_verb_and_option_are_wrong_use(capsys) -> None:
    assert main(["trian"]) == 2
    assert "train" in capsys.readouterr().err
    assert main(["list", "--jsn"]) == 2
    assert "--json" in capsys.readouterr().err


def test_debug_shows_the_traceback_and_is_allowed_anywhere(capsys) -> None:
    assert main(["train", "digit_vgg"]) == 2
    quiet = capsys.readouterr()
    assert "Traceback" not in quiet.err
    assert quiet.err.count("\n") == 1
    assert quiet.out == ""
    for line in (["--debug", "train", "digit_vgg"], ["train", "digit_vgg", "--debug"]):
        assert main(line) == 2
        assert "Traceback" in capsys.readouterr().err


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_completion_of_a_shell() -> None:
    """The script that `--show-completion` prints asks `pj` itself; here both are asked."""
    pj = f"{shlex_quote(sys.executable)} -m picojoule.cli.main"
    env = {**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    shown = subprocess.run(
        ["bash", "-c", f"{pj} --show-completion bash"], capture_output=True, text=True, env=env
    )
    assert shown.returncode == 0, shown.stderr
    assert "complete" in shown.stdout
    assert "_PJ_COMPLETE" in shown.stdout
    env = {**env, "_PJ_COMPLETE": "complete_bash", "COMP_WORDS": "pj tr", "COMP_CWORD": "1"}
    asked = subprocess.run(["bash", "-c", pj], capture_output=True, text=True, env=env)
    assert asked.stdout.split() == ["train"]


def shlex_quote(text: str) -> str:
    import shlex

    return shlex.quote(text)


# -- list ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", list_verb.WHAT)
def test_list_json_holds_names(what: str, capsys) -> None:
    assert main(["list", what, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    names = [row["name"] for row in rows]
    assert len(set(names)) == len(names)
    assert names or what == "packed"
    assert all({"name", "about"} <= row.keys() for row in rows)
    assert main(["list", what]) == 0
    assert f"{what} ({len(rows)})" in capsys.readouterr().out


def test_list_by_pattern(capsys) -> None:
    assert main(["list", "models", "sdt_v3_t*", "--json"]) == 0
    assert {r["name"] for r in json.loads(capsys.readouterr().out)} >= {"sdt_v3_t", "sdt_v3_tiny"}
    assert main(["list", "models", "nothing*", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_list_suggests(capsys) -> None:
    assert main(["list", "modles"]) == 2
    assert "did you mean 'models'?" in capsys.readouterr().err


# -- train ---------------------------------------------------------------------------------------------


def test_train_json_is_one_document(tmp_path: Path, capsys) -> None:
    assert main(["train", "digits_vgg", *TINY, "--out", str(tmp_path / "run"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["epochs"] == 2
    assert found["steps"] == 4
    assert found["stopped"] == "finished"
    assert found["recipe"]["train"]["epochs"] == 2
    assert (
        json.loads((tmp_path / "run" / "result.json").read_text())["test_accuracy"] == found["test_accuracy"]
    )


def test_train_takes_a_file(tmp_path: Path, capsys) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("name: mine\nmodel: {name: spiking_vgg_tiny}\ndata: {name: digits}\ntrain: {epochs: 0}\n")
    assert main(["train", str(file), "--out", str(tmp_path / "run"), "--quiet"]) == 0
    assert "mine: spiking_vgg_tiny on digits" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["digit_vgg"], "did you mean 'digits_vgg'?"),
        (["digits_vgg", "train.epoch=3"], "did you mean 'epochs'?"),
        (["digits_vgg", "model.name=spiking_vg_digits"], "did you mean 'spiking_vgg_digits'?"),
        (["digits_vgg", "data.name=digit"], "did you mean 'digits'?"),
        (["digits_vgg", "compress=w9"], "unknown preset 'w9'"),
        (["digits_vgg", "train.epochs"], "train.epochs=3"),
        (["nowhere.yaml"], "no recipe file 'nowhere.yaml'"),
    ],
)
def test_train_errors_are_one_line_before_anything_is_written(words, told, tmp_path, capsys) -> None:
    assert main(["train", *words, "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr()
    assert told in said.err
    assert said.err.startswith("error: ")
    assert said.out == ""
    assert not list(tmp_path.rglob("*.safetensors"))


def test_resume_needs_to_be_asked_for_and_repeats_nothing(run: Path, capsys) -> None:
    line = ["train", "digits_vgg", *TINY, "--out", str(run)]
    assert main(line) == 2
    assert "--resume" in capsys.readouterr().err
    before = json.loads((run / "result.json").read_text())
    assert main([*line, "--resume", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["test_accuracy"] == before["test_accuracy"]
    assert again["steps"] == before["steps"]


def test_ctrl_c_leaves_a_checkpoint_that_resumes(tmp_path: Path, monkeypatch, capsys) -> None:
    from picojoule.learn import Trainer

    line = ["train", "digits_vgg", *TINY, "--out", str(tmp_path / "run"), "--json"]
    whole, step, calls = (
        ["train", "digits_vgg", *TINY, "--out", str(tmp_path / "whole"), "--json"],
        Trainer.step,
        [],
    )

    def interrupted(self: Trainer) -> None:
        step(self)
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "step", interrupted)
    assert main(line) == 130
    assert "--resume" in capsys.readouterr().err
    monkeypatch.setattr(Trainer, "step", step)
    assert main([*line, "--resume"]) == 0
    resumed = json.loads(capsys.readouterr().out)
    assert main(whole) == 0
    assert resumed["history"] == json.loads(capsys.readouterr().out)["history"]


def test_one_of_several_processes_reports(run: Path, monkeypatch, capsys) -> None:
    from accelerate import Accelerator

    monkeypatch.setattr(Accelerator, "is_main_process", False)
    assert main(["train", "digits_vgg", *TINY, "--out", str(run), "--resume", "--json"]) == 0
    assert capsys.readouterr().out == ""


# -- compress ------------------------------------------------------------------------------------------


def test_compress_by_preset_and_by_plan(run: Path, tmp_path: Path, capsys) -> None:
    assert main(["compress", str(run), "w1", "train.epochs=1", "--out", str(tmp_path / "w1"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["recipe"]["name"] == "digits_vgg_w1"
    assert found["recipe"]["start"] == str(run)
    plan = tmp_path / "mine.yaml"
    plan.write_text("version: 1\nrules:\n- match: '*'\n  weights: {method: lsq, bits: 3}\n")
    assert (
        main(["compress", str(run), str(plan), "train.epochs=1", "--out", str(tmp_path / "p"), "--json"]) == 0
    )
    rule = json.loads(capsys.readouterr().out)["recipe"]["compress"]["rules"][0]
    assert rule["weights"]["bits"] == 3


@pytest.mark.parametrize(
    ("plan", "told"),
    [
        ("w9", "unknown preset 'w9'"),
        ("nowhere.yaml", "there is no plan file 'nowhere.yaml'"),
    ],
)
def test_compress_errors(plan: str, told: str, run: Path, tmp_path: Path, capsys) -> None:
    assert main(["compress", str(run), plan, "--out", str(tmp_path / "out")]) == 2
    assert told in capsys.readouterr().err


def test_compress_needs_a_finished_run(tmp_path: Path, capsys) -> None:
    assert main(["compress", str(tmp_path / "nothing"), "w1"]) == 2
    assert "pj train RECIPE --out" in capsys.readouterr().err


def test_training_keeps_freed_memory_and_the_library_alone_does_not(run: Path, monkeypatch, capsys) -> None:
    from picojoule.core import tune
    from picojoule.learn import Trainer, load_recipe

    asked: list[int] = []
    monkeypatch.setattr(tune, "_keep", lambda size: asked.append(size) or True)
    Trainer(load_recipe("digits_vgg", TINY), run, resume=True, quiet=True)
    assert asked == []
    assert main(["train", "digits_vgg", *TINY, "--out", str(run), "--resume", "--json"]) == 0
    assert asked == [tune.KEEP_BYTES]
    capsys.readouterr()
