"""The programs in examples/ run, and say what they should; shortened by --epochs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "examples"
# File -> words of its last lines.
SAID = {
    "01_train_and_pack.py": ("of 360 test digits",),
    "02_stream.py": ("after row 8", "row by row equals all at once, bit for bit"),
    "03_own_neuron.py": (
        "forgetful trains and measures",
        "the packed class equals the reference interpreter",
    ),
    "04_compress_to_one_bit.py": ("ternary", "w1", "binary, 1 bit"),
    "05_events.py": ("of test bars", "are seen to move the other way"),
}


def test_every_example_is_run() -> None:
    assert {p.name for p in FOLDER.glob("*.py")} == set(SAID)


@pytest.mark.parametrize("name", sorted(SAID))
def test_example(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(FOLDER / name), "--epochs", "1"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    for words in SAID[name]:
        assert words in done.stdout, done.stdout
