"""Which address gives which view of the page."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from PIL import Image

from cflow_ad._version import __version__
from cflow_ad.evaluation.overlay import jet_table
from cflow_ad.station.pages.rendering import LANGUAGES, choose_language, read_texts, render
from cflow_ad.station.permission import current_user
from cflow_ad.station.refusal import Refusal

if TYPE_CHECKING:
    from cflow_ad.station.station import Station

VIEWS = {
    "inspect": "operator",
    "review": "operator",
    "history": "operator",
    "threshold": "operator",
    "drift": "operator",
    "train": "engineer",
    "settings": "operator",
}
"""The views, and the role that each needs."""

THEMES = ("system", "light", "dark")


def build_router(station: Station) -> APIRouter:
    """Make the routes of the page."""
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    def start() -> RedirectResponse:
        return RedirectResponse("/inspect")

    @router.get("/login", response_class=HTMLResponse)
    def login(request: Request) -> Response:
        if current_user(request) is not None:
            return RedirectResponse("/inspect")
        return _page(request, "login")

    @router.get("/texts/{language}.json")
    def texts(language: str) -> JSONResponse:
        if language not in LANGUAGES:
            raise Refusal(404, f"there are no texts in {language!r}", code="page.unknown")
        return JSONResponse(read_texts(language), headers={"Cache-Control": "no-cache"})

    @router.get("/colours.png")
    def colours() -> Response:
        """The colours of the heat map from the lowest score to the highest, one pixel each."""
        out = io.BytesIO()
        Image.fromarray(jet_table()[None].copy()).save(out, "PNG")
        return Response(
            out.getvalue(), media_type="image/png", headers={"Cache-Control": "max-age=86400"}
        )

    @router.get("/{view}", response_class=HTMLResponse)
    def show(request: Request, view: str) -> Response:
        if view not in VIEWS:
            raise Refusal(404, f"there is no page /{view}", code="page.unknown")
        user = current_user(request)
        if user is None:
            target = request.url.path + (f"?{request.url.query}" if request.url.query else "")
            return RedirectResponse(f"/login?next={quote(target, safe='')}")
        if not user.may(VIEWS[view]):
            return RedirectResponse("/inspect")
        return _page(request, view)

    def _page(request: Request, view: str) -> HTMLResponse:
        user = current_user(request)
        chosen = request.cookies
        theme = chosen.get("cflow_theme", "system")
        names = station.registry.names()
        model = chosen.get("cflow_model", "")
        html = render(
            f"{view}.html",
            choose_language(
                chosen.get("cflow_language"), request.headers.get("accept-language", "")
            ),
            view=view,
            views=[name for name, role in VIEWS.items() if user is not None and user.may(role)],
            user=user,
            languages=LANGUAGES,
            theme=theme if theme in THEMES else "system",
            kiosk="kiosk" in request.query_params,
            models=names,
            model=model if model in names else next(iter(names), ""),
            station=station.config.name,
            version=__version__,
        )
        return HTMLResponse(html, headers={"Cache-Control": "no-store"})

    return router
