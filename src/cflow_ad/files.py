"""Files that are written whole or not at all, and folders to write to."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from cflow_ad.errors import DataError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file in place of an earlier one, which stays until the new one is complete.

    Args:
        path: The file. Its folder must exist; the file need not.

    Yields:
        Where to write it. At the end of the block it gets its name; if the block raises, it is
        removed. Only a process that is killed leaves it behind.

    Raises:
        OSError: It cannot be put in its place.
    """
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        yield new
        with new.open("r+b") as file:
            os.fsync(file.fileno())  # else a crash could leave the new name on an empty file
        new.replace(path)
    finally:
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)


def require_empty(folder: Path) -> None:
    """Raise a DataError if a folder is a file, or not empty; it need not exist."""
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file; name a folder that is empty or does not exist yet")
    if folder.is_dir() and any(folder.iterdir()):
        raise DataError(
            f"the folder {folder} is not empty; empty it, or name one that is or does not exist yet"
        )


def claim(out: Path) -> None:
    """Make a folder, or check that it is empty.

    Raises:
        DataError: `out` is a file, or a folder that is not empty, or cannot be made.
    """
    require_empty(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{out}: the folder cannot be made ({error.strerror})") from error
