"""docs/cli.md has every verb and option, and what it and the quick start tell you to type works."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_page import PAGE, commands, rendered

from picojoule.cli.main import main

RUN = re.compile(r"<!-- run -->\n```console\n(.*?)```", re.S)


def test_every_verb_and_option_is_on_the_page() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert rendered(text) == text, "run: python tests/cli/cli_page.py"
    assert re.findall(r"^## pj (\w+)$", text, re.M) == re.findall(r"<!-- options: (\w+) -->", text)
    assert set(commands()) == set(re.findall(r"^## pj (\w+)$", text, re.M))


def test_every_verb_has_an_example_on_the_page() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for part in text.split("\n## pj ")[1:]:
        verb = part.split()[0]
        assert re.search(rf"```console\n(pj .*\n)*?pj {verb}\b", part), verb


@pytest.mark.parametrize("page", ["cli.md", "quickstart.md"])
def test_commands_of_a_page_work(page: str, tmp_path: Path, monkeypatch, capsys) -> None:
    image = pytest.importorskip("PIL.Image", reason="images need picojoule[images]")
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 1, 8, 8), dtype=np.uint8)
    image.fromarray(pixels[0, 0]).save("digit.png")
    np.save("batch.npy", pixels)
    lines = "".join(RUN.findall((PAGE.parent / page).read_text(encoding="utf-8"))).splitlines()
    assert len(lines) >= 4
    for line in lines:
        words = shlex.split(line)
        assert words[0] == "pj"
        assert main(words[1:]) == 0, f"{line}\n{capsys.readouterr().err}"
