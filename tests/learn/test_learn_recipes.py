"""Every shipped recipe in two processes, whole and sharded: a step, and a checkpoint that goes on."""

from __future__ import annotations

import pytest
from test_learn_ddp import job, place
from worker_group import launch
from worker_jobs import runs

from picojoule.core.errors import DataError, MissingExtraError
from picojoule.learn import Trainer, load_recipe, recipe_names

SMALL = ["data.batch=8", "data.limit=24", "train.epochs=1", "train.checkpoint_steps=1"]


@pytest.mark.slow
@pytest.mark.parametrize("name", recipe_names())
def test_recipe_takes_steps_in_two_processes(tmp_path, name):
    recipe = load_recipe(name, SMALL)
    try:
        Trainer(recipe, tmp_path / "probe", quiet=True)
    except (DataError, MissingExtraError) as absent:
        pytest.skip(f"{name}: {absent}")
    jobs = []
    for kind in ("ddp", "fsdp2"):
        values = recipe.to_dict()
        values["train"]["parallel"] = kind
        jobs += [job(tmp_path / kind, values, stop_after=steps, resume=steps > 1) for steps in (1, 2)]
    launch(runs, tmp_path / "group", jobs, seconds=900)  # the larger sets take a while to load
    for kind in ("ddp", "fsdp2"):
        assert (place(tmp_path / kind)["step"], place(tmp_path / kind)["seen"]) == (2, 16)
