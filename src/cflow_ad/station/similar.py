"""Parts that look alike, by the mean of the encoder's feature vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from sqlalchemy import select

from cflow_ad.station.records import decorate
from cflow_ad.station.schema import inspections, vectors

if TYPE_CHECKING:
    from cflow_ad.station.station import Station

_LOOKED_AT = 20_000
"""The newest parts of a version that are compared."""


def find_similar(station: Station, number: str, limit: int) -> list[dict[str, Any]]:
    """List the parts of the same version that look most like one, the nearest first.

    Args:
        station: with the record.
        number: an inspection's id.
        limit: how many.

    Returns:
        For each, `inspection` and `distance`, the Euclidean distance of the vectors.
    """
    with station.database.engine.connect() as connection:
        own = connection.execute(
            select(vectors)
            .join(inspections, inspections.c.seq == vectors.c.seq)
            .where(inspections.c.id == number)
        ).one_or_none()
        if own is None:
            return []
        rows = connection.execute(
            select(vectors.c.seq, vectors.c.vector)
            .where(vectors.c.version == own.version, vectors.c.seq != own.seq)
            .order_by(vectors.c.seq.desc())
            .limit(_LOOKED_AT)
        ).all()
        rows = [row for row in rows if len(row.vector) == len(own.vector)]
        if not rows:
            return []
        wanted = np.frombuffer(own.vector, np.float16).astype(np.float32)
        others = np.frombuffer(b"".join(row.vector for row in rows), np.float16)
        distance = np.linalg.norm(others.reshape(len(rows), -1).astype(np.float32) - wanted, axis=1)
        nearest = np.argsort(distance, kind="stable")[:limit]
        seqs = [rows[i].seq for i in nearest]
        found = connection.execute(select(inspections).where(inspections.c.seq.in_(seqs))).all()
        items = {
            item["seq"]: item
            for item in decorate(connection, [dict(row._mapping) for row in found])
        }
    return [{"inspection": items[rows[i].seq], "distance": float(distance[i])} for i in nearest]
