"""Inspect from a thread: wait for the verdict, and try again while the station is busy."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from cflow_ad.errors import StationError
from cflow_ad.station.database import UnavailableError
from cflow_ad.station.scoring import QueueFullError

if TYPE_CHECKING:
    from cflow_ad.station.station import Station

_PAUSE = 0.5


def inspect_patiently(
    station: Station,
    data: bytes,
    model: str,
    *,
    source: str,
    name: str,
    request: str | None,
    stopping: threading.Event,
) -> dict[str, Any] | None:
    """Inspect an image, however long the station is busy; None where it stops before.

    Raises:
        ImageError: the image cannot be used.
        KeyError: there is no such model.
    """
    while not stopping.is_set():
        try:
            work = station.inspector.inspect(data, model, source=source, name=name, request=request)
            return work.result().written.result()
        except (QueueFullError, UnavailableError):
            stopping.wait(_PAUSE)
    return None


def choose_model(station: Station, name: str, what: str) -> str:
    """Return the model that a source names, or the only one.

    Raises:
        StationError: it names none, and there are several; or there is no such model.
    """
    names = station.registry.names()
    if name in names:
        return name
    if name:
        raise StationError(f"{what}: there is no model {name}; there is {', '.join(names)}")
    if len(names) > 1:
        raise StationError(f"{what}: name its model, one of {', '.join(names)}")
    return names[0]
