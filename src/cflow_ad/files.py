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
        _flush(new)
        new.replace(path)
    finally:
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Wait for the disk: else a crash could leave the new name on an empty file."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def claim(out: Path) -> None:
    """Make a folder, or check that it is empty.

    Raises:
        DataError: `out` is a file, or a folder that is not empty, or cannot be made.
    """
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file; name a folder that is empty or does not exist yet")
    if out.is_dir() and any(out.iterdir()):
        raise DataError(
            f"the folder {out} is not empty; empty it, or name one that is or does not exist yet"
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{out}: the folder cannot be made ({error.strerror})") from error
