"""What a case of docs/errors.md is, and how its message is taken.

A case does something wrong in an empty folder. The page shows the situation, the message as it comes (without
temporary folders and lines of these files), and what to do.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor, nn

from picojoule import timeline
from picojoule.core.errors import PicojouleError
from picojoule.neurons import LIF

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "errors.md"
GOLDEN = ROOT / "tests" / "deploy" / "golden" / "conv_lif.pj"


class Case(NamedTuple):
    """A situation, what causes its error in a folder, and advice."""

    section: str
    situation: str
    advice: str
    cause: Callable[[Path], Any]


CASES: list[Case] = []
TIME, CAPTURE, FILES, RUNNING = (
    "Time and neurons",
    "Capturing and packing",
    "Packed files",
    "Running packed models",
)
RECIPES, PLANS, DATA, RUNS = "Recipes and models", "Compression plans", "Data", "Runs and checkpoints"


def case(
    section: str, situation: str, advice: str
) -> Callable[[Callable[[Path], Any]], Callable[[Path], Any]]:
    def add(cause: Callable[[Path], Any]) -> Callable[[Path], Any]:
        CASES.append(Case(section, situation, advice, cause))
        return cause

    return add


class Net(nn.Module):
    """[B, 8] or [B, T, 8] -> [B, 3], with a part of the caller's in the middle."""

    def __init__(self, middle: nn.Module | None = None, mode: str = "static", T: int = 4) -> None:
        super().__init__()
        self.entry, self.readout = timeline.Entry(T, mode), timeline.Readout(T)
        self.first, self.neuron, self.head = nn.Linear(8, 8), LIF(T), nn.Linear(8, 3)
        self.middle = middle or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.readout(self.head(self.middle(self.neuron(self.first(self.entry(x))))))


def full_disk() -> Any:
    """A disk that takes no further byte."""

    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return mock.patch("os.fsync", refuse)


def message_of(one: Case, folder: Path) -> tuple[str, str]:
    """Class and text of the error, without what differs between machines.

    Raises:
        AssertionError: nothing was raised.
    """
    torch.manual_seed(0)
    try:
        one.cause(folder)
    except (PicojouleError, OSError) as error:
        text = str(error).replace(f"{folder}{os.sep}", "").replace(str(folder), "FOLDER")
        text = text.replace(str(GOLDEN), "net.pj")
        text = re.sub(r"\.(\w+\.pj)\.[0-9a-f]+\.tmp", r"\1", text)
        return type(error).__name__, re.sub(r"[^\s(,]*error_cases\w*\.py:\d+", "model.py:12", text)
    raise AssertionError(f"{one.situation!r} raises nothing")
