"""README.md, docs/speed.md and docs/training-speed.md hold the figures of the committed benchmark files, and
no others."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def load(room: str):
    path = ROOT / "benchmarks" / room / "table.py"
    spec = importlib.util.spec_from_file_location(f"{room}_table", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def table():
    return load("engine")


@pytest.fixture(scope="module")
def training():
    return load("train")


@pytest.mark.parametrize("page", ["README.md", "docs/speed.md"])
def test_page_holds_what_the_files_give(table, page):
    text = (ROOT / page).read_text()
    assert "<!-- engine:" in text
    assert table.filled(text) == text, "run `python benchmarks/engine/table.py`"


def test_stale_figures_are_seen(table):
    stale = "<!-- engine:goals -->\n| a guess |\n<!-- /engine:goals -->"
    assert table.filled(stale) != stale


def test_every_region_stands_on_a_page(table):
    text = "".join(page.read_text() for page in table.PAGES)
    assert [name for name in table.REGIONS if f"<!-- engine:{name} -->" not in text] == []


def test_numbers_keep_three_digits(table):
    assert [table.number(v) for v in (12345.6, 12.345, 0.12345, 0.012345)] == [
        "12,346",
        "12.3",
        "0.123",
        "0.0123",
    ]


def test_training_page_holds_what_the_files_give(training):
    text = training.PAGES[0].read_text()
    assert training.filled(text) == text, "run `python benchmarks/train/table.py`"
    assert [name for name in training.REGIONS if f"<!-- train:{name} -->" not in text] == []


def test_training_tables_without_any_file(training, monkeypatch, tmp_path):
    monkeypatch.setattr(training, "RESULTS", tmp_path)
    assert {make() for make in training.REGIONS.values()} == {training.MISSING}
