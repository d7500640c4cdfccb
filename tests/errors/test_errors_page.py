"""docs/errors.md holds the messages as they are; `python tests/errors/errors_page.py` rewrites it."""

from __future__ import annotations

import re

import pytest
import torch
from error_cases import CASES, PAGE, Case, Net, message_of
from error_cases_network import Branching
from errors_page import HEAD

import picojoule
from picojoule.core import errors


@pytest.fixture(scope="module")
def shown() -> dict[str, tuple[str, str]]:
    """Situation -> (message with its class, advice), as the page has them."""
    text = PAGE.read_text(encoding="utf-8")
    found = re.findall(r"^\*\*(.+?)\*\*\n\n```text\n(.*?)\n```\n\n(.*?)(?=\n\n|\n?\Z)", text, re.S | re.M)
    return {situation: (message, advice.strip()) for situation, message, advice in found}


@pytest.mark.parametrize("one", CASES, ids=lambda c: c.situation.rstrip("."))
def test_message_is_the_one_on_the_page(one: Case, shown, tmp_path) -> None:
    name, text = message_of(one, tmp_path.resolve())
    assert shown[one.situation] == (f"{name}: {text}", one.advice), "run: python tests/errors/errors_page.py"


def test_page_holds_each_case_once_in_order(shown) -> None:
    assert list(shown) == [one.situation for one in CASES]
    assert PAGE.read_text(encoding="utf-8").startswith(HEAD)


def test_every_class_of_error_is_shown() -> None:
    classes = {n for n, v in vars(errors).items() if isinstance(v, type) and v.__module__ == errors.__name__}
    text = PAGE.read_text(encoding="utf-8")
    assert {n for n in classes - {"PicojouleError"} if f"\n{n}: " not in text} == set()


def test_a_failed_capture_prints_nothing_of_its_own(capfd) -> None:
    """torch prints a half-made graph where export fails; the user sees the CaptureError alone."""
    with pytest.raises(errors.CaptureError):
        picojoule.capture(Net(Branching()), torch.rand(2, 8))
    assert capfd.readouterr() == ("", "")
