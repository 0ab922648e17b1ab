"""Messages that wait to be sent."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from sqlalchemy import delete, func, select, update

from cflow_ad.station.database import Database
from cflow_ad.station.schema import outbox

_LONGEST_PAUSE = 300.0


class Message(NamedTuple):
    """One message."""

    id: int
    seq: int
    payload: str
    """JSON; see `records.build_message`."""
    attempts: int


class Outbox:
    """The messages of one sink.

    Args:
        database: of the station.
        sink: its name.
    """

    def __init__(self, database: Database, sink: str) -> None:
        self._database = database
        self._sink = sink

    def due(self, limit: int = 100) -> list[Message]:
        """List messages whose time has come, the oldest first."""
        query = (
            select(outbox.c.id, outbox.c.seq, outbox.c.payload, outbox.c.attempts)
            .where(
                outbox.c.sink == self._sink, outbox.c.dead.is_(False), outbox.c.due <= time.time()
            )
            .order_by(outbox.c.id)
            .limit(limit)
        )
        with self._database.engine.connect() as connection:
            return [Message(*row) for row in connection.execute(query)]

    def sent(self, messages: list[Message]) -> None:
        """Forget messages that were sent."""
        gone = delete(outbox).where(outbox.c.id.in_([message.id for message in messages]))
        self._database.write(lambda connection: connection.execute(gone))

    def failed(self, message: Message, error: str, attempts: int) -> bool:
        """Note that a message was not sent; returns whether it is a dead letter now.

        Args:
            message: the message.
            error: why.
            attempts: after so many it is given up.
        """
        done = message.attempts + 1
        values = {
            "attempts": done,
            "due": time.time() + min(_LONGEST_PAUSE, 2.0 ** min(done, 20)),
            "dead": done >= attempts,
            "error": error[:500],
        }
        change = update(outbox).where(outbox.c.id == message.id).values(**values)
        self._database.write(lambda connection: connection.execute(change))
        return done >= attempts


def summarise(database: Database) -> list[dict[str, Any]]:
    """Count for each sink the messages that wait, and the dead letters."""
    query = (
        select(outbox.c.sink, outbox.c.dead, func.count().label("count"), func.max(outbox.c.error))
        .group_by(outbox.c.sink, outbox.c.dead)
        .order_by(outbox.c.sink)
    )
    found: dict[str, dict[str, Any]] = {}
    with database.engine.connect() as connection:
        for sink, dead, count, error in connection.execute(query):
            row = found.setdefault(sink, {"sink": sink, "waiting": 0, "dead": 0, "error": None})
            row["dead" if dead else "waiting"] = count
            row["error"] = error or row["error"]
    return list(found.values())


def revive(database: Database, sink: str) -> int:
    """Send the dead letters of a sink again; returns how many there are."""
    change = (
        update(outbox)
        .where(outbox.c.sink == sink, outbox.c.dead.is_(True))
        .values(dead=False, attempts=0, due=0.0)
    )
    return int(database.write(lambda connection: connection.execute(change).rowcount))
