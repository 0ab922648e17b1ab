"""A sink's thread, which sends the messages of the outbox and goes on when something fails."""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from cflow_ad.errors import StationError
from cflow_ad.station.refusal import say
from cflow_ad.station.sinks.outbox import Message, Outbox

if TYPE_CHECKING:
    from cflow_ad.station.station import Station

_LOG = logging.getLogger(__name__)
_LOOK_EVERY = 1.0


class Sink(ABC):
    """A thread with messages of the outbox.

    Args:
        station: whose outbox it is.
    """

    name = ""

    def __init__(self, station: Station) -> None:
        self.station = station
        self.outbox = Outbox(station.database, self.name)
        self.stopping = threading.Event()
        self._thread = threading.Thread(target=self.run, name=self.name, daemon=True)

    def start(self) -> None:
        """Begin; what an earlier start left is sent first."""
        self._thread.start()

    def close(self) -> None:
        """Stop; what is not sent stays."""
        self.stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=15)

    @abstractmethod
    def run(self) -> None:
        """Send until the station stops."""


class OutboxSink(Sink):
    """Sends the messages one after another; each inspection wakes it."""

    def __init__(self, station: Station) -> None:
        super().__init__(station)
        self._wake = threading.Event()
        station.follower.listen(lambda row: self._wake.set())

    def close(self) -> None:
        """Stop; what is not sent stays."""
        self.stopping.set()
        self._wake.set()
        super().close()

    def run(self) -> None:
        """Send until the station stops."""
        while not self.stopping.is_set():
            self._wake.clear()
            try:
                while not self.stopping.is_set() and (messages := self.outbox.due()):
                    for message in messages:
                        if self.stopping.is_set():
                            return
                        self._try(message)
            except Exception:  # the database is away
                _LOG.exception("%s: the outbox cannot be read now", self.name)
            self._wake.wait(_LOOK_EVERY)

    @abstractmethod
    def send(self, message: Message) -> None:
        """Send one message; raises where that fails."""

    @property
    def attempts(self) -> int:
        """Tries of a message before it is given up."""
        return 2**31

    def _try(self, message: Message) -> None:
        try:
            self.send(message)
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            if self.outbox.failed(message, text, self.attempts):
                given_up = StationError(
                    text[:500], code="sink.given_up", sink=self.name, seq=message.seq
                )
                data = {"sink": self.name, "seq": message.seq}
                self.station.add_event("sink", data | say(given_up))
            elif message.attempts == 0:
                _LOG.warning("%s: inspection %d was not sent: %s", self.name, message.seq, text)
        else:
            self.outbox.sent([message])
