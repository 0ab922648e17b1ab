"""A watched folder: each image in it is inspected once, when it is whole.

A file is whole when size and time of change are the same in two looks. What was inspected is known
by the record: each file's name, size and time are the key of its inspection. A file that cannot be
read is tried again when it changes.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from cflow_ad.data.listing import is_image
from cflow_ad.errors import ImageError, StationError
from cflow_ad.station.config import Folder
from cflow_ad.station.refusal import say
from cflow_ad.station.sources.inspecting import choose_model, inspect_patiently

if TYPE_CHECKING:
    from cflow_ad.station.station import Station

_LOG = logging.getLogger(__name__)
_DONE = "inspected"

Stamp = tuple[int, int]


class WatchedFolder:
    """Watches a folder in a thread.

    Args:
        station: inspects.
        config: which folder, and what becomes of images.

    Raises:
        StationError: it is no folder, or its model is unclear.
    """

    def __init__(self, station: Station, config: Folder) -> None:
        self._station = station
        self._config = config
        self._folder = Path(config.folder).expanduser()
        if not self._folder.is_dir():
            raise StationError(f"{self._folder}: this is no folder; make it, or change `folders`")
        self._model = choose_model(station, config.model, str(self._folder))
        self._seen: dict[str, Stamp] = {}
        self._done: dict[str, Stamp] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="folder", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """Stop."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=30)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self.look()
            except OSError as error:
                _LOG.warning("%s: the folder cannot be read (%s)", self._folder, error)
            except Exception:
                _LOG.exception("%s: the folder cannot be watched now", self._folder)
            self._stopping.wait(self._config.every)

    def look(self) -> None:
        """Look once, and inspect what is whole and new, the oldest first."""
        found: dict[str, Stamp] = {}
        with os.scandir(self._folder) as entries:
            for entry in entries:
                is_hidden = entry.name.startswith(".")  # as a writer calls what is not whole
                if is_image(Path(entry.name)) and not is_hidden and entry.is_file():
                    with contextlib.suppress(FileNotFoundError):
                        status = entry.stat()
                        found[entry.name] = (status.st_mtime_ns, status.st_size)
        whole = [
            name
            for name, stamp in found.items()
            if stamp[1] > 0 and self._seen.get(name) == stamp and self._done.get(name) != stamp
        ]
        self._seen = found
        self._done = {name: stamp for name, stamp in self._done.items() if name in found}
        for name in sorted(whole, key=lambda name: (found[name], name)):
            if self._stopping.is_set():
                return
            self._inspect(name, found[name])

    def _inspect(self, name: str, stamp: Stamp) -> None:
        path = self._folder / name
        key = hashlib.sha256(f"{path.absolute()}|{stamp}".encode()).hexdigest()
        try:
            data = path.read_bytes()
        except OSError as error:  # gone, or open in another program; the next files are not
            _LOG.warning("%s: it cannot be read now (%s)", path, error.strerror)
            return
        try:
            row = inspect_patiently(
                self._station,
                data,
                self._model,
                source=f"folder {self._folder}",
                name=name,
                request=f"folder/{key}",
                stopping=self._stopping,
            )
        except ImageError as error:
            self._done[name] = stamp
            self._station.add_event("folder", say(error), self._model)
            return
        if row is None:
            return
        self._done[name] = stamp
        if self._config.after == "delete":
            path.unlink(missing_ok=True)
        elif self._config.after == "move":
            target = self._folder / _DONE / name
            target.parent.mkdir(exist_ok=True)
            if target.exists():  # an earlier picture of this name
                target = target.with_stem(f"{target.stem}-{stamp[0]}")
            path.replace(target)
