"""Which address gives which view of the page."""

from __future__ import annotations

from urllib.parse import quote, unquote

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from PIL import Image

from cflow_ad.evaluation.overlay import jet_table
from cflow_ad.station.api.common import Here
from cflow_ad.station.drawing import to_png
from cflow_ad.station.pages.rendering import LANGUAGES, choose_language, read_texts, render
from cflow_ad.station.permission import User, current_user
from cflow_ad.station.refusal import Refusal
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

router = APIRouter(include_in_schema=False)


@router.get("/")
def start() -> RedirectResponse:
    """Go to the first view."""
    return RedirectResponse("/inspect")


@router.get("/login", response_class=HTMLResponse)
def login(station: Here, request: Request) -> Response:
    """The form to log in."""
    if current_user(request) is not None:
        return RedirectResponse("/inspect")
    return _page(station, request, "login", None)


@router.get("/texts/{language}.json")
def texts(language: str) -> JSONResponse:
    """The texts of a language, for the scripts."""
    if language not in LANGUAGES:
        raise Refusal(404, f"there are no texts in {language!r}", code="page.unknown")
    return JSONResponse(read_texts(language), headers={"Cache-Control": "no-cache"})


@router.get("/colours.png")
def colours() -> Response:
    """The colours of the heat map from the lowest score to the highest, one pixel each."""
    drawn = to_png(Image.fromarray(jet_table()[None].copy()))
    return Response(drawn, media_type="image/png", headers={"Cache-Control": "max-age=86400"})


@router.get("/{view}", response_class=HTMLResponse)
def show(station: Here, request: Request, view: str) -> Response:
    """A view; without a session, the form to log in."""
    if view not in VIEWS:
        raise Refusal(404, f"there is no page /{view}", code="page.unknown")
    user = current_user(request)
    if user is None:
        target = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        return RedirectResponse(f"/login?next={quote(target, safe='')}")
    if not user.may(VIEWS[view]):
        return RedirectResponse("/inspect")
    return _page(station, request, view, user)


def _page(station: Station, request: Request, view: str, user: User | None) -> HTMLResponse:
    chosen = request.cookies
    theme = chosen.get("cflow_theme", "system")
    names = station.registry.names()
    model = unquote(chosen.get("cflow_model", ""))
    html = render(
        f"{view}.html",
        choose_language(chosen.get("cflow_language"), request.headers.get("accept-language", "")),
        view=view,
        views=[name for name, role in VIEWS.items() if user is not None and user.may(role)],
        user=user,
        languages=LANGUAGES,
        theme=theme if theme in THEMES else "system",
        kiosk="kiosk" in request.query_params,
        models=names,
        model=model if model in names else next(iter(names), ""),
        station=station.config.name,
    )
    return HTMLResponse(html, headers={"Cache-Control": "no-store"})
