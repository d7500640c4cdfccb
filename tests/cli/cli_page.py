"""Tables of options in docs/cli.md; `python tests/cli/cli_page.py` rewrites them from the command itself."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import typer

from picojoule.cli.main import build

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"
TABLE = re.compile(r"<!-- options: (\w+) -->\n.*?<!-- end -->", re.S)


def commands() -> dict[str, Any]:
    """The verbs as the parser knows them."""
    return typer.main.get_command(build()).commands  # type: ignore[attr-defined]


def table(command: Any) -> str:
    """Arguments and options of a verb, with their help."""
    rows = ["| argument or option | meaning |", "|---|---|"]
    for p in command.params:
        if p.name == "help":
            continue
        if p.param_type_name == "argument":
            word = p.name.upper() + ("..." if p.nargs == -1 else "")
            word = word if p.required else f"[{word}]"
        else:
            word = ", ".join(p.opts) + ("" if p.is_flag else f" {p.name.upper()}")
        given = p.default if p.default not in (None, False, "") and not p.required else None
        note = f" Default: `{given}`." if given is not None else ""
        text = (p.help or "").replace("|", "\\|")
        rows.append(f"| `{word}` | {text}{note} |")
    return "\n".join(rows)


def rendered(text: str) -> str:
    """The page with present tables."""
    verbs = commands()
    known = set(TABLE.findall(text))
    for verb in [v for v in verbs if v not in known]:
        about = (verbs[verb].help or "").partition("\n")[0]
        text += f"\n## pj {verb}\n\n{about}\n\n<!-- options: {verb} -->\n<!-- end -->\n"

    def fill(match: re.Match[str]) -> str:
        return f"<!-- options: {match[1]} -->\n{table(verbs[match[1]])}\n<!-- end -->"

    return TABLE.sub(fill, text)


if __name__ == "__main__":
    PAGE.write_text(rendered(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
