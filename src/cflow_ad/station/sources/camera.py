"""A camera's thread: it keeps the newest picture, opens the camera again, and inspects in time."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from cflow_ad.errors import CflowError, ImageError
from cflow_ad.station.config import Camera
from cflow_ad.station.refusal import say
from cflow_ad.station.sources.cameras import CameraError, Device, open_device, to_png
from cflow_ad.station.sources.inspecting import choose_model, inspect_patiently

if TYPE_CHECKING:
    from cflow_ad.station.station import Station

_LOG = logging.getLogger(__name__)
_FRESH = 2.0
"""Seconds after which a picture is too old to be inspected."""
_LONGEST_PAUSE = 30.0


class CameraThread:
    """Reads a camera.

    Args:
        station: inspects.
        config: which camera.

    Raises:
        StationError: its model is unclear.
    """

    def __init__(self, station: Station, config: Camera) -> None:
        self.config = config
        self._station = station
        self.model = choose_model(station, config.model, f"camera {config.name}")
        self._frame: tuple[NDArray[Any], float] | None = None
        self._new = threading.Condition()
        self._stopping = threading.Event()
        self.is_connected = False
        self._threads = [threading.Thread(target=self._read, name="camera", daemon=True)]
        if config.every > 0:
            self._threads.append(threading.Thread(target=self._inspect, daemon=True))

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Stop."""
        self._stopping.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(timeout=10)

    def newest(self, *, after: float | None = None, wait: float = 5.0) -> NDArray[Any]:
        """Return the newest picture, as `Device.read` gives it.

        Args:
            after: taken after this time of the monotonic clock; unset, not older than `_FRESH`.
            wait: seconds to wait for one.

        Raises:
            CameraError: there is none in time.
        """
        since = time.monotonic() - _FRESH if after is None else after
        with self._new:
            self._new.wait_for(lambda: self._frame is not None and self._frame[1] >= since, wait)
            frame = self._frame
        if frame is None or frame[1] < since:
            raise CameraError(
                f"camera {self.config.name}: no picture; is it plugged in?",
                code="camera.no_picture",
                camera=self.config.name,
            )
        return frame[0]

    def encode(self, pixels: NDArray[Any]) -> bytes:
        """Write a picture as a file, in the depth of its model's images."""
        registry = self._station.registry
        return to_png(pixels, registry.reading(registry.active(self.model).id).bits)

    def _read(self) -> None:
        pause, was_told = 1.0, False
        name = self.config.name
        while not self._stopping.is_set():
            device: Device | None = None
            problem: CflowError | None = None
            try:
                device = open_device(self.config.url)
                while not self._stopping.is_set():
                    pixels = device.read()
                    with self._new:
                        self._frame = (pixels, time.monotonic())
                        self._new.notify_all()
                    if not self.is_connected:
                        self.is_connected, pause = True, 1.0
                        if was_told:
                            back = CameraError("connected again", code="camera.back", camera=name)
                            self._tell(back)
                            was_told = False
            except CflowError as error:
                problem = error
            except Exception as error:  # whatever a camera's library raises
                _LOG.exception("camera %s", name)
                problem = CameraError(str(error), code="camera.no_picture", camera=name)
            self.is_connected = False
            if device is not None:
                with contextlib.suppress(Exception):  # it may be unplugged
                    device.close()
            if problem is not None and not was_told:
                self._tell(problem)
                was_told = True
            self._stopping.wait(pause)
            pause = min(_LONGEST_PAUSE, 2 * pause)

    def _inspect(self) -> None:
        due, told = time.monotonic(), ""
        while not self._stopping.wait(max(0.0, due - time.monotonic())):
            due = max(due + self.config.every, time.monotonic())
            try:
                inspect_patiently(
                    self._station,
                    self.encode(self.newest(wait=self.config.every)),
                    self.model,
                    source=f"camera {self.config.name}",
                    name="the picture",
                    request=None,
                    stopping=self._stopping,
                )
                told = ""
            except CameraError:
                continue  # told already
            except ImageError as error:
                if told != str(error):  # one picture after another may have the same fault
                    self._tell(error)
                told = str(error)
            except Exception:
                _LOG.exception("camera %s: it cannot be inspected now", self.config.name)

    def _tell(self, problem: CflowError) -> None:
        data = {"camera": self.config.name, **say(problem)}
        self._station.add_event("camera", data, self.model)
