"""Follows the record: one thread that sees each inspection once, in order, after its commit."""

from __future__ import annotations

import logging
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
_LOOK_EVERY = 5.0  # seconds, in case that nobody wakes it

Listener = Callable[[dict[str, Any]], None]


class Follower:
    """Hands each new inspection to its listeners.

    Args:
        station: of the record.
    """

    def __init__(self, station: Station) -> None:
        self._station = station
        self._listeners: list[Listener] = [station.metrics.note, self._publish, self._apply_rule]
        self._wake = threading.Event()
        self._closing = False
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

    def wake(self) -> None:
        """Say that there may be new inspections."""
        self._wake.set()

    def close(self) -> None:
        """Hand over what is there, and stop."""
        self._closing = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout=30)

    def _run(self) -> None:
        while True:
            closing = self._closing
            self._wake.clear()
            try:
                while rows := self._station.records.after(self._seq, _AT_ONCE):
                    for row in rows:
                        self._seq = row["seq"]
                        self._hand_over(row)
            except Exception:  # a database that is away for a while
                _LOG.exception("the record cannot be followed")
            if closing:
                return
            self._wake.wait(_LOOK_EVERY)

    def _hand_over(self, row: dict[str, Any]) -> None:
        for listener in self._listeners:
            try:
                listener(row)
            except Exception:
                _LOG.exception("a listener failed at inspection %s", row["id"])

    def _publish(self, row: dict[str, Any]) -> None:
        self._station.publish("inspection", {k: v for k, v in row.items() if k != "regions"})

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
