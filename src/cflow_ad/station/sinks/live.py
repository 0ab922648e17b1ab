"""The last verdict of the present, for OPC UA and Modbus.

The heartbeat rises once a second as long as the station can inspect, and stops when it
cannot; then the verdict is `NONE`. A line must take a heartbeat that has stopped for a fault, and
never silence for a good part.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import threading
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cflow_ad.errors import StationError, optional_library
from cflow_ad.station.config import Modbus, OpcUa
from cflow_ad.station.refusal import say

if TYPE_CHECKING:
    from cflow_ad.station.station import Station

_LOG = logging.getLogger(__name__)
NONE, GOOD, ANOMALOUS = 0, 1, 2
_EVERY = 0.1


@dataclass(frozen=True, slots=True)
class Live:
    """What a line reads."""

    heartbeat: int = 0
    verdict: int = NONE
    """`NONE`, `GOOD` or `ANOMALOUS`."""
    seq: int = 0
    """Number of the inspection: it rises with each one."""
    score: float = 0.0
    threshold: float = 0.0
    p_value: float = -1.0
    """-1 where it is not known."""
    id: str = ""


class LiveSink(ABC):
    """A server in a thread with an event loop of its own.

    Args:
        station: whose verdicts it shows.
        config: where to listen.

    Raises:
        DependencyError: its library is not installed.
    """

    name = ""
    library = ""
    """What it serves with."""

    def __init__(self, station: Station, config: Modbus | OpcUa) -> None:
        with optional_library():
            importlib.import_module(self.library)
        self.station = station
        self.config = config
        self._row: dict[str, Any] | None = None
        self._beats = 0
        self._beat_at = 0.0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        station.follower.listen(self._on_inspection)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """Stop."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=15)

    @property
    def live(self) -> Live:
        """The values of the present."""
        can_inspect = self.station.problem() is None
        now = time.monotonic()
        if can_inspect and now - self._beat_at >= 1.0:
            self._beats, self._beat_at = (self._beats + 1) % 65536, now
        row = self._row
        if row is None or not can_inspect:
            return Live(self._beats)
        return Live(
            self._beats,
            ANOMALOUS if row["is_anomalous"] else GOOD,
            row["seq"],
            row["score"],
            row["threshold"],
            -1.0 if row["p_value"] is None else row["p_value"],
            row["id"],
        )

    @abstractmethod
    async def serve(self) -> None:
        """Serve until `stopped`."""

    async def tick(self) -> bool:
        """Wait a moment; returns whether to go on."""
        await asyncio.sleep(_EVERY)
        return not self._stopping.is_set()

    def _on_inspection(self, row: dict[str, Any]) -> None:
        self._row = row

    def _run(self) -> None:
        told = ""
        while not self._stopping.is_set():
            try:
                asyncio.run(self.serve())
            except Exception as error:
                _LOG.exception("%s: the server stopped", self.name)
                stopped = StationError(str(error)[:500], code="sink.stopped", sink=self.name)
                if told != str(stopped):  # its port may stay in use for days
                    self.station.add_event("sink", {"sink": self.name, **say(stopped)})
                told = str(stopped)
                self._stopping.wait(10)
