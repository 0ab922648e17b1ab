"""What another threshold would do, by recorded scores, and what the blind audit says.

Only marks that were given blind, to parts drawn at random, say anything about rates: parts that
were reviewed because they were flagged are no sample of all parts, and a threshold that follows
them creeps upwards.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from sqlalchemy import Select, func, select

from cflow_ad.station.drift.audit import AuditMark, audit_rates, suggest_threshold
from cflow_ad.station.drift.intervals import exact_interval
from cflow_ad.station.records import decorate
from cflow_ad.station.schema import inspections, marks

if TYPE_CHECKING:
    from cflow_ad.station.station import Station


def preview_threshold(
    station: Station, name: str, value: float, *, parts: int, show: int
) -> dict[str, Any]:
    """Say what a threshold would do to the last parts of the version in use.

    Args:
        station: with the record.
        name: of the model.
        value: the threshold.
        parts: how many of the last ones.
        show: how many of those whose verdict would change to list, the nearest first.

    Raises:
        KeyError: there is no such model.
    """
    version = station.registry.active(name)
    with station.database.engine.connect() as connection:
        rows = connection.execute(_last(version.id, parts, inspections.c.is_anomalous)).all()
        flips = [row for row in rows if (row.score > value) != row.is_anomalous]
        flips.sort(key=lambda row: abs(row.score - value))
        seqs = [row.seq for row in flips[:show]]
        found = connection.execute(select(inspections).where(inspections.c.seq.in_(seqs))).all()
        items = decorate(connection, [dict(row._mapping) for row in found])
        audit = connection.execute(_marked(version.id, blind=True)).all()
        known = connection.execute(_marked(version.id, blind=False)).all()
    items.sort(key=lambda item: abs(item["score"] - value))
    good = [row.score for row in audit if row.label == "good"]
    missed = [row.score for row in audit if row.label == "defect"]
    defects = [row.score for row in known if row.label == "defect"]
    p_value = version.calibration.compute_p_value(math.nextafter(value, math.inf))
    odds = version.odds(p_value)
    return {
        "value": value,
        "current": version.threshold,
        "n": len(rows),
        "to_anomalous": sum(not row.is_anomalous for row in flips),
        "to_good": sum(row.is_anomalous for row in flips),
        "items": items,
        "false_alarms": _share(sum(s > value for s in good), len(good)),
        "misses": _share(sum(s <= value for s in missed), len(missed)),
        "known_misses": {"count": sum(score <= value for score in defects), "of": len(defects)},
        "calibration": None if odds is None else {"above": odds["count"], "of": odds["of"]},
    }


def list_scores(station: Station, name: str, parts: int) -> dict[str, Any]:
    """List the scores of the calibration set and of the last parts of the version in use.

    Raises:
        KeyError: there is no such model.
    """
    version = station.registry.active(name)
    columns = (inspections.c.id, inspections.c.is_anomalous)
    with station.database.engine.connect() as connection:
        rows = connection.execute(_last(version.id, parts, *columns)).all()
        known = connection.execute(_marked(version.id, blind=False)).all()
    labels = {row.seq: row.label for row in known}
    return {
        "calibration": list(version.calibration.scores),
        "recent": [
            {
                "id": row.id,
                "score": row.score,
                "is_anomalous": row.is_anomalous,
                "mark": labels.get(row.seq),
            }
            for row in rows
        ],
        "threshold": version.threshold,
        "map_threshold": version.map_threshold,
    }


def summarise_audit(station: Station, name: str) -> dict[str, Any]:
    """Say what the blind audit of the version in use found, and which threshold it supports.

    Raises:
        KeyError: there is no such model.
    """
    version = station.registry.active(name)
    with station.database.engine.connect() as connection:
        audit = connection.execute(_marked(version.id, blind=True)).all()
        drawn = connection.scalar(
            select(func.count())
            .select_from(inspections)
            .where(inspections.c.version == version.id, inspections.c.audit)
        )
    rates = audit_rates(
        [AuditMark(row.score > version.threshold, row.label == "defect") for row in audit]
    )
    good = [row.score for row in audit if row.label == "good"]
    return {
        "drawn": drawn,
        "n": len(audit),
        "share": station.config.audit_share,
        **{name: rate.to_dict() for name, rate in rates.items()},
        "suggested_threshold": suggest_threshold(version.calibration, good),
        "false_alarm_rate": version.calibration.false_alarm_rate,
        "n_good": len(version.calibration.scores) + len(good),
    }


def _share(count: int, of: int) -> dict[str, Any]:
    low, high = exact_interval(count, of)
    return {"count": count, "of": of, "rate": count / of if of else None, "low": low, "high": high}


def _last(version: int, parts: int, *columns: Any) -> Select[Any]:
    return (
        select(inspections.c.seq, inspections.c.score, *columns)
        .where(inspections.c.version == version)
        .order_by(inspections.c.seq.desc())
        .limit(parts)
    )


def _marked(version: int, *, blind: bool) -> Select[Any]:
    """Score and label of the marked parts of a version; only blind marks, or all."""
    other = marks.alias()
    last = select(func.max(other.c.id)).where(other.c.seq == marks.c.seq)
    query = (
        select(inspections.c.seq, inspections.c.score, marks.c.label)
        .join(marks, marks.c.seq == inspections.c.seq)
        .where(inspections.c.version == version, marks.c.label.is_not(None))
    )
    if blind:  # what was said before the verdict was in view, unless that was taken back
        query, last = query.where(marks.c.audit), last.where(other.c.audit)
    return query.where(marks.c.id == last.scalar_subquery())
