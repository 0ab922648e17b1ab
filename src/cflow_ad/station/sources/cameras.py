"""Cameras behind one interface; each library is imported when a camera needs it."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cflow_ad.errors import CflowError, StationError, first_line, optional_library

_WAIT_MS = 5000


class CameraError(StationError):
    """A camera gives no picture: it is unplugged, busy or misconfigured."""


class Device(Protocol):
    """A camera that is open."""

    def read(self) -> NDArray[Any]:
        """Return the next picture: `(H, W)` or `(H, W, 3)` RGB, uint8 or uint16.

        The highest bit of 10, 12 or 14 is the highest of 16: white is 65535, nearly.

        Raises:
            CameraError: there is none.
        """

    def close(self) -> None:
        """Let go of the camera."""


def open_device(url: str) -> Device:
    """Open a camera.

    Args:
        url: `rtsp://...` or a video file, for PyAV; `usb:0`, for OpenCV; `basler:` with a serial
            number or nothing, for pypylon; `gentl:PRODUCER.cti`, for harvesters.

    Raises:
        CameraError: there is no such camera.
        DependencyError: its library is not installed.
    """
    kind, _, rest = url.partition(":")
    kinds: dict[str, Any] = {"usb": _Usb, "basler": _Basler, "gentl": _GenTl}
    try:
        with optional_library():
            device: Device = kinds[kind](rest) if kind in kinds else _Video(url)
    except CflowError:
        raise
    except Exception as error:
        shown = hide_password(url)
        why = first_line(error).replace(url, shown)
        raise CameraError(
            f"{shown}: the camera cannot be opened ({why})", code="camera.closed", camera=shown
        ) from error
    return device


def hide_password(url: str) -> str:
    """Return an address as it may be shown.

    >>> hide_password("rtsp://user:secret@10.0.0.7/stream")
    'rtsp://10.0.0.7/stream'
    """
    return re.sub(r"//[^/]*@", "//", url)


def to_png(pixels: NDArray[Any], bits: int | None = None) -> bytes:
    """Write a picture as a file of the depth of a model's images; colour has 8 bits.

    Args:
        pixels: as `Device.read` gives them.
        bits: depth of the model's images with 16 bits a value; None is 16. Pictures of 12 bits stay
            as they are where it is 12, as they were in files of training.

    >>> to_png(np.zeros((2, 3), np.uint16))[1:4]
    b'PNG'
    """
    if pixels.dtype == np.uint16:
        depth = 8 if pixels.ndim == 3 else bits or 16
        pixels = (pixels >> (16 - depth)).astype(np.uint8 if depth == 8 else np.uint16)
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "PNG", compress_level=1)
    return file.getvalue()


class _Video:
    """A stream or a file, by PyAV."""

    def __init__(self, url: str) -> None:
        import av

        is_file = "://" not in url
        if is_file and not Path(url).is_file():
            raise CameraError(f"{url}: there is no such file", code="camera.none", camera=url)
        options = {} if is_file else {"rtsp_transport": "tcp", "stimeout": str(_WAIT_MS * 1000)}
        self._name = hide_password(url)
        self._container = av.open(url, options=options, timeout=_WAIT_MS / 1000)
        self._frames = self._container.decode(video=0)

    def read(self) -> NDArray[Any]:
        import av

        try:
            frame = next(self._frames)
        except StopIteration:
            raise CameraError(
                f"{self._name}: the stream has ended", code="camera.ended", camera=self._name
            ) from None
        except av.FFmpegError as error:
            raise CameraError(
                f"{self._name}: no picture ({first_line(error)})",
                code="camera.no_picture",
                camera=self._name,
            ) from error
        pixels: NDArray[Any] = frame.to_ndarray(format="rgb24")
        return pixels

    def close(self) -> None:
        self._container.close()


class _Usb:
    """A camera of the operating system, by OpenCV."""

    def __init__(self, number: str) -> None:
        import cv2

        if not number.isdigit():
            raise CameraError(
                f"usb:{number}: name it by its number, as in usb:0",
                code="camera.none",
                camera=f"usb:{number}",
            )
        self._name = f"usb:{number}"
        self._capture = cv2.VideoCapture(int(number))
        if not self._capture.isOpened():
            raise CameraError(
                f"{self._name}: there is no such camera, or it is in use",
                code="camera.none",
                camera=self._name,
            )
        self._capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)

    def read(self) -> NDArray[Any]:
        found, pixels = self._capture.read()
        if not found:
            raise CameraError(
                f"{self._name}: no picture", code="camera.no_picture", camera=self._name
            )
        rgb: NDArray[Any] = pixels[..., ::-1]
        return rgb

    def close(self) -> None:
        self._capture.release()


class _Basler:
    """An industrial camera of Basler, by pypylon."""

    def __init__(self, serial: str) -> None:
        from pypylon import pylon

        self._pylon = pylon
        self._name = f"basler:{serial}"
        factory = pylon.TlFactory.GetInstance()
        wanted = [
            info for info in factory.EnumerateDevices() if serial in ("", info.GetSerialNumber())
        ]
        if not wanted:
            raise CameraError(
                f"{self._name}: there is no such camera", code="camera.none", camera=self._name
            )
        self._camera = pylon.InstantCamera(factory.CreateDevice(wanted[0]))
        self._camera.Open()
        self._camera.StartGrabbing(pylon.GrabStrategy_LatestImageOnly)

    def read(self) -> NDArray[Any]:
        pylon = self._pylon
        try:
            with self._camera.RetrieveResult(_WAIT_MS, pylon.TimeoutHandling_ThrowException) as got:
                if not got.GrabSucceeded():
                    raise CameraError(
                        f"{self._name}: no picture ({got.ErrorDescription})",
                        code="camera.no_picture",
                        camera=self._name,
                    )
                converter = pylon.ImageFormatConverter()
                name = f"PixelType_{_pylon_format(pylon, got.PixelType)}"
                converter.OutputPixelFormat = getattr(pylon, name)
                converter.OutputBitAlignment.Value = "MsbAligned"
                pixels: NDArray[Any] = converter.Convert(got).GetArray().copy()
        except self._pylon.GenericException as error:
            raise CameraError(
                f"{self._name}: no picture ({first_line(error)})",
                code="camera.no_picture",
                camera=self._name,
            ) from error
        return pixels

    def close(self) -> None:
        self._camera.Close()


def _pylon_format(pylon: Any, kind: int) -> str:
    """The plain format that keeps what a camera's own format holds."""
    if pylon.IsBayer(kind) or pylon.IsRGB(kind) or pylon.IsBGR(kind) or pylon.IsYUV(kind):
        return "RGB8packed"
    if pylon.BitDepth(kind) > 8:
        return "Mono16"
    return "Mono8"


