"""The application: the station's routes and page."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import anyio.to_thread
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from sqlalchemy.exc import SQLAlchemyError

from cflow_ad._version import __version__
from cflow_ad.errors import CflowError
from cflow_ad.station import pages
from cflow_ad.station.api import access, cameras, inspect, jobs, models, records, system
from cflow_ad.station.config import StationConfig
from cflow_ad.station.drift import routes as drift
from cflow_ad.station.guard import Guard
from cflow_ad.station.pages import routes as page
from cflow_ad.station.refusal import Refusal, refusal_of
from cflow_ad.station.station import Station

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
        refusal = refusal_of(error)
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
