"""What a version of a product's model is, and the names that products may have."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from cflow_ad.errors import StoreError

_LONGEST = 200  # bytes of a product's name in a key


@dataclass(frozen=True, kw_only=True)
class Version:
    """One version of a product's model."""

    product: str
    version: str
    """16 hexadecimal digits, which the images, the settings and the number of threads decide."""
    job: str
    """The same without the images: equal where one product was trained again on other images."""
    sha256: str
    """Of the model file."""
    size: int
    """Bytes of the model file."""
    n_images: int
    """Good images, trained on and held out."""
    threshold: float
    false_alarm_rate: float
    """As asked for."""
    achieved_rate: float
    """What the number of images allows to promise."""
    settings: dict[str, Any]
    """Those that differ from the defaults."""
    flags: dict[str, str] = field(default_factory=dict)
    """What a person should look at: `clusters`, `drift` or `few`, and why."""
    good: str = ""
    """The folder of good images."""
    threads: int = 1
    """Cores that torch computed on, which change the last bits of a model."""
    seconds: float = 0.0
    host: str = ""
    finished: str = ""
    """Date and time in UTC, ISO 8601."""
    made_by: str = ""
    """The version of this package."""


def now() -> str:
    """Return date and time in UTC, ISO 8601, to the millisecond."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


def check_product(product: str) -> None:
    """Raise a StoreError if a product's name is empty, or too long for a key."""
    if not product or len(part_of(product)) > _LONGEST:
        raise StoreError(f"product {product[:40]!r}: give a name of 1 to {_LONGEST} letters")


def part_of(product: str) -> str:
    """Write a product's name as one part of a key."""
    name = quote(product, safe=" ")
    return "%2E" + name[1:] if name.startswith(".") else name
