"""The command `pj`.

Conventions of every verb: `--json` prints one JSON document on stdout and nothing else there; progress and
errors go to stderr; `--debug` anywhere shows the traceback of an error. Exit codes: 0 done, 2 wrong use or an
error that picojoule explains, 1 any other failure, 130 Ctrl-C.

A verb is a file `picojoule/cli/<verb>.py` with `register(app)` and its name in VERBS. Such a file imports
typer and rich only; the rest of picojoule, and torch, load inside the command.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Sequence

import typer

from picojoule.core.errors import PicojouleError

VERBS = ("list", "train", "pack", "demo", "measure", "inspect", "run", "bench", "doctor")
DONE, FAILED, WRONG, STOPPED = 0, 1, 2, 130


def build() -> typer.Typer:
    """The application with all verbs."""
    app = typer.Typer(
        name="pj",
        help="Spike-driven neural networks: define, train, compress, measure, pack, run.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=True,
    )

    @app.callback()
    def conventions(
        debug: bool = typer.Option(
            False, "--debug", help="Show the traceback of an error (allowed anywhere)."
        ),
    ) -> None:
        """Spike-driven neural networks: define, train, compress, measure, pack, run."""

    for verb in VERBS:
        importlib.import_module(f"picojoule.cli.{verb}").register(app)
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `pj` and return its exit code; used as the console script.

    Args:
        arguments: without the program's name; None takes those of the process.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    command = typer.main.get_command(build())
    try:
        code = command.main([a for a in given if a != "--debug"], prog_name="pj", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        return _say("stopped", STOPPED)
    except PicojouleError as error:
        return _fail(error, WRONG, debug)
    except Exception as error:
        if hasattr(error, "show") and hasattr(error, "exit_code"):  # wrong use, explained by the parser
            error.show()  # type: ignore[attr-defined]
            return WRONG
        return _fail(error, FAILED, debug)
    if code == STOPPED:  # the parser has caught Ctrl-C itself
        return _say("stopped", STOPPED)
    return code if isinstance(code, int) else DONE


def _fail(error: Exception, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exception(error, file=sys.stderr)
        return code
    text = " ".join(str(error).split()) or type(error).__name__
    hint = "" if code == WRONG else " (--debug shows where)"
    name = "" if code == WRONG else f"{type(error).__name__}: "
    return _say(f"{name}{text}{hint}", code)


def _say(text: str, code: int) -> int:
    """One line on stderr, red where there are colours."""
    from rich.console import Console
    from rich.text import Text

    Console(stderr=True, soft_wrap=True).print(Text.assemble(("error: ", "bold red"), text))
    return code


if __name__ == "__main__":
    sys.exit(main())
