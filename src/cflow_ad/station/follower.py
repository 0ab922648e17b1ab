"""Follows the record: one thread that sees each inspection once, in order, after its commit."""

from __future__ import annotations

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select

from cflow_ad.station.schema import inspections

if TYPE_CHECKING:
    from cflow_ad.station.station import Station

_LOG = logging.getLogger(__name__)
_AT_ONCE = 200

Listener = Callable[[dict[str, Any]], None]


class Follower:
    """Hands each new inspection to its listeners.

    Args:
        station: of the record.
    """

    def __init__(self, station: Station) -> None:
        self._station = station
        self._listeners: list[Listener] = [station.metrics.note, self._publish, self._apply_rule]
        self._queue: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._rules: dict[str, deque[bool]] = {}
        self._raised: set[str] = set()
        with station.database.engine.connect() as connection:
            self._seq = int(connection.scalar(select(func.max(inspections.c.seq))) or 0)
        self._thread = threading.Thread(target=self._run, name="follower", daemon=True)

    def start(self) -> None:
        """Begin, once all listeners are there."""
        self._thread.start()

    def listen(self, listener: Listener) -> None:
        """Call a function with each new inspection, as `Records.page` gives it."""
        self._listeners.append(listener)

    def hand(self, row: dict[str, Any]) -> None:
        """Hand over a new inspection, in the order of the record."""
        self._queue.put(row)

    def close(self) -> None:
        """Hand over what is there, and stop."""
        self._queue.put(None)
        if self._thread.is_alive():
            self._thread.join(timeout=30)

    def _run(self) -> None:
        while (row := self._queue.get()) is not None:
            try:
                self._catch_up(row["seq"])
            except Exception:  # a database that is away for a while
                _LOG.exception("the record cannot be followed")
            if row["seq"] > self._seq:
                self._hand_over(row)

    def _catch_up(self, seq: int) -> None:
        """Read from the record what was written without being handed over."""
        while self._seq < seq - 1 and (
            rows := self._station.records.after(self._seq, min(_AT_ONCE, seq - 1 - self._seq))
        ):
            for row in rows:
                self._hand_over(row)

    def _hand_over(self, row: dict[str, Any]) -> None:
        self._seq = row["seq"]
        for listener in self._listeners:
            try:
                listener(row)
            except Exception:
                _LOG.exception("a listener failed at inspection %s", row["id"])

    def _publish(self, row: dict[str, Any]) -> None:
        self._station.broadcast.send("inspection", {k: v for k, v in row.items() if k != "regions"})

    def _apply_rule(self, row: dict[str, Any]) -> None:
        """Raise an event where, say, 7 of the last 10 parts of a model are anomalous."""
        name = row["model"]
        rule = self._station.rule(name)
        if rule is None:
            self._rules.pop(name, None)
            return
        last = self._rules.get(name)
        if last is None or last.maxlen != rule["of"]:
            last = self._rules[name] = deque(maxlen=rule["of"])
        last.append(row["is_anomalous"])
        if sum(last) < rule["anomalous"]:
            self._raised.discard(name)
        elif name not in self._raised:
            self._raised.add(name)
            self._station.add_event("rule", {**rule, "count": sum(last), "id": row["id"]}, name)
