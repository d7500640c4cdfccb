"""docs/errors.md from the cases; `python tests/errors/errors_page.py` rewrites it."""

from __future__ import annotations

import importlib
import tempfile
from pathlib import Path

from error_cases import CASES, PAGE, ROOT, message_of

for _part in ("network", "files", "training", "scaling"):  # in the order of the page
    importlib.import_module(f"error_cases_{_part}")

HEAD = """# Errors

<!-- Written by `python tests/errors/errors_page.py`, which causes each error; the tests compare. -->

What goes wrong, what picojoule says, and what to do. A message names what was given, what is allowed and
what to write instead. On the command line it is one line after `error:`, the exit code is 2, and `--debug`
shows the traceback.

All classes live in `picojoule.core.errors` and derive from `PicojouleError`; most are a `ValueError` as well.
"""


def render() -> str:
    """The page."""
    parts, section = [HEAD], ""
    for one in CASES:
        with tempfile.TemporaryDirectory() as folder:
            name, text = message_of(one, Path(folder).resolve())
        if one.section != section:
            section = one.section
            parts.append(f"\n## {section}\n")
        parts.append(f"\n**{one.situation}**\n\n```text\n{name}: {text}\n```\n\n{one.advice}\n")
    return "".join(parts)


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
    print(f"{len(CASES)} errors in {PAGE.relative_to(ROOT)}")
