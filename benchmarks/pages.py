"""Tables in Markdown pages, between markers: what the scripts `table.py` share.

A region begins with `<!-- PREFIX:NAME -->` and ends with `<!-- /PREFIX:NAME -->`; what stands between is
replaced.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def number(value: float) -> str:
    """Three digits, thousands with commas."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value >= 1 else f"{value:.3f}" if value >= 0.1 else f"{value:.4f}"


def machine_line(found: Mapping[str, Any], packages: tuple[str, ...]) -> str:
    """Where and when, in one sentence."""
    if "machine" not in found:
        return "Not measured yet."
    m = found["machine"]
    shown = [f"{k} {v}" for k, v in m["versions"].items() if k in packages]
    sets = ", ".join(m["instruction_sets"])
    return f"{m['date']}, {m['cpu']} ({sets}), {m['cores']} cores; {', '.join(shown)}."


def fill(text: str, prefix: str, regions: Mapping[str, Callable[[], str]]) -> str:
    """The text with every region of this prefix written anew."""

    def region(match: re.Match[str]) -> str:
        name = match[1]
        return f"<!-- {prefix}:{name} -->\n{regions[name]()}\n<!-- /{prefix}:{name} -->"

    return re.sub(rf"<!-- {prefix}:([a-z-]+) -->\n.*?<!-- /{prefix}:\1 -->", region, text, flags=re.S)


def rewrite(paths: tuple[Path, ...], filled: Callable[[str], str]) -> None:
    """Write the pages anew and say which have changed."""
    for page in paths:
        text = page.read_text()
        page.write_text(filled(text))
        print(page.name, "changed" if filled(text) != text else "as it was")
