"""The record of inspections: written once, and read by the page, the API and the checks."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    and_,
    bindparam,
    exists,
    func,
    insert,
    not_,
    select,
)

from cflow_ad.station import chain
from cflow_ad.station.database import Database
from cflow_ad.station.schema import (
    inspections,
    marks,
    models,
    outbox,
    pictures,
    vectors,
)
from cflow_ad.station.version import count_odds

LARGEST_PAGE = 500
_HIDDEN = ("seal", "request", "threshold_id")

# Built once: they are executed with each inspection.
_KNOWN = select(inspections).where(
    (inspections.c.id == bindparam("number")) | (inspections.c.request == bindparam("request"))
)
_ADD_VECTOR, _ADD_PICTURE, _ADD_MESSAGE = insert(vectors), insert(pictures), insert(outbox)


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which inspections to list; an unset field lets all through."""

    model: str | None = None
    version: int | None = None
    verdict: str | None = None
    """`good` or `anomalous`."""
    mark: str | None = None
    """`good`, `defect`, `any` or `none`: as the last mark says."""
    source: str | None = None
    since: str | None = None
    """ISO time, included."""
    until: str | None = None
    """ISO time, not included."""
    audit: bool | None = None
    with_picture: bool = False


class Records:
    """The record of one station.

    Args:
        database: of the station.
        key: seals rows.
        sinks: names of those that each inspection is sent to.
    """

    def __init__(self, database: Database, key: bytes, sinks: Sequence[str] = ()) -> None:
        self._database = database
        self._key = key
        self._sinks = tuple(sinks)

    def insert(
        self,
        connection: Connection,
        row: dict[str, Any],
        vector: bytes,
        picture: dict[str, Any] | None,
        *,
        is_repeated: bool = False,
    ) -> dict[str, Any]:
        """Write an inspection, with its picture's row and its messages, in one transaction.

        Args:
            connection: in a transaction.
            row: of the table of inspections, without number and seal.
            vector: of the table of vectors.
            picture: of the table of pictures, without the number.
            is_repeated: it was tried before.

        Returns:
            The row as it was stored; an earlier one where its `request` is known already, or where
            this very row was written before its commit's answer was lost.
        """
        if is_repeated or row["request"] is not None:
            known = {"number": row["id"], "request": row["request"]}
            earlier = connection.execute(_KNOWN, known).one_or_none()
            if earlier is not None:
                return dict(earlier._mapping)
        row = dict(row)
        chain.append(connection, inspections, [row], self._key)
        seq, version = row["seq"], row["version"]
        connection.execute(_ADD_VECTOR, {"seq": seq, "version": version, "vector": vector})
        if picture is not None:
            connection.execute(_ADD_PICTURE, {"seq": seq, **picture})
        if self._sinks:
            payload = json.dumps(build_message(row), allow_nan=False)
            connection.execute(
                _ADD_MESSAGE,
                [{"sink": sink, "seq": seq, "payload": payload} for sink in self._sinks],
            )
        return row

    def get(self, number: str) -> dict[str, Any] | None:
        """Return an inspection by its id, as `page` gives them."""
        found = self._fetch(select(inspections).where(inspections.c.id == number))
        return found[0] if found else None

    def page(
        self, wanted: Filter = Filter(), *, limit: int = 50, before: int | None = None
    ) -> tuple[list[dict[str, Any]], int | None]:
        """List inspections, newest first.

        Args:
            wanted: which.
            limit: how many at most.
            before: only those with a smaller `seq`.

        Returns:
            The inspections, and what `before` must be for the next ones; None at the end.
        """
        conditions = _conditions(wanted)
        if before is not None:
            conditions.append(inspections.c.seq < before)
        limit = max(1, min(limit, LARGEST_PAGE))
        found = self._fetch(
            select(inspections)
            .where(and_(True, *conditions))
            .order_by(inspections.c.seq.desc())
            .limit(limit + 1)
        )
        if len(found) <= limit:
            return found, None
        return found[:limit], found[limit - 1]["seq"]

    def after(self, seq: int, limit: int) -> list[dict[str, Any]]:
        """List inspections after a `seq`, oldest first."""
        return self._fetch(
            select(inspections)
            .where(inspections.c.seq > seq)
            .order_by(inspections.c.seq)
            .limit(limit)
        )

    def picture_file(self, number: str) -> str | None:
        """Return where an inspection's picture lies in the folder of pictures, if it is kept."""
        with self._database.engine.connect() as connection:
            return connection.scalar(
                select(pictures.c.file)
                .join(inspections, inspections.c.seq == pictures.c.seq)
                .where(inspections.c.id == number)
            )

    def _fetch(self, query: Select[Any]) -> list[dict[str, Any]]:
        with self._database.engine.connect() as connection:
            rows = [dict(row._mapping) for row in connection.execute(query)]
            return decorate(connection, rows)


