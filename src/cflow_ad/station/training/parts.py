"""Parts of the record in a training: good ones to learn, and marked ones to compare models on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cflow_ad.errors import StationError
from cflow_ad.files import link_or_copy
from cflow_ad.station.records import Filter
from cflow_ad.station.version import Version

if TYPE_CHECKING:
    from cflow_ad.station.station import Station

_FEWEST = 4  # images to train on
_COMPARED = 500  # marked parts


def link_good_parts(
    station: Station,
    model: str,
    folder: Path,
    *,
    since: str | None = None,
    until: str | None = None,
    limit: int = 1000,
) -> None:
    """Collect the pictures of parts that were marked good, the newest first, in a new folder.

    Raises:
        StationError: they are too few to train on.
    """
    folder.mkdir()
    wanted = Filter(model=model, mark="good", with_picture=True, since=since, until=until)
    before, left = None, limit
    while left > 0:
        rows, before = station.records.page(wanted, limit=min(left, 500), before=before)
        for row in rows:
            path = station.picture_path(row["id"])
            if path is not None:
                link_or_copy(path, folder / path.name)
        left -= len(rows)
        if before is None:
            break
    if len(list(folder.iterdir())) < _FEWEST:
        raise StationError(
            f"fewer than {_FEWEST} parts of {model} are marked good and have a picture; mark "
            "more in the review, or pick a folder",
            code="training.few",
            n=_FEWEST,
            model=model,
        )


def list_marked_parts(station: Station, version: Version) -> list[dict[str, Any]]:
    """List the newest parts of a model that people have marked, with what a version says of them;
    None where another version scored them.
    """
    wanted = Filter(model=version.name, mark="any", with_picture=True)
    rows, _ = station.records.page(wanted, limit=_COMPARED)
    parts = []
    for row in rows:
        score = row["score"] if row["version"] == version.id else None
        parts.append(
            {
                "id": row["id"],
                "label": row["mark"]["label"],
                "picture": str(station.picture_path(row["id"])),
                "old_score": score,
                "old_anomalous": None if score is None else score > version.threshold,
            }
        )
    return parts


def summarise(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Count what the old and the new model say of parts that are marked good, and defect."""
    items = [{k: v for k, v in part.items() if k != "picture"} for part in parts]
    summary = {}
    for label in ("good", "defect"):
        of = [part for part in items if part["label"] == label]
        summary[label] = {
            "of": len(of),
            "old_anomalous": sum(part["old_anomalous"] for part in of),
            "new_anomalous": sum(part["new_anomalous"] for part in of),
        }
    return {"items": items, "summary": summary}
