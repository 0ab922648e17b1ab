"""The queue of parts that a person should look at: anomalous, near the threshold, or drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, and_, exists, func, not_, or_, select

from cflow_ad.station.records import decorate, has_mark
from cflow_ad.station.schema import inspections, pictures, sightings

if TYPE_CHECKING:
    from cflow_ad.station.station import Station

_BLIND = ("id", "seq", "time", "model", "version", "width", "height", "has_picture")


def list_queue(
    station: Station, user: str, kind: str, *, model: str | None, limit: int, before: int | None
) -> dict[str, Any]:
    """List unmarked parts whose picture is kept, newest first.

    A part of the random draw comes without its verdict, whatever it is: who judges it must not
    know. Where this person was told it already, the part is one as any other.

    Args:
        station: with the record.
        user: who looks through it.
        kind: `all`, `anomalous`, `near` or `audit`.
        model: only this one's.
        limit: how many.
        before: only those with a smaller `seq`.
    """
    near = station.config.retention.near
    told = exists().where(sightings.c.seq == inspections.c.seq, sightings.c.user == user)
    blind = and_(inspections.c.audit, not_(told))
    kinds = _kinds(near, blind)
    base = [
        exists().where(pictures.c.seq == inspections.c.seq),
        has_mark("none"),
    ]
    if model is not None:
        base.append(inspections.c.model == model)
    wanted = or_(*kinds.values()) if kind == "all" else kinds[kind]
    place = [] if before is None else [inspections.c.seq < before]
    query = (
        select(inspections, blind.label("blind"))
        .where(and_(*base, wanted, *place))
        .order_by(inspections.c.seq.desc())
        .limit(limit + 1)
    )
    counts = select(
        *(
            select(func.count()).where(and_(*base, condition)).scalar_subquery().label(name)
            for name, condition in kinds.items()
        )
    )
    with station.database.engine.connect() as connection:
        rows = [dict(row._mapping) for row in connection.execute(query)]
        items = decorate(connection, rows[:limit])
        found = dict(connection.execute(counts).one()._mapping)
    return {
        "items": [_for_queue(item) for item in items],
        "next": items[-1]["seq"] if len(rows) > limit else None,
        "counts": found,
    }


def _for_queue(item: dict[str, Any]) -> dict[str, Any]:
    if item.pop("blind"):
        return {name: item[name] for name in _BLIND} | {"kind": "audit"}
    return {**item, "kind": "anomalous" if item["is_anomalous"] else "near"}


def _kinds(near: float, blind: ColumnElement[bool]) -> dict[str, ColumnElement[bool]]:
    c = inspections.c
    distance = func.abs(c.score - c.threshold)
    return {
        "anomalous": and_(c.is_anomalous, not_(blind)),
        "near": and_(not_(c.is_anomalous), not_(blind), distance <= near * func.abs(c.threshold)),
        "audit": blind,
    }
