"""What people say of parts: good or defect, who and when. A mark is taken back by another row."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, insert, select

from cflow_ad.errors import StationError
from cflow_ad.station import chain
from cflow_ad.station.database import Database, now
from cflow_ad.station.records import decorate, last_marks
from cflow_ad.station.schema import inspections, marks, sightings


class Marks:
    """The marks of one station.

    Args:
        database: of the station.
        key: seals rows.
    """

    def __init__(self, database: Database, key: bytes) -> None:
        self._database = database
        self._key = key

    def add(
        self,
        numbers: Sequence[str],
        label: str,
        author: str,
        note: str = "",
        *,
        blind: bool = False,
    ) -> tuple[str, list[dict[str, Any]]]:
        """Mark parts.

        The first mark of a part of the random draw counts for the audit if it was given blind: its
        author says so, and was not told the verdict before, see `note_told`.

        Args:
            numbers: ids of inspections.
            label: `good` or `defect`.
            author: who says so.
            note: anything else.
            blind: whether the author saw neither score, verdict nor map.

        Returns:
            The number of this batch, by which it can be undone, and the inspections.

        Raises:
            KeyError: an inspection does not exist.
        """
        batch = str(uuid.uuid4())

        def write(connection: Connection) -> list[dict[str, Any]]:
            rows = _rows(connection, numbers)
            before = {row.seq for row in connection.execute(last_marks(r["seq"] for r in rows))}
            before |= _told(connection, author, [row["seq"] for row in rows])
            new = [
                {
                    "batch": batch,
                    "seq": row["seq"],
                    "label": label,
                    "audit": blind and row["audit"] and row["seq"] not in before,
                    "author": author,
                    "note": note,
                    "time": now(),
                }
                for row in rows
            ]
            chain.append(connection, marks, new, self._key)
            return decorate(connection, rows)

        return batch, self._database.write(write)

    def note_told(self, user: str, items: Sequence[dict[str, Any]]) -> None:
        """Note that a person was told the verdicts of parts.

        Those of the random draw that nobody has marked are blind no more, for this person.

        Args:
            user: the person.
            items: inspections, as `Records.page` gives them.
        """
        seqs = [item["seq"] for item in items if item["audit"] and item["mark"] is None]
        if not seqs:
            return

        def write(connection: Connection) -> None:
            new = set(seqs) - _told(connection, user, seqs)
            if new:
                connection.execute(insert(sightings), [{"seq": seq, "user": user} for seq in new])

        self._database.submit(write)  # a mark of theirs comes later, and is written later

    def undo(self, batch: str, author: str) -> list[dict[str, Any]]:
        """Take back a batch of marks: each part has again the mark that it had before.

        Raises:
            StationError: there is no such batch, or one of its parts was marked again later.
        """

        def write(connection: Connection) -> list[dict[str, Any]]:
            given = connection.execute(select(marks).where(marks.c.batch == batch)).all()
            if not given:
                raise StationError(f"there are no marks {batch}", code="marks.unknown")
            numbers = [row.seq for row in given]
            last = {row.seq: row for row in connection.execute(last_marks(numbers))}
            if any(last[row.seq].id != row.id for row in given):
                text = "a part was marked again later: undo that first"
                raise StationError(text, code="marks.later")
            new = []
            for row in given:
                earlier = connection.execute(
                    select(marks)
                    .where(marks.c.seq == row.seq, marks.c.id < row.id)
                    .order_by(marks.c.id.desc())
                    .limit(1)
                ).one_or_none()
                new.append(
                    {
                        "batch": f"{batch[:30]}-undo",
                        "seq": row.seq,
                        "label": earlier.label if earlier else None,
                        "audit": row.audit,
                        "author": author,
                        "note": "undo",
                        "time": now(),
                    }
                )
            chain.append(connection, marks, new, self._key)
            rows = connection.execute(
                select(inspections).where(inspections.c.seq.in_(numbers))
            ).all()
            return decorate(connection, [dict(row._mapping) for row in rows])

        return self._database.write(write)

    def page(
        self,
        *,
        limit: int = 50,
        before: int | None = None,
        model: str | None = None,
        number: str | None = None,
    ) -> tuple[list[dict[str, Any]], int | None]:
        """List marks, newest first: all, those of one model, or those of one inspection."""
        query = (
            select(
                marks.c.id,
                marks.c.batch,
                inspections.c.id.label("inspection"),
                marks.c.label,
                marks.c.audit,
                marks.c.author,
                marks.c.note,
                marks.c.time,
            )
            .join(inspections, inspections.c.seq == marks.c.seq)
            .order_by(marks.c.id.desc())
            .limit(limit + 1)
        )
        if before is not None:
            query = query.where(marks.c.id < before)
        if model is not None:
            query = query.where(inspections.c.model == model)
        if number is not None:
            query = query.where(inspections.c.id == number)
        with self._database.engine.connect() as connection:
            found = [dict(row._mapping) for row in connection.execute(query)]
        return found[:limit], (found[limit - 1]["id"] if len(found) > limit else None)


def _told(connection: Connection, user: str, seqs: Sequence[int]) -> set[int]:
    """Which of some parts of the draw a person was told the verdict of."""
    query = select(sightings.c.seq).where(sightings.c.user == user, sightings.c.seq.in_(seqs))
    return set(connection.scalars(query))


def _rows(connection: Connection, numbers: Sequence[str]) -> list[dict[str, Any]]:
    wanted = list(dict.fromkeys(numbers))
    found = connection.execute(select(inspections).where(inspections.c.id.in_(wanted))).all()
    if len(found) < len(wanted):
        raise KeyError(min(set(wanted) - {row.id for row in found}))
    return [dict(row._mapping) for row in found]
