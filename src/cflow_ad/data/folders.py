"""Folders to write to."""

from __future__ import annotations

from pathlib import Path

from cflow_ad.errors import DataError


def claim(out: Path) -> None:
    """Make a folder, or see that it is empty.

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
