"""Cameras: their newest picture, and an inspection of it."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any

from fastapi import APIRouter, Path, Response

from cflow_ad.data.images import as_image
from cflow_ad.station.api.common import ERRORS, Here, Operator, Plain, tell
from cflow_ad.station.api.inspect import inspect_image
from cflow_ad.station.drawing import shrink_to_jpeg
from cflow_ad.station.refusal import RETRY_SOON, Refusal, refuse
from cflow_ad.station.sources.camera import CameraThread
from cflow_ad.station.sources.cameras import CameraError
from cflow_ad.station.station import Station

router = APIRouter(prefix="/v1/cameras", tags=["cameras"], responses=ERRORS)

Name = Annotated[str, Path(max_length=100, description="A camera's name."), Plain]
_PREVIEW = 1280  # pixels of the longer side


@router.get("", summary="List the cameras")
def list_cameras(station: Here, user: Operator) -> dict[str, Any]:
    """List the cameras."""
    items = [
        {"name": name, "model": camera.model, "connected": camera.is_connected}
        for name, camera in station.cameras.items()
    ]
    return {"items": items, "next": None}


@router.get("/{name}/frame", response_class=Response, summary="Its newest picture")
def get_frame(station: Here, user: Operator, name: Name) -> Response:
    """Return the newest picture, shrunk, as JPEG."""
    try:
        pixels = as_image(_camera(station, name).newest())
    except CameraError as error:
        raise refuse(503, error, RETRY_SOON) from None
    return Response(shrink_to_jpeg(pixels, _PREVIEW), media_type="image/jpeg")


@router.post("/{name}/inspect", summary="Inspect its next picture")
async def inspect(station: Here, user: Operator, name: Name) -> dict[str, Any]:
    """Inspect a picture that is taken after the request."""
    camera = _camera(station, name)
    try:
        frame = await asyncio.to_thread(camera.newest, after=time.monotonic())
    except CameraError as error:
        raise refuse(503, error, RETRY_SOON) from None
    data = await asyncio.to_thread(camera.encode, frame)
    source = f"camera {name}"
    answer = await inspect_image(station, data, camera.model, source=source, image=source)
    tell(station, user, answer)
    return answer


def _camera(station: Station, name: str) -> CameraThread:
    found = station.cameras.get(name)
    if found is None:
        raise Refusal(404, f"there is no camera {name}", code="camera.unknown", camera=name)
    return found