def decorate(connection: Connection, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add to rows of the table of inspections their last mark, and whether a picture is kept."""
    numbers = [row["seq"] for row in rows]
    last = {row.seq: row for row in connection.execute(last_marks(numbers))}
    kept = set(connection.scalars(select(pictures.c.seq).where(pictures.c.seq.in_(numbers))))
    versions = {row["version"] for row in rows}
    wanted = select(models.c.id, models.c.n_scores).where(models.c.id.in_(versions))
    sizes = {row.id: row.n_scores for row in connection.execute(wanted)}
    for row in rows:
        mark = last.get(row["seq"])
        row["mark"] = (
            {"label": mark.label, "author": mark.author, "time": mark.time, "audit": mark.audit}
            if mark is not None and mark.label is not None
            else None
        )
        row["has_picture"] = row["seq"] in kept
        row["odds"] = count_odds(row["p_value"], sizes[row["version"]])
        for hidden in _HIDDEN:
            row.pop(hidden)
    return rows


def as_item(
    row: dict[str, Any], odds: dict[str, int] | None, *, has_picture: bool
) -> dict[str, Any]:
    """Make of a new row of the table of inspections what `decorate` would."""
    item = {name: value for name, value in row.items() if name not in _HIDDEN}
    return {**item, "mark": None, "has_picture": has_picture, "odds": odds}


def last_marks(numbers: Iterable[int]) -> Select[Any]:
    """Select the last mark of each of some inspections, given by `seq`."""
    newest = (
        select(func.max(marks.c.id))
        .where(marks.c.seq.in_(list(numbers)))
        .group_by(marks.c.seq)
        .scalar_subquery()
    )
    return select(marks).where(marks.c.id.in_(newest))


def build_message(row: dict[str, Any]) -> dict[str, Any]:
    """Build what sinks send of an inspection."""
    names = ("id", "seq", "time", "station", "source", "model", "version", "sha256", "score")
    names += ("p_value", "threshold", "is_anomalous", "regions", "image_sha256")  # type: ignore[assignment]
    return {name: row[name] for name in names}


def _conditions(wanted: Filter) -> list[ColumnElement[bool]]:
    c = inspections.c
    found: list[ColumnElement[bool]] = []
    if wanted.model is not None:
        found.append(c.model == wanted.model)
    if wanted.version is not None:
        found.append(c.version == wanted.version)
    if wanted.verdict is not None:
        found.append(c.is_anomalous.is_(wanted.verdict == "anomalous"))
    if wanted.source is not None:
        found.append(c.source == wanted.source)
    if wanted.since is not None:
        found.append(c.time >= wanted.since)
    if wanted.until is not None:
        found.append(c.time < wanted.until)
    if wanted.audit is not None:
        found.append(c.audit.is_(wanted.audit))
    if wanted.with_picture:
        found.append(exists().where(pictures.c.seq == c.seq))
    if wanted.mark is not None:
        found.append(has_mark(wanted.mark))
    return found


def has_mark(label: str) -> ColumnElement[bool]:
    """Whether the last mark of an inspection is `good` or `defect`, `any`, or `none`."""
    other = marks.alias()
    of_it = select(func.max(other.c.id)).where(other.c.seq == inspections.c.seq)
    newest = of_it.correlate(inspections).scalar_subquery()
    last = exists().where(marks.c.id == newest, marks.c.label.is_not(None))
    if label == "none":
        return not_(last)
    if label == "any":
        return last
    return exists().where(marks.c.id == newest, marks.c.label == label)
