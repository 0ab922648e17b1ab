"""A URL that each verdict is sent to: at least once, signed, and tried again.

The signature stands in `X-Cflow-Signature: t=SECONDS,v1=HEX`, the HMAC-SHA-256 of `SECONDS.BODY`
with the shared secret: a receiver computes it again, and refuses old ones. A message that is sent
twice has the same `Idempotency-Key`.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import time
import urllib.request
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from urllib.error import HTTPError

from cflow_ad._version import __version__
from cflow_ad.errors import StationError
from cflow_ad.station.config import Webhook
from cflow_ad.station.sinks.outbox import Message
from cflow_ad.station.sinks.sink import OutboxSink

if TYPE_CHECKING:
    from cflow_ad.station.station import Station

_SECONDS = 10.0


class WebhookSink(OutboxSink):
    """Sends the requests.

    Args:
        station: whose verdicts they are.
        config: where to, and with which secret.

    Raises:
        StationError: the URL or the secret's file cannot be used.
    """

    name = "webhook"

    def __init__(self, station: Station, config: Webhook) -> None:
        super().__init__(station)
        self._config = config
        if not config.url.startswith(("http://", "https://")):
            raise StationError(f"webhook.url is {config.url}: it must begin with http(s)://")
        try:
            self._secret = Path(config.secret_file).expanduser().read_bytes().strip()
        except OSError as error:
            raise StationError(
                f"{config.secret_file}: the webhook's secret cannot be read ({error.strerror})"
            ) from error
        if not self._secret:
            raise StationError(f"{config.secret_file}: it is empty; put a secret in it")
        self._opener = urllib.request.build_opener(_NoRedirect)

    @property
    def attempts(self) -> int:
        """As configured."""
        return self._config.attempts

    def send(self, message: Message) -> None:
        """Send one request; any answer but 2xx is a failure."""
        values = json.loads(message.payload)
        if self._config.only_anomalous and not values["is_anomalous"]:
            return
        body = message.payload.encode()
        request = urllib.request.Request(
            self._config.url,
            body,
            {
                "Content-Type": "application/json",
                "User-Agent": f"cflow-ad/{__version__}",
                "Idempotency-Key": values["id"],
                "X-Cflow-Signature": sign(body, self._secret, int(time.time())),
            },
            method="POST",
        )
        with self._opener.open(request, timeout=_SECONDS):
            pass


def sign(body: bytes, secret: bytes, at: int) -> str:
    """Sign a body: the value of `X-Cflow-Signature`.

    >>> sign(b"{}", b"secret", 1)[:12]
    't=1,v1=11227'
    """
    digest = hmac.new(secret, str(at).encode() + b"." + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: the verdict goes where it was meant to, or fails."""

    def redirect_request(
        self, req: Any, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> None:
        raise HTTPError(req.full_url, code, "a redirect, which is not followed", headers, fp)
