"""The routes of drift, under /v1/drift."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Query
from fastapi.responses import Response
from numpy.typing import NDArray
from PIL import Image

from cflow_ad.data.images import read_image
from cflow_ad.evaluation.overlay import to_uint8
from cflow_ad.station.api.common import (
    ERRORS,
    Body,
    Engineer,
    Here,
    Name,
    Operator,
    Plain,
    Reason,
    known,
)
from cflow_ad.station.database import now
from cflow_ad.station.drawing import to_png
from cflow_ad.station.drift.measures import MEASURES
from cflow_ad.station.records import Filter
from cflow_ad.station.refusal import Refusal
from cflow_ad.station.station import Station

router = APIRouter(prefix="/v1/drift", tags=["drift"], responses=ERRORS)

Model = Annotated[str, Query(max_length=100, description="A model's name."), Plain]
_PICTURES = 15  # whose median is shown
_SIDE = 320  # pixels of a median picture's longer side, at most


class Restart(Body):
    """Why a drift test is restarted."""

    model: Name
    reason: Reason


@router.get("", summary="What the drift test says")
def status(station: Here, user: Operator, model: Model) -> dict[str, Any]:
    """Return what the drift test of a model's version in use says."""
    return station.drift.status(known(station, model))


@router.post("/restart", summary="Restart the drift test")
def restart(station: Here, user: Engineer, body: Restart) -> dict[str, Any]:
    """Restart the test: later parts are compared with those from now on."""
    model = known(station, body.model)
    station.drift.restart(model, user.name, body.reason, now())
    return station.drift.status(model)


@router.get("/picture", response_class=Response, summary="How parts looked before and after")
def picture(
    station: Here,
    user: Operator,
    model: Model,
    measure: Literal[tuple(measure.name for measure in MEASURES)],  # type: ignore[valid-type]
    side: Literal["before", "after"],
) -> Response:
    """Return the median of the last pictures before a drift began, or of the last since, as PNG."""
    alarm = station.drift.alarm(known(station, model), measure)
    if alarm is None:
        raise Refusal(404, f"{measure} has not moved", code="drift.steady")
    pictures = _pictures(station, model, alarm.since, side)
    if not pictures:
        text = f"no picture from {side} the change is kept"
        raise Refusal(404, text, code="picture.none")
    median = np.median(pictures, axis=0).astype(np.uint8)
    return Response(to_png(Image.fromarray(median)), media_type="image/png")


def _pictures(station: Station, model: str, since: str, side: str) -> list[NDArray[np.uint8]]:
    """Up to `_PICTURES` pictures of one size, as the model reads them, the newest of their side."""
    version = station.registry.active(model).id
    first = station.records.get(since)
    if first is None:
        return []
    rows, _ = station.records.page(
        Filter(version=version, with_picture=True),
        limit=_PICTURES,
        before=first["seq"] if side == "before" else None,
    )
    if side == "after":
        rows = [row for row in rows if row["seq"] >= first["seq"]]
    found: list[NDArray[np.uint8]] = []
    size = None
    for row in rows:
        path = station.picture_path(row["id"])
        if path is None:
            continue
        small = Image.fromarray(to_uint8(read_image(path, station.registry.reading(version))))
        small.thumbnail((_SIDE, _SIDE), reducing_gap=2)
        size = size or small.size
        found.append(np.asarray(small.resize(size)))
    return found
