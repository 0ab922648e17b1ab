"""The record, the review queue and the marks."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response
from pydantic import ConfigDict, Field

from cflow_ad.data.images import read_image
from cflow_ad.station.api.common import (
    ERRORS,
    Body,
    Cursor,
    Here,
    Limit,
    Number,
    Operator,
    Plain,
    Text,
    Time,
    example,
    tell,
)
from cflow_ad.station.api.examples import INSPECTION
from cflow_ad.station.drawing import draw, shrink_to_jpeg
from cflow_ad.station.pictures import media_type
from cflow_ad.station.records import Filter
from cflow_ad.station.refusal import Refusal
from cflow_ad.station.review import list_queue
from cflow_ad.station.similar import find_similar

router = APIRouter(prefix="/v1", tags=["record"], responses=ERRORS)

_FOREVER = {"Cache-Control": "private, max-age=86400, immutable"}
_Time = Annotated[
    str | None, Query(max_length=40, description="ISO 8601; without a zone, UTC."), Time
]


class MarksIn(Body):
    """Marks for one or more parts."""

    ids: list[Annotated[str, Field(max_length=36), Plain]] = Field(min_length=1, max_length=500)
    label: Literal["good", "defect"]
    note: Text = ""
    blind: bool = Field(
        default=False, description="Whether whoever marked them saw neither score, verdict nor map."
    )

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"ids": [INSPECTION["id"]], "label": "good"}]}
    )


class UndoIn(Body):
    """A batch of marks."""

    batch: Annotated[str, Field(max_length=36), Plain]


@router.get(
    "/inspections",
    summary="List inspections, newest first",
    responses=example({"items": [INSPECTION], "next": 1841}),
)
def list_inspections(
    station: Here,
    user: Operator,
    limit: Limit = 50,
    cursor: Cursor = None,
    model: Annotated[str | None, Query(max_length=100), Plain] = None,
    version: Annotated[int | None, Query(ge=0, le=2**53)] = None,
    verdict: Literal["good", "anomalous"] | None = None,
    mark: Literal["good", "defect", "any", "none"] | None = None,
    source: Annotated[str | None, Query(max_length=200), Plain] = None,
    since: _Time = None,
    until: _Time = None,
    audit: bool | None = None,
    with_picture: bool = False,
) -> dict[str, Any]:
    """List inspections. `next` is the `cursor` of the next page, null at the end."""
    wanted = Filter(
        model=model,
        version=version,
        verdict=verdict,
        mark=mark,
        source=source,
        since=since,
        until=until,
        audit=audit,
        with_picture=with_picture,
    )
    items, following = station.records.page(wanted, limit=limit, before=cursor)
    tell(station, user, *items)
    return {"items": items, "next": following}


@router.get("/inspections/{number}", summary="One inspection", responses=example(INSPECTION))
def get_inspection(station: Here, user: Operator, number: Number) -> dict[str, Any]:
    """Return an inspection."""
    found = station.records.get(number)
    if found is None:
        raise _unknown(number)
    tell(station, user, found)
    return found


@router.get("/inspections/{number}/picture", response_class=Response, summary="Its picture")
def get_picture(station: Here, user: Operator, number: Number) -> Response:
    """Return the picture as it came, if it is kept."""
    path = station.picture_path(number)
    if path is None:
        raise _no_picture()
    return Response(path.read_bytes(), media_type=media_type(path), headers=_FOREVER)


@router.get("/inspections/{number}/thumbnail", response_class=Response, summary="Its thumbnail")
def get_thumbnail(station: Here, user: Operator, number: Number) -> Response:
    """Return the picture, shrunk, as JPEG."""
    row, path = station.records.get(number), station.picture_path(number)
    if row is None or path is None:
        raise _no_picture()
    pixels = read_image(path, station.registry.reading(row["version"]))
    return Response(shrink_to_jpeg(pixels), media_type="image/jpeg", headers=_FOREVER)


@router.get("/inspections/{number}/similar", summary="Parts that look like it")
def get_similar(
    station: Here,
    user: Operator,
    number: Number,
    limit: Annotated[int, Query(ge=1, le=100)] = 12,
) -> dict[str, Any]:
    """List earlier parts of the same version by how near their mean feature vectors are."""
    if station.records.get(number) is None:
        raise _unknown(number)
    items = find_similar(station, number, limit)
    tell(station, user, *(item["inspection"] for item in items))
    return {"items": items}


@router.get("/inspections/{number}/marks", summary="Its marks")
def get_marks_of(station: Here, user: Operator, number: Number) -> dict[str, Any]:
    """List who said what of a part, newest first."""
    return {"items": station.marks.page(number=number, limit=500)[0], "next": None}


@router.get(
    "/inspections/{number}/{kind}",
    response_class=Response,
    summary="Its map, mask or outline",
)
def get_drawing(
    station: Here,
    user: Operator,
    number: Number,
    kind: Literal["heat", "map", "mask", "overlay"],
) -> Response:
    """Score the kept picture again with the model of then, and draw the result as PNG."""
    try:
        row, prediction, pixels = station.inspector.score_kept(number)
    except KeyError:
        raise _no_picture() from None
    tell(station, user, row)
    return Response(draw(kind, prediction, pixels), media_type="image/png", headers=_FOREVER)


@router.get("/review", summary="The review queue")
def get_queue(
    station: Here,
    user: Operator,
    kind: Literal["all", "anomalous", "near", "audit"] = "all",
    model: Annotated[str | None, Query(max_length=100), Plain] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> dict[str, Any]:
    """List unmarked parts: anomalous, near the threshold, or of the random draw (without their
    verdict).
    """
    return list_queue(station, user.name, kind, model=model, limit=limit, before=cursor)


@router.post("/marks", summary="Mark parts as good or defect")
def add_marks(station: Here, user: Operator, body: MarksIn) -> dict[str, Any]:
    """Mark parts. `batch` undoes it."""
    try:
        batch, items = station.marks.add(
            body.ids, body.label, user.name, body.note, blind=body.blind
        )
    except KeyError as error:
        raise _unknown(error.args[0]) from None
    station.broadcast.send("mark", {"items": [{"id": i["id"], "mark": i["mark"]} for i in items]})
    return {"batch": batch, "items": items}


@router.post("/marks/undo", summary="Take marks back")
def undo_marks(station: Here, user: Operator, body: UndoIn) -> dict[str, Any]:
    """Take a batch of marks back."""
    items = station.marks.undo(body.batch, user.name)
    station.broadcast.send("mark", {"items": [{"id": i["id"], "mark": i["mark"]} for i in items]})
    return {"items": items}


@router.get("/marks", summary="List marks, newest first")
def list_marks(
    station: Here,
    user: Operator,
    model: Annotated[str | None, Query(max_length=100), Plain] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> dict[str, Any]:
    """List who marked what."""
    items, following = station.marks.page(limit=limit, before=cursor, model=model)
    return {"items": items, "next": following}


def _unknown(number: str) -> Refusal:
    return Refusal(404, f"there is no inspection {number}", code="part.unknown")


def _no_picture() -> Refusal:
    text = "there is no such inspection, or its picture is not kept"
    return Refusal(404, text, code="picture.none")
