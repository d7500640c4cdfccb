"""The record of a run: JSON lines, cut back on resume, and TensorBoard."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from picojoule.core.errors import need_extra
from picojoule.learn.checkpoint import write_atomic


class RunLog:
    """Appends rows to `metrics.jsonl` and to TensorBoard's event files in the run's folder.

    Args:
        folder: the run.
        resume_step: drop rows after this optimizer step, which a killed run may have left; None starts anew.
        tensorboard: also write event files.
    """

    def __init__(self, folder: Path, resume_step: int | None = None, tensorboard: bool = True) -> None:
        self.path = folder / "metrics.jsonl"
        if resume_step is None:
            self.path.unlink(missing_ok=True)
        elif self.path.exists():
            kept = [line for line in self._lines() if json.loads(line)["step"] <= resume_step]
            write_atomic(self.path, "".join(line + "\n" for line in kept).encode())
        self._board: Any = None
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise need_extra("tensorboard", "train") from error
            purge = None if resume_step is None else resume_step + 1
            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=purge)

    def _lines(self) -> list[str]:
        """Whole lines only: a kill may have cut the last one."""
        found = []
        for line in self.path.read_text().splitlines():
            try:
                json.loads(line)
            except json.JSONDecodeError:
                break
            found.append(line)
        return found

    def write(self, step: int, **values: Any) -> None:
        """One row; numbers also go to TensorBoard."""
        with open(self.path, "a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        if self._board is not None:
            for key, value in values.items():
                if isinstance(value, int | float) and not isinstance(value, bool):
                    self._board.add_scalar(key, value, step)

    def close(self) -> None:
        """Flush and close the event file."""
        if self._board is not None:
            self._board.close()


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """All rows of a run."""
    path = folder / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
