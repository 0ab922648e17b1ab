"""Health, metrics, events and the stream of news."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent
from prometheus_client import CONTENT_TYPE_LATEST
from sqlalchemy import Connection, Row, func, select, update

from cflow_ad.station.api.common import (
    ERRORS,
    LARGEST,
    Admin,
    Cursor,
    Here,
    Limit,
    Operator,
    Plain,
    tell,
)
from cflow_ad.station.backup import back_up
from cflow_ad.station.broadcast import ClosedError
from cflow_ad.station.database import now
from cflow_ad.station.permission import current_user
from cflow_ad.station.refusal import Refusal
from cflow_ad.station.schema import events
from cflow_ad.station.sinks.outbox import revive, summarise

health = APIRouter(tags=["health"], responses=ERRORS)
router = APIRouter(prefix="/v1", tags=["station"], responses=ERRORS)

_ALIVE_EVERY = 15.0
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


@health.get("/health/live", summary="Is the service there")
async def live() -> dict[str, str]:
    """Answer, as long as the process does."""
    return {"status": "alive"}


@health.get("/health/ready", summary="Can it inspect")
def ready(station: Here, response: Response) -> dict[str, Any]:
    """Answer 200 where the station can inspect at present, else 503 with the reason."""
    problem = station.problem()
    if problem is not None:
        response.status_code = 503
    return {"status": "ready" if problem is None else "not ready", "reason": problem}


def _may_read_metrics(request: Request) -> None:
    local = request.client is not None and request.client.host in _LOOPBACK
    if not local and current_user(request) is None:
        raise Refusal(401, "send an API key", code="login.needed")


@health.get("/metrics", summary="Metrics", dependencies=[Depends(_may_read_metrics)])
def metrics(station: Here) -> Response:
    """Return metrics as Prometheus reads them; from another machine, with a key."""
    return Response(station.metrics.render(), media_type=CONTENT_TYPE_LATEST)


@router.get("/events", summary="List events, newest first")
def list_events(
    station: Here,
    user: Operator,
    limit: Limit = 50,
    cursor: Cursor = None,
    kind: Annotated[str | None, Query(max_length=20), Plain] = None,
) -> dict[str, Any]:
    """List drift alarms, unplugged cameras, messages that could not be sent, and the like."""
    query = select(events).order_by(events.c.id.desc()).limit(limit + 1)
    if kind is not None:
        query = query.where(events.c.kind == kind)
    if cursor is not None:
        query = query.where(events.c.id < cursor)
    with station.database.engine.connect() as connection:
        found = [_event(row) for row in connection.execute(query)]
    return {"items": found[:limit], "next": found[limit - 1]["id"] if len(found) > limit else None}


@router.post("/events/{number}/acknowledge", summary="Say that an event was seen", status_code=204)
def acknowledge(
    station: Here, user: Operator, number: Annotated[int, Path(ge=0, le=LARGEST)]
) -> None:
    """Put one's name to an event."""
    change = (
        update(events)
        .where(events.c.id == number)
        .values(
            acknowledged_by=func.coalesce(events.c.acknowledged_by, user.name),
            acknowledged_at=func.coalesce(events.c.acknowledged_at, now()),
        )
    )

    def write(connection: Connection) -> Row[Any] | None:
        connection.execute(change)
        return connection.execute(select(events).where(events.c.id == number)).one_or_none()

    row = station.database.write(write)
    if row is None:
        raise Refusal(404, f"there is no event {number}", code="event.unknown")
    station.broadcast.send("event", _event(row))


def _event(row: Row[Any]) -> dict[str, Any]:
    event = dict(row._mapping)
    author, at = event.pop("acknowledged_by"), event.pop("acknowledged_at")
    return {**event, "acknowledged": None if author is None else {"author": author, "time": at}}


@router.get("/stream", response_class=EventSourceResponse, summary="News as they happen")
async def stream(
    station: Here,
    request: Request,
    user: Operator,
    view: Annotated[
        str, Query(max_length=20, description="Of the page; on `inspect` verdicts are shown.")
    ] = "",
) -> AsyncIterator[ServerSentEvent]:
    """Send news: `inspection`, `mark`, `threshold`, `model`, `rule`, `job` and `event`."""
    with station.broadcast.reader() as reader:
        yield ServerSentEvent(comment="connected", retry=2000)
        checked = time.monotonic()
        while True:
            try:
                item = await reader.next(_ALIVE_EVERY)
            except ClosedError:
                return
            if time.monotonic() - checked >= _ALIVE_EVERY:
                if await asyncio.to_thread(current_user, request) is None:
                    return  # the session is over, or the key revoked
                checked = time.monotonic()
            if item is None:
                yield ServerSentEvent(comment="alive")
            else:
                if item[0] == "inspection" and view == "inspect":
                    tell(station, user, item[1])
                yield ServerSentEvent(event=item[0], data=item[1])


@router.post("/backup", summary="Back up", status_code=201)
def backup(station: Here, user: Admin) -> dict[str, Any]:
    """Copy database, models and key into a new folder below the folder of data, while running."""
    folder = back_up(station.config, station.config.data / "backups")
    return {"folder": str(folder)}


@router.get("/outbox", summary="Messages that wait to be sent")
def get_outbox(station: Here, user: Operator) -> dict[str, Any]:
    """Count for each sink the messages that wait, and the dead letters."""
    return {"items": summarise(station.database), "next": None}


@router.post("/outbox/{sink}/retry", summary="Send dead letters again")
def retry(
    station: Here, user: Admin, sink: Annotated[str, Path(max_length=20), Plain]
) -> dict[str, int]:
    """Send the dead letters of a sink again."""
    return {"revived": revive(station.database, sink)}
