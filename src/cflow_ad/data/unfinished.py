"""Files that another program is still writing."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

_RECENT = 10.0
_QUIET = 1.0
_PATIENCE = 30.0


def wait_for_writers(paths: Iterable[Path], since: float) -> list[Path]:
    """Wait until files that could not be read are complete, and return those to read again.

    These are the files that were changed later than 10 seconds before the time `since`, when
    reading began. Each is waited for until it has not changed for a second, all of them for at most
    30.
    """
    began = time.time()
    young = [path for path in paths if _changed(path) > since - _RECENT]
    while time.time() - began < _PATIENCE:
        if all(time.time() - _changed(path) >= _QUIET for path in young):
            break
        time.sleep(_QUIET / 10)
    return young


def _changed(path: Path) -> float:
    """Return when a file was last changed; 0 for one that is gone."""
    try:
        return min(path.stat().st_mtime, time.time())  # a server's clock may be ahead
    except OSError:
        return 0.0
