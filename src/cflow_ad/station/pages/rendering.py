"""Templates filled with the texts of a language."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

LANGUAGES = ("en", "de")
"""The first one is used where a browser asks for none of them."""


@cache
def read_texts(language: str) -> dict[str, str]:
    """Read the texts of a language, by their keys.

    >>> read_texts("de")["good"]
    'gut'
    """
    text = files("cflow_ad.station.pages").joinpath("texts", f"{language}.json")
    found: dict[str, str] = json.loads(text.read_text(encoding="utf-8"))
    return found


def choose_language(wanted: str | None, accepted: str) -> str:
    """Choose a language.

    Args:
        wanted: what the user chose, if anything.
        accepted: the browser's header `Accept-Language`.

    >>> choose_language(None, "fr-FR,de;q=0.8,en;q=0.9"), choose_language("de", "en")
    ('en', 'de')
    """
    if wanted in LANGUAGES:
        return str(wanted)
    return next((tag for tag in _preferred(accepted) if tag in LANGUAGES), LANGUAGES[0])


def render(template: str, language: str, **values: Any) -> str:
    """Fill a template. In it, `t(key)` is the text of a key."""
    texts = read_texts(language)
    return (
        _environment().get_template(template).render(t=texts.__getitem__, lang=language, **values)
    )


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("cflow_ad.station.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _preferred(accepted: str) -> Iterable[str]:
    """The languages of an `Accept-Language`, best first, without their countries."""
    weighed = []
    for place, item in enumerate(accepted.split(",")):
        tag, _, weight = item.partition(";q=")
        try:
            weighed.append((-float(weight or 1), place, tag.strip().lower().split("-")[0]))
        except ValueError:
            continue
    return [tag for _, _, tag in sorted(weighed)]
