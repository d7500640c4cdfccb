"""A progress bar with ETA for a run; silent when output is not wanted."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress


class Progress:
    """One bar over optimizer steps, and one printed line an epoch.

    Args:
        name: of the run.
        total: steps in all.
        done: steps done before, when resumed.
        enabled: False prints nothing.
    """

    def __init__(self, name: str, total: int, done: int = 0, enabled: bool = True) -> None:
        self.enabled = enabled
        self.console = Console(stderr=True)
        self._bar: Any = None
        if enabled:
            self._bar = RichProgress(
                TextColumn("[bold]{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=self.console,
            )
            self._task = self._bar.add_task(name, total=total, completed=done, note="")

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, step: int, loss: float) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step, note=f"loss {loss:.3f}")

    def epoch(self, epoch: int, epochs: int, loss: float, val: float) -> None:
        """Print the line of a finished epoch."""
        if self._bar is not None:
            self._bar.console.print(f"  epoch {epoch:>3}/{epochs}  loss {loss:.4f}  validation {val:.2f} %")
