"""Sessions, users and keys."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Request, Response
from pydantic import Field
from sqlalchemy import select

from cflow_ad._version import __version__
from cflow_ad.station.api.common import ERRORS, Admin, Body, Here, Name, Operator, Plain
from cflow_ad.station.auth import COOKIE, SESSION_SECONDS
from cflow_ad.station.permission import User
from cflow_ad.station.refusal import Refusal
from cflow_ad.station.schema import keys, users
from cflow_ad.station.station import Station

router = APIRouter(prefix="/v1", tags=["access"], responses=ERRORS)

Password = Annotated[str, Field(max_length=200), Plain]
Role = Literal["operator", "engineer", "admin"]


class LogIn(Body):
    """A user and the password."""

    user: Annotated[str, Field(max_length=100), Plain]
    password: Password


class PasswordIn(Body):
    """The old password and a new one."""

    old: Password
    new: Password


class UserIn(Body):
    """A new user."""

    name: Name
    role: Role
    password: Password


class KeyIn(Body):
    """A new key."""

    name: Name
    role: Role = "operator"


@router.post("/session", summary="Log in")
def log_in(station: Here, request: Request, response: Response, body: LogIn) -> dict[str, Any]:
    """Begin a session: the cookie goes with later requests, and `csrf` into the header
    `X-CSRF-Token` of each change.
    """
    address = request.client.host if request.client else ""
    cookie, user = station.auth.log_in(body.user, body.password, address)
    response.set_cookie(
        COOKIE,
        cookie,
        max_age=int(SESSION_SECONDS),
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return _session(station, user)


@router.get("/session", summary="Who am I")
def get_session(station: Here, user: Operator) -> dict[str, Any]:
    """Return user and role."""
    return _session(station, user)


@router.delete("/session", summary="Log out", status_code=204)
def log_out(station: Here, request: Request, response: Response, user: Operator) -> None:
    """End the session."""
    station.auth.log_out(request.cookies.get(COOKIE))
    response.delete_cookie(COOKIE)


@router.post("/session/password", summary="Change the password", status_code=204)
def change_password(station: Here, user: Operator, body: PasswordIn) -> None:
    """Change one's own password, which ends all one's sessions."""
    if user.csrf is None:
        raise Refusal(403, "a key has no password; log in as a user", code="password.none")
    station.auth.change_password(user.name, body.old, body.new)


@router.get("/users", summary="List the users")
def get_users(station: Here, user: Admin) -> dict[str, Any]:
    """List the users."""
    columns = (users.c.name, users.c.role, users.c.created)
    with station.database.engine.connect() as connection:
        rows = connection.execute(select(*columns).order_by(users.c.name)).all()
    return {"items": [dict(row._mapping) for row in rows], "next": None}


@router.post("/users", summary="Add a user", status_code=201)
def add_user(station: Here, user: Admin, body: UserIn) -> dict[str, Any]:
    """Add a user."""
    station.auth.add_user(body.name, body.role, body.password)
    return {"name": body.name, "role": body.role}


@router.delete("/users/{name}", summary="Remove a user", status_code=204)
def remove_user(
    station: Here, user: Admin, name: Annotated[str, Path(max_length=100), Plain]
) -> None:
    """Remove a user and end the user's sessions."""
    station.auth.remove_user(name)


@router.get("/keys", summary="List the keys")
def get_keys(station: Here, user: Admin) -> dict[str, Any]:
    """List the keys; a key itself is shown once, when it is made."""
    columns = (keys.c.id, keys.c.name, keys.c.role, keys.c.created)
    with station.database.engine.connect() as connection:
        rows = connection.execute(select(*columns).order_by(keys.c.created)).all()
    return {"items": [dict(row._mapping) for row in rows], "next": None}


@router.post("/keys", summary="Make a key", status_code=201)
def add_key(station: Here, user: Admin, body: KeyIn) -> dict[str, Any]:
    """Make a key for a program. It is not stored: keep it."""
    number, key = station.auth.add_key(body.name, body.role)
    return {"id": number, "name": body.name, "role": body.role, "key": key}


@router.delete("/keys/{number}", summary="Revoke a key", status_code=204)
def remove_key(
    station: Here, user: Admin, number: Annotated[str, Path(max_length=16), Plain]
) -> None:
    """Revoke a key."""
    station.auth.remove_key(number)


def _session(station: Station, user: User) -> dict[str, Any]:
    return {
        "user": user.name,
        "role": user.role,
        "csrf": user.csrf,
        "station": station.config.name,
        "version": __version__,
    }
