"""Models and their versions as the API shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select

from cflow_ad.station.registry import AS_CALIBRATED, GIVEN_AS, PROMOTED_IN
from cflow_ad.station.schema import model_changes, models, thresholds

if TYPE_CHECKING:
    from cflow_ad.station.station import Station

REASONS = {
    AS_CALIBRATED: "reason.calibrated",
    GIVEN_AS: "reason.given",
    PROMOTED_IN: "reason.promoted",
}
"""How the reasons begin that the station gives itself, and their codes."""


def describe_model(station: Station, name: str) -> dict[str, Any]:
    """Describe a model and the version in use.

    Raises:
        KeyError: there is no such model.
    """
    version = station.registry.active(name)
    with station.database.engine.connect() as connection:
        row = connection.execute(
            select(thresholds).where(thresholds.c.id == version.threshold_id)
        ).one()
        count = connection.scalar(select(func.count()).where(models.c.name == name))
    return {
        "name": name,
        "version": version.id,
        "sha256": version.sha256,
        "threshold": version.threshold,
        "map_threshold": version.map_threshold,
        "threshold_row": _plain(row._mapping),
        "calibration": {
            name: value
            for name, value in version.calibration.to_dict().items()
            if name not in ("scores", "peaks")
        },
        "n_versions": count,
        "ready": station.problem() is None,
        "rule": station.rule(name),
    }


def list_versions(station: Station, name: str) -> list[dict[str, Any]]:
    """List the versions of a model, newest first."""
    active = station.registry.active(name).id
    with station.database.engine.connect() as connection:
        rows = connection.execute(
            select(models).where(models.c.name == name).order_by(models.c.id.desc())
        ).all()
    return [
        {
            "version": row.id,
            "sha256": row.sha256,
            "created": row.created,
            "origin": row.origin,
            "active": row.id == active,
            "threshold": row.threshold,
            "about": row.about,
        }
        for row in rows
    ]


def list_changes(station: Station, name: str) -> list[dict[str, Any]]:
    """List which version of a model came into use when, newest first."""
    with station.database.engine.connect() as connection:
        rows = connection.execute(
            select(model_changes)
            .where(model_changes.c.name == name)
            .order_by(model_changes.c.id.desc())
        ).all()
    return [_change(row._mapping) for row in rows]


def list_thresholds(station: Station, name: str) -> list[dict[str, Any]]:
    """List the thresholds of all versions of a model, newest first."""
    with station.database.engine.connect() as connection:
        rows = connection.execute(
            select(thresholds)
            .join(models, models.c.id == thresholds.c.version)
            .where(models.c.name == name)
            .order_by(thresholds.c.id.desc())
        ).all()
    return [_change(row._mapping) for row in rows]


def _change(row: Any) -> dict[str, Any]:
    """A change; its reason has a code where the station gave it."""
    for begin, code in REASONS.items():
        if row["reason"].startswith(begin):
            values = {"origin": row["reason"].removeprefix(begin)}
            return {**_plain(row), "code": code, "values": values}
    return _plain(row)


def _plain(row: Any) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in ("seal", "name")}
