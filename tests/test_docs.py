"""What the documentation says is true: examples run, links resolve, nothing names a machine of ours."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import yaml

import picojoule
from picojoule.core.errors import DataError, MissingExtraError
from picojoule.core.registry import Registry

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("**/*.md"))
GUIDES = [*PAGES, ROOT / "README.md"]
NOT_RUN = re.compile(r"<!-- not run: (.+?) -->\s*\Z")
NEEDS_DATA = re.compile(r"<!-- needs data -->\s*\Z")
MOST_NOT_RUN = 8  # of all pages together


class Block(NamedTuple):
    """A fenced block: the line it starts at, its code, why it is not run, whether it reads data sets."""

    line: int
    code: str
    not_run: str | None
    needs_data: bool


def blocks(text: str, language: str = "python") -> list[Block]:
    found = []
    for match in re.finditer(rf"^```{language}\n(.*?)^```", text, re.S | re.M):
        before = text[: match.start()]
        reason = NOT_RUN.search(before)
        line = before.count("\n") + 2
        found.append(Block(line, match[1], reason[1] if reason else None, bool(NEEDS_DATA.search(before))))
    return found


def page_id(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.fixture
def registries() -> Iterator[None]:
    """What a page registers is forgotten afterwards, so that no other test meets it."""
    from picojoule import compress, data, learn, models, neurons

    known = [v for room in (compress, data, learn, models, neurons) for v in vars(room).values()]
    known += [importlib.import_module("picojoule.models._registry").MODELS]
    kept = [(r, dict(r._entries), dict(r._tags)) for r in known if isinstance(r, Registry)]
    yield
    for registry, entries, tags in kept:
        registry._entries, registry._tags = entries, tags


# -- examples ------------------------------------------------------------------------------------------


def modules() -> list[str]:
    found = pkgutil.walk_packages(picojoule.__path__, "picojoule.")
    return [m.name for m in found if not m.name.rpartition(".")[2].startswith("_native")]


def test_examples_in_docstrings() -> None:
    """Every `>>>` in the package; a module whose optional package is absent is passed over."""
    tried, failed = 0, []
    for name in modules():
        try:
            module = importlib.import_module(name)
        except (MissingExtraError, ModuleNotFoundError) as absent:
            if str(absent.name).startswith("picojoule"):
                raise
            continue
        torch.manual_seed(0)
        result = doctest.testmod(module)
        tried += result.attempted
        if result.failed:
            failed.append(name)
    assert not failed
    assert tried > 40


@pytest.mark.parametrize("page", [p for p in GUIDES if blocks(p.read_text("utf-8"))], ids=page_id)
def test_python_of_a_page_runs(page: Path, tmp_path, monkeypatch, registries) -> None:
    """All blocks of a page, in order, in one namespace and an empty folder."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    names: dict = {"__name__": f"docs_{page.stem.replace('-', '_')}"}
    for block in blocks(page.read_text("utf-8")):
        if block.not_run:
            continue
        # Padding makes line numbers of a traceback those of the page.
        code = compile("\n" * (block.line - 1) + block.code, page_id(page), "exec")
        try:
            exec(code, names)
        except DataError as absent:
            if block.needs_data and "was not found" in str(absent):
                pytest.skip(f"a data set of this page is not here: {absent}")
            raise


def test_few_blocks_are_not_run() -> None:
    reasons = [b.not_run for page in GUIDES for b in blocks(page.read_text("utf-8")) if b.not_run]
    assert len(reasons) <= MOST_NOT_RUN, reasons


# -- pages and links -----------------------------------------------------------------------------------


def anchors(text: str) -> set[str]:
    """Anchors that the headings of a page get."""
    heads = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.S | re.M), re.M)
    plain = [re.sub(r"[^\w\s-]", "", re.sub(r"`", "", head).lower()).strip() for head in heads]
    return {re.sub(r"[\s-]+", "-", head) for head in plain}


@pytest.mark.parametrize("page", [*GUIDES, ROOT / "CONTRIBUTING.md"], ids=page_id)
def test_links_resolve(page: Path) -> None:
    text = page.read_text("utf-8")
    prose = re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        found = (page.parent / file).resolve() if file else page
        assert found.exists(), f"{page.name} links to {target}"
        if anchor and found.suffix == ".md":
            assert anchor in anchors(found.read_text("utf-8")), f"{page.name} links to {target}"


def test_every_page_is_in_the_navigation() -> None:
    # mkdocs' own tags (!!python/name) are nothing that safe_load knows; the navigation uses none.
    lines = (ROOT / "mkdocs.yml").read_text("utf-8").partition("\nnav:")[2]
    assert lines, "mkdocs.yml has no nav"
    listed: set[str] = set()

    def walk(item) -> None:
        if isinstance(item, str):
            listed.add(item)
        for child in item.values() if isinstance(item, dict) else item if isinstance(item, list) else ():
            walk(child)

    walk(yaml.safe_load("nav:" + lines)["nav"])
    assert listed == {p.relative_to(ROOT / "docs").as_posix() for p in PAGES}


def test_nothing_names_the_machine_it_was_made_on() -> None:
    ours, scratch = "/" + "work/", "/" + "tmp/"
    folders = ("src", "native", "docs", "examples", "scripts", "tests", "benchmarks", ".ci")
    ends = {".py", ".md", ".yaml", ".yml", ".toml", ".cpp", ".h", ".hpp", ".json", ".html", ".txt", ""}
    files = [p for f in folders for p in (ROOT / f).rglob("*") if p.is_file() and p.suffix in ends]
    files += [
        p
        for p in ROOT.iterdir()
        if p.is_file() and (p.suffix in {".md", ".toml", ".yml"} or p.name == "Makefile")
    ]
    wrong = []
    for path in files:
        text = path.read_text("utf-8", errors="ignore")
        if ours in text or (scratch in text and "tests" not in path.parts):
            wrong.append(page_id(path))
    assert not wrong


# -- the front door ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", picojoule.__all__)
def test_every_public_name_loads(name: str) -> None:
    found = getattr(picojoule, name)
    assert found is not None
    # An empty folder imports as a namespace package here and is absent from a clone.
    assert getattr(found, "__file__", "") is not None
    assert name in dir(picojoule)


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'packs'"):
        picojoule.packs  # noqa: B018
