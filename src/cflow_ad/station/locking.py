"""One station for a folder of data, and its secret key."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import IO

from cflow_ad.errors import StationError


class Lock:
    """Holds a folder for this process; a process that dies lets go of it.

    Args:
        folder: made if it does not exist.

    Raises:
        StationError: another process holds it, or it cannot be used.
    """

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = (folder / "station.lock").open("a+", encoding="utf-8")
        except OSError as error:
            raise StationError(
                f"{folder}: the folder of data cannot be used ({error.strerror}); choose another"
            ) from error
        if not try_lock(self._file):
            self._file.close()
            raise StationError(
                f"{folder}: another station uses this folder; stop it, or choose another with "
                "--data"
            )

    def release(self) -> None:
        """Let go."""
        self._file.close()


def try_lock(file: IO[str]) -> bool:
    """Lock an open file for as long as it stays open; False where another process has it."""
    try:
        if os.name == "nt":
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def is_free(path: Path) -> bool:
    """Return whether no process holds a file's lock."""
    try:
        with path.open("a+", encoding="utf-8") as file:
            return try_lock(file)
    except OSError:
        return True


def read_secret(path: Path) -> bytes:
    """Read the station's secret key, which seals records and signs cookies; made at first.

    Raises:
        StationError: it cannot be read or made.
    """
    try:
        if not path.exists():
            new = path.with_suffix(".new")
            new.unlink(missing_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
            with os.fdopen(os.open(new, flags, 0o600), "wb") as file:
                file.write(secrets.token_bytes(32))
                file.flush()
                os.fsync(file.fileno())
            new.replace(path)
        key = path.read_bytes()
    except OSError as error:
        raise StationError(f"{path}: the station's key cannot be read ({error})") from error
    if len(key) != 32:
        raise StationError(f"{path}: damaged: the station's key has 32 bytes; restore the back-up")
    return key
