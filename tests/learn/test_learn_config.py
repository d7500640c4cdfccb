from __future__ import annotations

import pytest

from picojoule.core.errors import ConfigError
from picojoule.learn import load_recipe, make_recipe, recipe_names
from picojoule.learn.config import override
from picojoule.learn.setup import restore_readouts, set_readouts

BASE = {"model": {"name": "spiking_vgg_tiny"}, "data": {"name": "digits"}}


def test_unknown_field_suggests_the_nearest():
    with pytest.raises(ConfigError, match=r"train\.epoch'; did you mean 'epochs'"):
        make_recipe({**BASE, "train": {"epoch": 3}})
    with pytest.raises(ConfigError, match="did you mean 'model'"):
        make_recipe({**BASE, "modle": {}})


def test_out_of_range_value_names_the_field():
    with pytest.raises(ConfigError, match=r"train\.lr"):
        make_recipe({**BASE, "train": {"lr": -1}})
    with pytest.raises(ConfigError, match=r"data\.batch"):
        make_recipe({**BASE, "data": {"name": "digits", "batch": 0}})


def test_overrides_reach_nested_fields_and_keep_the_original():
    values = {"train": {"epochs": 1}}
    assert override(values, ["train.epochs=3", "model.args.width=16", "data.augment.flip=true"]) == {
        "train": {"epochs": 3},
        "model": {"args": {"width": 16}},
        "data": {"augment": {"flip": True}},
    }
    assert values == {"train": {"epochs": 1}}
    with pytest.raises(ConfigError, match="cannot read the setting"):
        override(values, ["train.epochs"])
    with pytest.raises(ConfigError, match="is a value, not a section"):
        override(values, ["train.epochs.more=1"])


def test_recipe_survives_a_round_trip(tmp_path):
    import yaml

    recipe = make_recipe({**BASE, "train": {"epochs": 3, "loss": {"name": "tet"}}, "compress": "w1"})
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(recipe.to_dict()))
    assert load_recipe(str(path)) == recipe


def test_shipped_recipes_are_valid():
    assert recipe_names()
    for name in recipe_names():
        assert load_recipe(name).model.name


def test_unknown_recipe_and_bad_files(tmp_path):
    with pytest.raises(ConfigError, match="unknown recipe"):
        load_recipe("no_such_recipe")
    with pytest.raises(ConfigError, match="no recipe file"):
        load_recipe(str(tmp_path / "absent.yaml"))
    bad = tmp_path / "bad.yaml"
    bad.write_text("a: [1")
    with pytest.raises(ConfigError, match="is not YAML"):
        load_recipe(str(bad))
    bad.write_text("- 1\n")
    with pytest.raises(ConfigError, match="must be a mapping"):
        load_recipe(str(bad))


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_takes_a_step(name, tmp_path):
    """Model, data, augmentation, loss, rule and plan of each recipe fit together."""
    from picojoule.core.errors import DataError, MissingExtraError
    from picojoule.learn import Trainer

    recipe = load_recipe(name, ["data.limit=8", "data.batch=8", "data.eval_batch=8", "train.epochs=1"])
    try:
        trainer = Trainer(recipe, tmp_path / "run", quiet=True)
    except (DataError, MissingExtraError) as absent:
        pytest.skip(f"{name}: {absent}")
    x, y = next(iter(trainer.feed.train()))
    modes = set_readouts(trainer.raw, "steps") if trainer.criterion.needs_steps else []
    trainer._batch(x, y, last=True)
    restore_readouts(modes)
    assert trainer.at.step >= 1
    assert trainer.at.seen == 8
