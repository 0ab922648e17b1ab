"""The routes of drift, under /v1/drift."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Depends
from fastapi.responses import Response
from PIL import Image
from pydantic import BaseModel, Field

from cflow_ad.station.api.common import known
from cflow_ad.station.database import now
from cflow_ad.station.drift.measures import MEASURES
from cflow_ad.station.permission import User, require
from cflow_ad.station.records import Filter
from cflow_ad.station.refusal import Refusal

if TYPE_CHECKING:
    from cflow_ad.station.station import Station

_PICTURES = 15  # whose median is shown
_SIDE = 320  # pixels of a median picture's longer side, at most


class Restart(BaseModel, extra="forbid"):
    """Why a drift test begins anew."""

    model: str
    reason: str = Field(min_length=3, max_length=2000)


def build_router(station: Station) -> APIRouter:
    """Make the routes of drift."""
    router = APIRouter(prefix="/v1/drift", tags=["drift"])

    @router.get("", dependencies=[Depends(require("operator"))])
    def status(model: str) -> dict[str, Any]:
        """What the drift test of a model's version in use says."""
        return station.drift.status(known(station, model))

    @router.post("/restart")
    def restart(
        values: Restart, user: Annotated[User, Depends(require("engineer"))]
    ) -> dict[str, Any]:
        """Begin anew: later parts are compared with those from now on."""
        model = known(station, values.model)
        station.drift.restart(model, user.name, values.reason, now())
        return station.drift.status(model)

    @router.get("/picture", dependencies=[Depends(require("operator"))])
    def picture(
        model: str,
        measure: Literal[tuple(measure.name for measure in MEASURES)],  # type: ignore[valid-type]
        side: Literal["before", "after"],
    ) -> Response:
        """The median of the last pictures before a drift began, or of the last since, as PNG."""
        alarm = station.drift.alarm(known(station, model), measure)
        if alarm is None:
            raise Refusal(404, f"{measure} has not moved", code="drift.steady")
        pictures = _pictures(station, model, alarm.since, side)
        if not pictures:
            text = f"no picture from {side} the change is kept"
            raise Refusal(404, text, code="picture.none")
        out = io.BytesIO()
        Image.fromarray(np.median(pictures, axis=0).astype(np.uint8)).save(out, "PNG")
        return Response(out.getvalue(), media_type="image/png")

    return router


def _pictures(station: Station, model: str, since: str, side: str) -> list[np.ndarray[Any, Any]]:
    """Up to `_PICTURES` pictures of one size, the newest of their side."""
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
    found: list[np.ndarray[Any, Any]] = []
    size = None
    for row in rows:
        path = station.picture_path(row["id"])
        if path is None:
            continue
        with Image.open(path) as image:
            image.draft("RGB", (_SIDE, _SIDE))
            small = image.convert("RGB")
        if size is None:
            small.thumbnail((_SIDE, _SIDE))
            size = small.size
        found.append(np.asarray(small.resize(size)))
    return found
