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
from cflow_ad.station.drift.routes import build_router as build_drift_router
from cflow_ad.station.guard import Guard
from cflow_ad.station.pages.routes import build_router as build_page_router
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
    for module in (inspect, records, models, jobs, cameras, access, system):
        app.include_router(module.router)
    app.include_router(system.health)
    app.include_router(build_drift_router(station))
    app.include_router(build_page_router(station), include_in_schema=False)
    app.mount("/static", StaticFiles(directory=Path(pages.__file__).parent / "static"))
    hosts = (config.host, *config.hosts) if config.is_local or config.hosts else ()
    app.add_middleware(Guard, limits=config.limits, hosts=hosts)
    return app


def _add_handlers(app: FastAPI, station: Station) -> None:
    """Answer each error by a status and one sentence."""

    def answer(status: int, text: str, retry: int | None = None) -> JSONResponse:
        station.metrics.note_refusal(status)
        headers = None if retry is None else {"Retry-After": str(retry)}
        return JSONResponse({"detail": text}, status, headers)

    def on_error(request: Request, error: Exception) -> JSONResponse:
        match error:
            case QueueFullError():
                return answer(429, str(error), 1)
            case UnavailableError():
                return answer(503, str(error), 5)
            case ImageError():
                return answer(422, str(error))
            case StationError():
                return answer(409, str(error))
            case CflowError():
                return answer(422, str(error))
            case DataError() | UnicodeError():
                return answer(422, "a value cannot be stored")
            case SQLAlchemyError():
                _LOG.error("%s", error)
                return answer(503, "the database cannot be read now", 5)
            case OSError():
                _LOG.error("%s", error)
                return answer(503, f"the disk cannot be used now ({error.strerror})", 5)
        raise error

    for kind in (CflowError, SQLAlchemyError, UnicodeError, OSError):
        app.add_exception_handler(kind, on_error)

    def on_validation(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        first: dict[str, Any] = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return answer(422, f"{where}: {first['msg']}"[:500].encode("utf-8", "replace").decode())

    app.add_exception_handler(RequestValidationError, on_validation)
