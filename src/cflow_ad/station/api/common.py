"""Parts that routes share."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import Depends, Path, Query, Request
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, StringConstraints

from cflow_ad.station.database import as_stored
from cflow_ad.station.permission import User, require
from cflow_ad.station.refusal import Refusal
from cflow_ad.station.station import Station

LARGEST = 2**53


def _check_text(value: str | None) -> str | None:
    if value and ("\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value)):
        raise ValueError("it holds letters that cannot be stored")
    return value


def _stored_time(value: str | None) -> str | None:
    try:
        return as_stored(datetime.fromisoformat(value)) if value else None
    except (ValueError, OverflowError):
        raise ValueError("it is no time in ISO 8601, such as 2026-05-04T06:12Z") from None


Plain = AfterValidator(_check_text)
Time = AfterValidator(_stored_time)
"""A time in ISO 8601, as the record stores it; one without a zone is UTC."""
Text = Annotated[str, StringConstraints(max_length=1000), Plain]
"""Any text."""
Reason = Annotated[
    str, StringConstraints(min_length=3, max_length=1000, strip_whitespace=True), Plain
]
"""Why something is changed."""
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._@ -]{1,100}$"), Plain]
"""Of a user, a key or a model."""

Model = Annotated[str, Path(max_length=100, description="A model's name."), Plain]
Number = Annotated[str, Path(max_length=36, description="An inspection's id."), Plain]
Limit = Annotated[
    int,
    BeforeValidator(lambda value: value or 50),  # `limit=` is as unset
    Query(ge=1, le=500, description="How many to list."),
]
Cursor = Annotated[
    Annotated[int, Field(ge=0, le=LARGEST)] | None,
    BeforeValidator(lambda value: None if value == "" else value),
    Query(description="`next` of the page before this one."),
]


class Body(BaseModel, extra="forbid"):
    """What a request holds as JSON. A field that is misspelt is refused."""


Operator = Annotated[User, Depends(require("operator"))]
Engineer = Annotated[User, Depends(require("engineer"))]
Admin = Annotated[User, Depends(require("admin"))]


async def station_of(request: Request) -> Station:
    """Return the station."""
    station: Station = request.app.state.station
    return station


Here = Annotated[Station, Depends(station_of)]


def tell(station: Station, user: User, *items: dict[str, Any]) -> None:
    """Note that a person sees the verdicts of inspections; a program's key is no person."""
    if user.csrf:
        station.marks.note_told(user.name, items)


def known(station: Station, model: str) -> str:
    """Return a model's name, or answer 404."""
    if model not in station.registry.names():
        raise Refusal(
            404,
            f"there is no model {model}; GET /v1/models lists them",
            code="model.unknown",
            model=model,
        )
    return model


def example(value: Any, description: str = "Done.") -> dict[int | str, dict[str, Any]]:
    """Describe an answer by an example."""
    return {200: {"description": description, "content": {"application/json": {"example": value}}}}


ERRORS: dict[int | str, dict[str, Any]] = {
    code: {
        "description": text,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "detail": {},
                        "code": {"type": "string"},
                        "values": {"type": "object"},
                    },
                    "required": ["detail"],
                }
            }
        },
    }
    for code, text in {
        400: "The request cannot be read.",
        401: "Log in, or send an API key.",
        403: "The role does not suffice, or the CSRF token is missing.",
        404: "There is no such thing.",
        408: "The request took too long to arrive.",
        409: "It does not fit what is there.",
        413: "The request is too large.",
        422: "A value or an image cannot be used.",
        429: "Too many at once: try again after `Retry-After` seconds.",
        503: "Not at present: try again after `Retry-After` seconds.",
    }.items()
}
"""What any route may answer."""
