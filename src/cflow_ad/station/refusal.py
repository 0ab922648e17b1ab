"""What the station says when it does not do what was asked: a status, an English sentence, and a
code with values, from which the page makes the sentence of its own language.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from fastapi import HTTPException
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DataError, SQLAlchemyError
from starlette.responses import JSONResponse

from cflow_ad.errors import CflowError, ImageError, StationError
from cflow_ad.station.database import UnavailableError
from cflow_ad.station.scoring import QueueFullError

_LOG = logging.getLogger(__name__)

RETRY_SOON = {"Retry-After": "5"}


class Refusal(HTTPException):
    """A request that is answered by an error.

    Args:
        status: of the answer.
        text: in English.
        code: what is wrong; the page's languages have a text `said.` and this.
        headers: of the answer.
        values: what such a text may name.
    """

    def __init__(
        self,
        status: int,
        text: str,
        *,
        code: str,
        headers: Mapping[str, str] | None = None,
        **values: str | float,
    ) -> None:
        super().__init__(status, text, headers)
        self.code = code
        self.values = values

    def answer(self) -> JSONResponse:
        """Return it as an answer."""
        body = {"detail": self.detail, **code_of(self)}
        return JSONResponse(body, self.status_code, self.headers)


def refuse(status: int, error: CflowError, headers: Mapping[str, str] | None = None) -> Refusal:
    """Return an error as the refusal of a request."""
    refusal = Refusal(status, str(error), code=error.code, headers=headers)
    refusal.values = error.values
    return refusal


def code_of(error: CflowError | Refusal) -> dict[str, Any]:
    """Return an error's code and values, beside its text; nothing where it has no code."""
    return {"code": error.code, "values": dict(error.values)} if error.code else {}


def say(error: CflowError) -> dict[str, Any]:
    """Return an error as an event tells it: `text`, and the code and values of an answer."""
    return {"text": str(error), **code_of(error)}


def refusal_of(error: Exception) -> Refusal:
    """Return an error as an answer tells it; raises it again where it is a fault of the program."""
    match error:
        case Refusal():
            return error
        case CflowError():
            status, headers = _status_of(error)
            return refuse(status, error, headers)
        case RequestValidationError():
            return _invalid(error.errors()[0])
        case DataError() | UnicodeError():
            return Refusal(422, "a value cannot be stored", code="invalid.text")
        case SQLAlchemyError():
            _LOG.error("%s", error)
            text = "the database cannot be read now"
            return Refusal(503, text, code="database.read", headers=RETRY_SOON)
        case OSError():
            _LOG.error("%s", error)
            text = f"the disk cannot be used now ({error.strerror})"
            return Refusal(503, text, code="disk.failed", headers=RETRY_SOON)
    raise error


def _status_of(error: CflowError) -> tuple[int, dict[str, str] | None]:
    match error:
        case QueueFullError():
            return 429, {"Retry-After": "1"}
        case UnavailableError():
            return 503, RETRY_SOON
        case ImageError():
            return 422, None
        case StationError():
            return 409, None
    return 422, None


LIMITS = {
    "string_too_short": "min_length",
    "string_too_long": "max_length",
    "greater_than_equal": "ge",
    "greater_than": "gt",
    "less_than_equal": "le",
    "less_than": "lt",
}
"""What pydantic calls a value that is beyond a limit, and that limit."""


def _invalid(first: dict[str, Any]) -> Refusal:
    """Return the refusal of a request whose first wrong field is this one."""
    where = ".".join(str(part) for part in first["loc"])
    kind = first["type"]
    code = f"invalid.{kind}" if kind in LIMITS or kind == "rule" else "invalid"
    values = {"n": first["ctx"][LIMITS[kind]]} if kind in LIMITS else {}
    return Refusal(
        422,
        f"{where}: {first['msg']}"[:500].encode("utf-8", "replace").decode(),
        code=code,
        field=str(first["loc"][-1])[:100].encode("utf-8", "replace").decode(),
        **values,
    )
