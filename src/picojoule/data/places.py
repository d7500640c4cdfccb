"""Where data sets lie: the order of places, checksums, downloads.

Order: an explicit `root`; `$PICOJOULE_DATA`; the system's copy; the user's cache; a download into the cache.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from picojoule.core.errors import DataError

VARIABLE = "PICOJOULE_DATA"
SYSTEM = Path("/usr/share/datasets")
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Remote:
    """A file that can be fetched: its name in the cache, its address and the sha256 of its bytes."""

    file: str
    url: str
    sha256: str


def cache_dir() -> Path:
    """The user's cache of picojoule: `%LOCALAPPDATA%`, `~/Library/Caches` or `$XDG_CACHE_HOME`."""
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "picojoule"


def places(root: str | os.PathLike[str] | None = None) -> list[Path]:
    """Folders to search, first to last; an explicit `root` is the only one when it is given."""
    if root is not None:
        folder = Path(root)
        if not folder.is_dir():
            raise DataError(
                f"root={os.fspath(root)!r} is not a folder; give a folder that holds the data set"
            )
        return [folder]
    found = []
    named = os.environ.get(VARIABLE)
    if named:
        if not Path(named).is_dir():
            raise DataError(f"${VARIABLE} names {named!r}, which is not a folder; correct or unset it")
        found.append(Path(named))
    return [*found, SYSTEM, cache_dir()]


def find(names: Iterable[str], root: str | os.PathLike[str] | None = None) -> Path | None:
    """The first path that exists: places in order, and in each place the names in order."""
    names = list(names)
    for place in places(root):
        for name in names:
            path = place / name
            if path.exists():
                return path
    return None


def sha256(path: Path) -> str:
    """Hexadecimal sha256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_CHUNK):
            digest.update(block)
    return digest.hexdigest()


def verify(path: Path, expected: str) -> Path:
    """The path itself when its sha256 is the expected one.

    Raises:
        DataError: the file differs from the published one.
    """
    found = sha256(path)
    if found != expected:
        raise DataError(
            f"{path}: checksum mismatch (sha256 {found[:16]}..., expected {expected[:16]}...); "
            "the file is damaged or another version: delete it and fetch it again"
        )
    return path


def absent(name: str, how: str, root: str | os.PathLike[str] | None = None) -> DataError:
    """The error of a data set that is in none of the places, with the way to get it."""
    looked = ", ".join(str(place) for place in places(root))
    return DataError(f"data set {name!r} was not found in {looked}; {how}")


def fetch(remote: Remote, folder: Path, *, progress: bool | None = None) -> Path:
    """Download a file with a progress bar, check its sha256, and only then give it its name.

    Args:
        remote: what to fetch.
        folder: where to put it; made when absent.
        progress: show a bar; None shows it when standard error is a terminal.
    Returns:
        The path of the verified file; a verified file that is there already is not fetched again.
    Raises:
        DataError: the address does not answer, the disk is full, or the checksum differs (nothing is kept).
    """
    target = folder / remote.file
    if target.is_file():
        return verify(target, remote.sha256)
    part: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=target.parent, suffix=".part", delete=False) as out:
            part = Path(out.name)
            _copy(remote, out, sys.stderr.isatty() if progress is None else progress)
        verify(part, remote.sha256)
        shutil.move(part, target)
        part = None
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        raise DataError(
            f"could not fetch {remote.url} ({error}); fetch it by other means and put it at {target}"
        ) from error
    finally:
        if part is not None:
            part.unlink(missing_ok=True)
    return target


def _copy(remote: Remote, out, progress: bool) -> None:
    """Stream the address into an open file, with transfer rate and remaining time."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with (
        urllib.request.urlopen(remote.url, timeout=60) as answer,
        Progress(*columns, console=Console(stderr=True), disable=not progress) as bar,
    ):
        length = answer.headers.get("Content-Length")
        task = bar.add_task(f"fetching {remote.file}", total=int(length) if length else None)
        while block := answer.read(_CHUNK):
            out.write(block)
            bar.advance(task, len(block))
