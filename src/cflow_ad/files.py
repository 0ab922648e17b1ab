"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file in the place of an earlier one, which stays as it is until the new one is there.

    Args:
        path: the file; its folder must be there, and it need not.

    Yields:
        Where to write it. At the end of the block it takes its name; if the block raises, nothing
        of it is left. Only a process that is killed leaves it behind.

    Raises:
        OSError: it cannot be put in its place.
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
