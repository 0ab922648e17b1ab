"""What the station says when it does not do what was asked: a status, an English sentence, and a
code with values, from which the page makes the sentence of its own language.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import HTTPException
from starlette.responses import JSONResponse

from cflow_ad.errors import CflowError

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
