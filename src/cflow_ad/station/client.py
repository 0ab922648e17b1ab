"""A client in Python, on one page: the standard library alone."""

from __future__ import annotations

import json
import os
import time
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode

from cflow_ad.errors import StationError


class Client:
    """Talks to a station.

    Args:
        url: such as `http://127.0.0.1:8000`.
        key: an API key, or the file that holds it.
        patience: seconds for which a station that is busy or away is asked again.

    Example:
        >>> client = Client("http://127.0.0.1:8000", key="station.key")  # doctest: +SKIP
        >>> client.inspect("part", "part.png")["is_anomalous"]  # doctest: +SKIP
        False
    """

    def __init__(self, url: str, key: str | os.PathLike[str], *, patience: float = 30.0) -> None:
        path = Path(key)
        self._key = path.read_text("utf-8").strip() if path.is_file() else str(key)
        self._url = url.rstrip("/")
        self._patience = patience

    def inspect(
        self, model: str, image: str | os.PathLike[str] | bytes, *, source: str = "api"
    ) -> dict[str, Any]:
        """Inspect an image: a path, or the bytes of an image file.

        It is inspected once, however often it has to be sent.

        Raises:
            StationError: the image or the model cannot be used, or the station is away too long.
        """
        data = image if isinstance(image, bytes) else Path(image).read_bytes()
        path = f"/v1/models/{quote(model)}/inspect?{urlencode({'source': source})}"
        headers = {"Content-Type": "image/*", "Idempotency-Key": str(uuid.uuid4())}
        answer: dict[str, Any] = json.loads(self._ask(path, data, headers))
        return answer

    def inspections(self, **wanted: Any) -> Iterator[dict[str, Any]]:
        """Iterate over the record, newest first; `wanted` as for `GET /v1/inspections`."""
        cursor: Any = None
        while True:
            query = {**wanted, **({} if cursor is None else {"cursor": cursor})}
            page = json.loads(self._ask(f"/v1/inspections?{urlencode(query)}"))
            yield from page["items"]
            cursor = page["next"]
            if cursor is None:
                return

    def picture(self, number: str, kind: str = "picture") -> bytes:
        """Return an inspection's `picture`, or its `map`, `mask`, `heat` or `overlay` as PNG."""
        return self._ask(f"/v1/inspections/{quote(number)}/{kind}")

    def mark(self, numbers: list[str], label: str) -> dict[str, Any]:
        """Mark inspections as `good` or `defect`."""
        body = json.dumps({"ids": numbers, "label": label}).encode()
        found = self._ask("/v1/marks", body, {"Content-Type": "application/json"})
        answer: dict[str, Any] = json.loads(found)
        return answer

    def _ask(
        self, path: str, data: bytes | None = None, headers: dict[str, str] | None = None
    ) -> bytes:
        until = time.monotonic() + self._patience
        headers = {"Authorization": f"Bearer {self._key}", **(headers or {})}
        request = urllib.request.Request(self._url + path, data, headers)
        while True:
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    body: bytes = answer.read()
                    return body
            except HTTPError as error:
                with error:
                    text = _detail(error.read())
                    pause = float(error.headers.get("Retry-After") or 1)
                if error.code not in (429, 503) or time.monotonic() + pause > until:
                    raise StationError(f"{self._url}{path}: {text}") from None
            except (URLError, OSError) as error:
                pause = 0.5
                if time.monotonic() + pause > until:
                    raise StationError(f"{self._url}: no answer ({error})") from error
            time.sleep(pause)


def _detail(body: bytes) -> str:
    try:
        return str(json.loads(body)["detail"])
    except (ValueError, KeyError, TypeError):
        return body[:200].decode("utf-8", "replace")
