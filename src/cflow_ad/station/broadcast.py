"""News for the pages that are open."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from typing import Any

_ROOM = 500
"""News that may wait for one reader; of a slower one the oldest are lost."""


class ClosedError(Exception):
    """The station stops."""


class Reader:
    """One page's news.

    Args:
        loop: in which it is read.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._queue: asyncio.Queue[tuple[str, dict[str, Any]] | None] = asyncio.Queue(_ROOM)

    async def next(self, seconds: float) -> tuple[str, dict[str, Any]] | None:
        """Wait for news: kind and values; None where there are none in time.

        Raises:
            ClosedError: the station stops.
        """
        try:
            item = await asyncio.wait_for(self._queue.get(), seconds)
        except TimeoutError:
            return None
        if item is None:
            raise ClosedError
        return item

    def put(self, item: tuple[str, dict[str, Any]] | None) -> None:
        """Hand over news, from any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._put, item)

    def _put(self, item: tuple[str, dict[str, Any]] | None) -> None:
        if self._queue.full():
            self._queue.get_nowait()
        self._queue.put_nowait(item)


class Broadcast:
    """Hands news to all readers."""

    def __init__(self) -> None:
        self._readers: set[Reader] = set()
        self._lock = threading.RLock()  # a signal may call `close` in the thread that holds it

    @contextlib.contextmanager
    def reader(self) -> Iterator[Reader]:
        """Read from now to the end of the block; in an event loop."""
        reader = Reader(asyncio.get_running_loop())
        with self._lock:
            self._readers.add(reader)
        try:
            yield reader
        finally:
            with self._lock:
                self._readers.discard(reader)

    def send(self, kind: str, values: dict[str, Any]) -> None:
        """Send to all readers, from any thread."""
        self._all((kind, values))

    def close(self) -> None:
        """End all readers."""
        self._all(None)

    def _all(self, item: tuple[str, dict[str, Any]] | None) -> None:
        with self._lock:
            readers = list(self._readers)
        for reader in readers:
            reader.put(item)
