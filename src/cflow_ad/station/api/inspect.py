"""Inspect: pictures in, verdicts out."""

from __future__ import annotations

import asyncio
import base64
import time
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from starlette.datastructures import UploadFile

from cflow_ad.station.api.common import ERRORS, Here, Model, Operator, Plain, example, known, tell
from cflow_ad.station.api.examples import INSPECTION, NO_IMAGE
from cflow_ad.station.drawing import KINDS, draw
from cflow_ad.station.inspector import Inspected
from cflow_ad.station.records import as_item
from cflow_ad.station.refusal import RETRY_SOON, Refusal, code_of, refusal_of
from cflow_ad.station.station import Station

router = APIRouter(prefix="/v1", tags=["inspect"], responses=ERRORS)

_ONE = {
    "requestBody": {
        "required": True,
        "content": {
            "image/*": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"image": {"type": "string", "format": "binary"}},
                    "required": ["image"],
                }
            },
        },
    }
}
_MANY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "image": {
                            "type": "array",
                            "items": {"type": "string", "format": "binary"},
                        }
                    },
                    "required": ["image"],
                }
            }
        },
    }
}

_UNNAMED = "the image"

Include = Annotated[
    str,
    Query(
        max_length=100,
        description="Pictures to put into `images`, as PNG in base 64: any of map, mask, overlay "
        "and heat, with commas between.",
        examples=["overlay,heat"],
    ),
]
Source = Annotated[
    str, Query(max_length=200, description="Where the image comes from, for the record."), Plain
]
RequestKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        max_length=60,
        description="Your own key of this inspection: sent again, it gives the earlier answer.",
    ),
]


@router.post(
    "/models/{model}/inspect",
    summary="Inspect an image",
    openapi_extra=_ONE,
    responses=example(INSPECTION, "The verdict, once its record is written."),
)
async def inspect(
    request: Request,
    station: Here,
    user: Operator,
    model: Model,
    include: Include = "",
    source: Source = "api",
    idempotency_key: RequestKey = None,
) -> dict[str, Any]:
    """Score an image: the body is an image file, or a form with the file in the field `image`."""
    wanted = _parse_include(include)
    name = known(station, model)
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        ((image, data),) = await _files(request, station, 1)
    else:
        image, data = _UNNAMED, await request.body()
    key = None if idempotency_key is None else f"{user.name[:38]}/{idempotency_key}"
    answer = await inspect_image(
        station, data, name, source=source, image=image, request=key, include=wanted
    )
    tell(station, user, answer)
    return answer


@router.post(
    "/models/{model}/inspect/batch",
    summary="Inspect several images",
    openapi_extra=_MANY,
    responses=example({"items": [INSPECTION, NO_IMAGE]}),
)
async def inspect_batch(
    request: Request,
    station: Here,
    user: Operator,
    model: Model,
    include: Include = "",
    source: Source = "api",
) -> dict[str, Any]:
    """Score the images of a form, each in a field `image`; the answers come in their order. An
    image that cannot be used has an `error` in place of an answer.
    """
    wanted = _parse_include(include)
    name = known(station, model)
    files = await _files(request, station, station.config.limits.batch_images)
    room = asyncio.Semaphore(max(1, station.scorers.limit // 4))

    async def one(file: tuple[str, bytes]) -> dict[str, Any]:
        image, data = file
        async with room:
            try:
                return await inspect_image(
                    station, data, name, source=source, image=image, include=wanted
                )
            except Exception as error:  # the others have their records, and so their answers
                refusal = refusal_of(error)
                return {"error": refusal.detail, **code_of(refusal)}

    items = await asyncio.gather(*map(one, files))
    tell(station, user, *(item for item in items if "error" not in item))
    return {"items": items}


async def inspect_image(
    station: Station,
    data: bytes,
    model: str,
    *,
    source: str,
    image: str,
    request: str | None = None,
    include: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Inspect an image, called `image` in errors, and return the answer once its record is written.

    Raises:
        CflowError: the image cannot be used, too many wait, or the record cannot be written.
        Refusal: it takes too long.
    """
    work = station.inspector.inspect(data, model, source=source, name=image, request=request)
    try:
        async with asyncio.timeout(station.config.limits.score_seconds):
            inspected = await asyncio.shield(asyncio.wrap_future(work))
            scored = time.monotonic()
            row = await asyncio.shield(asyncio.wrap_future(inspected.written))
    except TimeoutError:
        raise Refusal(
            503, "no result in time; try again", code="inspect.late", headers=RETRY_SOON
        ) from None
    if row["id"] == inspected.number:
        answer = _answer(row, inspected, scored)
    else:  # the record knew the request's key
        earlier = await asyncio.to_thread(station.records.get, row["id"])
        assert earlier is not None
        answer = earlier
    if include:
        answer["images"] = await asyncio.to_thread(_draw, inspected, include)
    return answer


def _answer(row: dict[str, Any], inspected: Inspected, scored: float) -> dict[str, Any]:
    now = time.monotonic()
    answer = as_item(row, inspected.odds, has_picture=inspected.has_picture)
    answer["latency_ms"] = {
        **row["latency_ms"],
        "record": round(1000 * (now - scored), 3),
        "total": round(1000 * (now - inspected.began), 3),
    }
    return answer


def _draw(inspected: Inspected, include: tuple[str, ...]) -> dict[str, str]:
    return {
        kind: base64.b64encode(draw(kind, inspected.prediction, inspected.pixels)).decode()
        for kind in include
    }


def _parse_include(text: str) -> tuple[str, ...]:
    wanted = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if unknown := [part for part in wanted if part not in KINDS]:
        raise Refusal(
            422,
            f"include: {unknown[0]!r} is none of {', '.join(KINDS)}",
            code="invalid",
            field="include",
        )
    return wanted


async def _files(request: Request, station: Station, limit: int) -> list[tuple[str, bytes]]:
    """Read the names and bytes of the files in a form's fields `image`."""
    async with request.form(
        max_files=limit, max_fields=20, max_part_size=station.config.limits.upload_bytes
    ) as form:
        files = [item for item in form.getlist("image") if isinstance(item, UploadFile)]
        if not files:
            raise Refusal(422, "the form has no file in a field `image`", code="upload.empty")
        return [((file.filename or _UNNAMED)[:200], await file.read()) for file in files]