class _GenTl:
    """A camera of any vendor, by its GenTL producer and harvesters."""

    def __init__(self, producer: str) -> None:
        from harvesters.core import Harvester

        if not Path(producer).is_file():
            raise CameraError(
                f"gentl:{producer}: there is no such producer (a .cti file)",
                code="camera.none",
                camera=f"gentl:{producer}",
            )
        self._name = f"gentl:{producer}"
        self._harvester = Harvester()
        self._harvester.add_file(producer)
        self._harvester.update()
        if not self._harvester.device_info_list:
            self._harvester.reset()
            raise CameraError(
                f"{self._name}: the producer finds no camera", code="camera.none", camera=self._name
            )
        self._acquirer = self._harvester.create(0)
        self._acquirer.start()

    def read(self) -> NDArray[Any]:
        with self._acquirer.fetch(timeout=_WAIT_MS / 1000) as buffer:
            part = buffer.payload.components[0]
            pixels: NDArray[Any] = part.data.reshape(part.height, part.width, -1).copy()
            name = part.data_format
        pixels = pixels[..., 0] if pixels.shape[2] == 1 else pixels
        if name.startswith("BGR"):
            return pixels[..., ::-1]
        if name.startswith(("Mono", "RGB")) and not name.endswith(("p", "Packed")):
            depth = int("".join(letter for letter in name if letter.isdigit()) or 8)
            return pixels << (16 - depth) if depth > 8 else pixels
        raise CameraError(
            f"{self._name}: pictures are {name}; set the camera to Mono8, Mono12, RGB8 or BGR8",
            code="camera.format",
            camera=self._name,
            format=name,
        )

    def close(self) -> None:
        self._acquirer.stop()
        self._acquirer.destroy()
        self._harvester.reset()
