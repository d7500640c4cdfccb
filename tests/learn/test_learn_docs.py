"""The page on training names every field, rule, loss and optimizer (tests/test_docs.py runs its examples)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from picojoule.learn.config import LossConfig, Recipe
from picojoule.learn.optim import OPTIMIZERS

PAGE = Path(__file__).parents[2] / "docs" / "training.md"


def fields(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every leaf of a recipe and its default as the page writes it."""
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from fields(kind, f"{prefix}{name}.")
            continue
        default = field.get_default(call_default_factory=True)
        yield prefix + name, "required" if default is PydanticUndefined else f"`{json.dumps(default)}`"


def test_page_holds_every_field_with_its_default_in_order():
    table = PAGE.read_text("utf-8").partition("## Fields of a recipe")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `([\w.]+)` \| ([^|]+) \|", table, re.M) == list(fields(Recipe))


def test_page_names_rules_losses_and_optimizers():
    text = PAGE.read_text("utf-8")
    rules = text.partition("## Learning rules")[2].partition("\n## ")[0]
    # Read from the file: other pages and tests add rules of their own to the registry.
    source = (Path(__file__).parents[2] / "src/picojoule/learn/rules.py").read_text("utf-8")
    shipped = re.findall(r'@RULES.register\("(\w+)"\)', source)
    assert re.findall(r"^\| `(\w+)` \|", rules, re.M) == shipped
    for name in (*get_args(LossConfig.model_fields["name"].annotation), *OPTIMIZERS):
        assert f"`{name}`" in text
