"""Copy a station's data while it runs."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import tempfile
import time
from pathlib import Path

from cflow_ad.errors import StationError
from cflow_ad.files import link_or_copy
from cflow_ad.station.config import StationConfig


def back_up(config: StationConfig, into: Path, *, with_pictures: bool = False) -> Path:
    """Copy database, key and models, and the pictures if wanted, into a new folder.

    The folder is a folder of data: `cflow-ad serve --data FOLDER` starts from it. Of a PostgreSQL
    database, which has its own tools, only the rest is copied.

    Args:
        config: of the station.
        into: the folder in which the new one is made, named after the time.
        with_pictures: copy them too.

    Raises:
        StationError: it cannot be written.
    """
    folder = into / time.strftime("%Y-%m-%dT%H%M%SZ", time.gmtime())
    try:
        into.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".", suffix=".new", dir=into) as place:
            new = Path(place) / folder.name
            new.mkdir()
            if config.database is None:
                _copy_sqlite(config.data / "station.db", new / "station.db")
            key = new / "station.key"
            key.touch(mode=0o600)
            key.write_bytes((config.data / "station.key").read_bytes())
            for part in ("models", *(("pictures",) if with_pictures else ())):
                if (config.data / part).is_dir():
                    shutil.copytree(config.data / part, new / part, copy_function=_link_if_there)
            new.rename(folder)
    except (OSError, sqlite3.Error) as error:
        raise StationError(f"{folder}: the back-up cannot be written ({error})") from error
    return folder


def _copy_sqlite(source: Path, target: Path) -> None:
    """Copy a database that others may write to, with a state that was committed."""
    with (
        contextlib.closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True)) as old,
        contextlib.closing(sqlite3.connect(target)) as new,
    ):
        old.backup(new)


def _link_if_there(source: str, target: str) -> None:
    """Link or copy a file that never changes; a picture may be deleted meanwhile."""
    with contextlib.suppress(FileNotFoundError):
        link_or_copy(source, target)
