"""What every request passes: limits of size and time, names of the host, headers of answers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cflow_ad.station.config import Limits
from cflow_ad.station.refusal import Refusal

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; font-src 'self'; media-src 'self' blob:; manifest-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
}
_CLOSE = {"Connection": "close"}
_LOCAL = ("localhost", "127.0.0.1", "[::1]", "::1")


class Guard:
    """Wraps the application.

    Args:
        app: the application.
        limits: of a request.
        hosts: names under which it may be reached; empty for any. A page of elsewhere whose name
            is made to point here is refused by this.
    """

    def __init__(self, app: ASGIApp, *, limits: Limits, hosts: Sequence[str] = ()) -> None:
        self._app = app
        self._limits = limits
        self._hosts = {host.lower() for host in (*hosts, *_LOCAL)} if hosts else set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        headers = Headers(scope=scope)
        refusal = self._refuse(headers)
        if refusal is not None:
            await refusal(scope, receive, send_with_headers)
            return
        await self._app(scope, self._limited(receive), send_with_headers)

    def _refuse(self, headers: Headers) -> JSONResponse | None:
        host = headers.get("host", "")
        name = host.rpartition(":")[0] if ":" in host and not host.endswith("]") else host
        if self._hosts and name.lower() not in self._hosts:
            detail = f"this is not {name or 'a host without a name'}"
            return JSONResponse({"detail": detail}, 400)
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > self._limits.upload_bytes:
            return self._too_large().answer()
        return None

    def _limited(self, receive: Receive) -> Receive:
        size, is_whole = 0, False
        until = asyncio.get_running_loop().time() + self._limits.upload_seconds

        async def limited() -> Message:
            nonlocal size, is_whole
            if is_whole:  # what follows is only that the client went away
                return await receive()
            try:
                async with asyncio.timeout_at(until):
                    message = await receive()
            except TimeoutError:
                seconds = self._limits.upload_seconds
                raise Refusal(
                    408,
                    f"the request did not arrive in {seconds:g} s",
                    code="upload.slow",
                    headers=_CLOSE,
                    n=seconds,
                ) from None
            size += len(message.get("body", b""))
            is_whole = not message.get("more_body", False)
            if size > self._limits.upload_bytes:
                raise self._too_large()
            return message

        return limited

    def _too_large(self) -> Refusal:
        limit = self._limits.upload_bytes
        return Refusal(
            413,
            f"the request is larger than the {limit:,} bytes allowed",
            code="upload.large",
            headers=_CLOSE,
            limit=limit,
        )
