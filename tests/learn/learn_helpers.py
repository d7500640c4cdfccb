"""A small task on the embedded digits, shared by the tests of the training room."""

from __future__ import annotations

from typing import Any

from picojoule.learn import Recipe, make_recipe


def digits_recipe(**train: Any) -> Recipe:
    return make_recipe(
        {
            "model": {"name": "spiking_vgg_tiny"},
            "data": {"name": "digits", "batch": 32, "limit": 256},
            "train": {"epochs": 2, "lr": 0.004, **train},
        }
    )
