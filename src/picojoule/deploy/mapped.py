"""A packed file as memory of the process: pages are read when touched and shared between processes."""

from __future__ import annotations

import mmap
import os
from typing import BinaryIO

from picojoule.core.errors import FormatError


class Mapped:
    """A file mapped for reading, with a stamp that tells when it is no longer the file that was opened.

    Args:
        handle: an open file of at least one byte.
    """

    def __init__(self, handle: BinaryIO) -> None:
        self.path, self._handle = handle.name, os.dup(handle.fileno())
        self.raw = mmap.mmap(self._handle, 0, access=mmap.ACCESS_READ)
        self._stamp = self._look()

    def _look(self) -> tuple[int, int]:
        found = os.fstat(self._handle)
        return found.st_size, found.st_mtime_ns

    def check(self) -> None:
        """Refuse to read on in a file that was written to or cut: weights would differ, or pages be gone.

        Raises:
            FormatError: names the file.
        """
        if self._look() != self._stamp:
            raise FormatError(
                f"{os.fspath(self.path)}: was changed while it was mapped; load it again. Replace packed "
                "files by renaming (picojoule.pack does), or load with mmap=False"
            )

    def __del__(self) -> None:
        if hasattr(self, "_handle"):
            os.close(self._handle)


__all__ = ["Mapped"]
