"""The application: the station's routes and page."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio.to_thread
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from sqlalchemy.exc import DataError, SQLAlchemyError

from cflow_ad._version import __version__
from cflow_ad.errors import CflowError, ImageError, StationError
from cflow_ad.station import pages
from cflow_ad.station.api import access, cameras, inspect, jobs, models, records, system
from cflow_ad.station.config import StationConfig
from cflow_ad.station.database import UnavailableError
from cflow_ad.station.drift import routes as drift
from cflow_ad.station.guard import Guard
from cflow_ad.station.pages import routes as page
from cflow_ad.station.refusal import RETRY_SOON, Refusal, refuse
from cflow_ad.station.scoring import QueueFullError
from cflow_ad.station.station import Station

_LOG = logging.getLogger(__name__)
_THREADS = 64
"""For routes that wait for the database or for a drawing."""


def create_app(config: StationConfig, station: Station | None = None) -> FastAPI:
    """Build the application.

    Args:
        config: of the station.
        station: one that is open already, which is closed at the end; unset, it is opened here.

    Raises:
        CflowError: the station cannot be opened.
    """
    station = station or Station(config)

    @contextlib.asynccontextmanager
    async def live(app: FastAPI) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = _THREADS
        station.start()
        try:
            yield
        finally:
            await anyio.to_thread.run_sync(station.close)

    app = FastAPI(
        title="cflow-ad inspection station",
        version=__version__,
        description="Inspect images with a model of good parts. Send an API key as "
        "`Authorization: Bearer KEY`.",
        docs_url=None,
        redoc_url=None,
        lifespan=live,
    )
    app.state.station = station
    _add_handlers(app, station)
    for module in (inspect, records, models, jobs, cameras, access, drift, system):
        app.include_router(module.router)
    app.include_router(system.health)
    app.include_router(page.router)
    app.mount("/static", StaticFiles(directory=Path(pages.__file__).parent / "static"))
    hosts = (config.host, *config.hosts) if config.is_local or config.hosts else ()
    app.add_middleware(Guard, limits=config.limits, hosts=hosts)
    return app


def _add_handlers(app: FastAPI, station: Station) -> None:
    """Answer each error by a status and one sentence."""

    def on_error(request: Request, error: Exception) -> JSONResponse:
        refusal = _refusal_of(error)
        station.metrics.note_refusal(refusal.status_code)
        return refusal.answer()

    for kind in (
        Refusal,
        CflowError,
        SQLAlchemyError,
        UnicodeError,
        OSError,
        RequestValidationError,
    ):
        app.add_exception_handler(kind, on_error)


def _refusal_of(error: Exception) -> Refusal:
    """Return an error as an answer tells it; raises it again where that is a mistake of ours."""
    match error:
        case Refusal():
            return error
        case CflowError():
            status, headers = _status_of(error)
            return refuse(status, error, headers)
        case RequestValidationError():
            return _invalid(error.errors()[0])
        case DataError() | UnicodeError():
            return Refusal(422, "a value cannot be stored", code="invalid.text")
        case SQLAlchemyError():
            _LOG.error("%s", error)
            text = "the database cannot be read now"
            return Refusal(503, text, code="database.read", headers=RETRY_SOON)
        case OSError():
            _LOG.error("%s", error)
            text = f"the disk cannot be used now ({error.strerror})"
            return Refusal(503, text, code="disk.failed", headers=RETRY_SOON)
    raise error


def _status_of(error: CflowError) -> tuple[int, dict[str, str] | None]:
    match error:
        case QueueFullError():
            return 429, {"Retry-After": "1"}
        case UnavailableError():
            return 503, RETRY_SOON
        case ImageError():
            return 422, None
        case StationError():
            return 409, None
    return 422, None


LIMITS = {
    "string_too_short": "min_length",
    "string_too_long": "max_length",
    "greater_than_equal": "ge",
    "greater_than": "gt",
    "less_than_equal": "le",
    "less_than": "lt",
}
"""What pydantic calls a value that is beyond a limit, and that limit."""


def _invalid(first: dict[str, Any]) -> Refusal:
    """Return the refusal of a request whose first wrong field is this one."""
    where = ".".join(str(part) for part in first["loc"])
    kind = first["type"]
    code = f"invalid.{kind}" if kind in LIMITS or kind == "rule" else "invalid"
    values = {"n": first["ctx"][LIMITS[kind]]} if kind in LIMITS else {}
    return Refusal(
        422,
        f"{where}: {first['msg']}"[:500].encode("utf-8", "replace").decode(),
        code=code,
        field=str(first["loc"][-1])[:100].encode("utf-8", "replace").decode(),
        **values,
    )
