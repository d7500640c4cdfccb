"""The code in the guides runs as printed."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import picojoule.layers
import picojoule.models

DOCS = Path(__file__).parents[2] / "docs"


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.S)


def test_your_own_network_runs() -> None:
    (code,) = blocks("your-own-network.md")
    names: dict = {}
    exec(code, names)
    assert names["logits"].shape == (5, 10)
    assert names["stream"].step == 8


def test_models_page_runs_and_states_true_counts() -> None:
    first, _ = blocks("models.md")
    exec(first, {})
    text = (DOCS / "models.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| \S+ \| (\w+) \| (\d+) \| ([\d,]+) \|", text, re.M)
    assert len(rows) > 12
    for name, neuron, T, count in rows:
        model = picojoule.create_model(name)
        assert (model.config.name, model.entry.T) == (neuron, int(T))
        assert sum(p.numel() for p in model.parameters()) == int(count.replace(",", ""))


@pytest.mark.parametrize("room", [picojoule.layers, picojoule.models], ids=["layers", "models"])
def test_examples_in_docstrings(room) -> None:
    tried = 0
    for info in pkgutil.iter_modules(room.__path__, room.__name__ + "."):
        result = doctest.testmod(importlib.import_module(info.name))
        assert result.failed == 0, info.name
        tried += result.attempted
    assert tried > 0
