"""Who may do what: the roles, and the dependency of a route that asks for one."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastapi import Request

from cflow_ad.station.refusal import Refusal

if TYPE_CHECKING:
    from cflow_ad.station.auth import Auth

ROLES = ("operator", "engineer", "admin")
"""Each may do what those before it may."""

CSRF_HEADER = "X-CSRF-Token"
_SAFE = ("GET", "HEAD", "OPTIONS")


@dataclass(frozen=True, slots=True)
class User:
    """Who sent a request."""

    name: str
    role: str
    csrf: str | None = None
    """The token that a browser's changes must carry; None for a key."""

    def may(self, role: str) -> bool:
        """Return whether this user may do what a role may."""
        return ROLES.index(self.role) >= ROLES.index(role)


def current_user(request: Request) -> User | None:
    """Return who sent a request; None for nobody known."""
    auth: Auth = request.app.state.station.auth
    return auth.identify(request)


def require(role: str) -> Callable[[Request], Awaitable[User]]:
    """Make a dependency of a route: only those who may do what `role` may get through.

    A change that a browser asks for must carry its session's CSRF token.
    """

    async def check(request: Request) -> User:
        auth: Auth = request.app.state.station.auth
        user = auth.remembered(request) or await asyncio.to_thread(auth.identify, request)
        if user is None:
            raise Refusal(
                401,
                "log in, or send an API key",
                code="login.needed",
                headers={"WWW-Authenticate": 'Bearer realm="cflow-ad"'},
            )
        if user.csrf is not None and request.method not in _SAFE:
            given = request.headers.get(CSRF_HEADER, "")
            if not hmac.compare_digest(given.encode(), user.csrf.encode()):
                raise Refusal(
                    403, f"the header {CSRF_HEADER} is missing or wrong", code="login.other"
                )
        if not user.may(role):
            raise Refusal(
                403,
                f"this needs the role {role}; {user.name} is {user.role}",
                code=f"role.{role}",
                user=user.name,
            )
        return user

    return check
