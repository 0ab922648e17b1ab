"""Decode an image file, or say in one sentence why it cannot be decoded.

Five formats are opened, recognised by their content and not by their name: a damaged or hostile
file never reaches one of Pillow's rarer decoders. Any number of threads may decode at once.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import struct
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import (
    BmpImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from cflow_ad.errors import ImageError

MAX_PIXELS = 500_000_000
"""A larger image is refused before it is decoded: a small file can claim any size."""

# The classes are called directly: Image.open would warn of any image above Pillow's own, global
# and much lower size limit.
_DECODERS: tuple[tuple[re.Pattern[bytes], Callable[[IO[bytes]], ImageFile.ImageFile]], ...] = (
    (re.compile(rb"\x89PNG\r\n\x1a\n"), PngImagePlugin.PngImageFile),
    (re.compile(rb"\xff\xd8\xff"), JpegImagePlugin.JpegImageFile),
    (re.compile(rb"II[*+]\0|MM\0[*+]"), TiffImagePlugin.TiffImageFile),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), WebPImagePlugin.WebPImageFile),
    (re.compile(rb"BM"), BmpImagePlugin.BmpImageFile),
)
_FORMATS = "PNG, JPEG, BMP, TIFF or WebP"

_ORIENTATION_TAG = 0x0112
# PNG chunks that may hold the orientation: EXIF, text that is EXIF, or XMP.
_EXIF_CHUNK = re.compile(
    rb"eXIf|(tEXt|zTXt|iTXt)(Raw profile type|XML:com\.adobe\.xmp(\x00\x01|.*Orientation))",
    re.DOTALL,
)
_TIFF_WIDTH, _TIFF_HEIGHT = 256, 257
_TURNS: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a[::-1].swapaxes(0, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a[:, ::-1].swapaxes(0, 1),
}


class _Warnings(threading.local):
    """What two of Pillow's modules see as `warnings`: silent only in a thread that decodes here.

    Pillow warns of damaged metadata, which changes no pixel. Filters and
    `warnings.catch_warnings` belong to the whole process, so they are left alone.
    """

    silent = False

    def warn(
        self, message: Warning | str, category: type[Warning] | None = None, stacklevel: int = 1
    ) -> None:
        if not self.silent:
            warnings.warn(message, category, stacklevel + 1)

    def __getattr__(self, name: str) -> Any:
        return getattr(warnings, name)


_WARNINGS = _Warnings()
for _module in (TiffImagePlugin, PngImagePlugin):
    vars(_module)["warnings"] = _WARNINGS


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    before, _WARNINGS.silent = _WARNINGS.silent, True
    try:
        yield
    finally:
        _WARNINGS.silent = before


def load(path: Path) -> Image.Image:
    """Decode the first frame of a file, in its own mode and as it is stored: see `upright`.

    Raises:
        ImageError: The file is missing, a folder, empty, unreadable, not an image, damaged,
            truncated, or larger than `MAX_PIXELS`.
    """
    with _silent(), _open(path) as file:
        return _decode(file, path)


def load_bytes(file: IO[bytes], name: str) -> Image.Image:
    """Decode the first frame of a file that is in memory; raises as `load` does."""
    with _silent():
        return _decode(file, name)


def read_shape(path: Path) -> tuple[int, int]:
    """Read height and width of an image, upright, from its header alone; raises as `load` does."""
    with _open(path) as file:
        return read_shape_of_bytes(file, path)


def read_shape_of_bytes(file: IO[bytes], name: object) -> tuple[int, int]:
    """Read as `read_shape` from a file that is open."""
    with _silent():
        image = _decode(file, name, header_only=True)
        return upright(np.empty((image.height, image.width), np.void), image).shape


def finish(image: Image.Image, name: str) -> None:
    """Decode an image that a caller opened with Pillow, in place; an error calls it `name`.

    Raises:
        ImageError: It is damaged, truncated or larger than `MAX_PIXELS`.
    """
    check_size(image.size, name)
    path = getattr(image, "filename", "")
    with _silent():
        try:
            if isinstance(image, TiffImagePlugin.TiffImageFile):
                # Keeps Pillow from mapping the file: it turns mapped ones wrongly.
                image.filename = ""
            image.load()
        except Exception as error:
            raise damaged(name, error) from error
        finally:
            if isinstance(image, TiffImagePlugin.TiffImageFile):
                image.filename = path


def upright(pixels: NDArray[Any], image: Image.Image) -> NDArray[Any]:
    """Turn an image's pixels, H x W or H x W x C, as its EXIF orientation says; returns a view."""
    try:
        with _silent():
            turn = _TURNS.get(_exif_of(image).get(_ORIENTATION_TAG, 1))
    except Exception:  # EXIF data too damaged to read: the image stays as it is stored
        turn = None
    return turn(pixels) if turn else pixels


def check_size(size: tuple[int, int], name: str) -> None:
    """Raise an ImageError for an image without pixels, or with more than `MAX_PIXELS`.

    The size is in Pillow's order: width and height.
    """
    width, height = size
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{name}: the image claims {height} x {width} pixels (height x width), more than the "
            f"{MAX_PIXELS // 1_000_000} million allowed; cut it into tiles, or shrink it"
        )
    if width * height == 0:
        raise ImageError(f"{name}: the image has no pixels; give one of at least 1 x 1")


def damaged(name: object, error: Exception) -> ImageError:
    """Build the error for an image that its decoder could not read."""
    return ImageError(
        f"{name}: the image is damaged or truncated ({reason(error)}); copy it again from its "
        "source"
    )


def reason(error: Exception) -> str:
    """Say in a few words why something failed."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def convert(image: Image.Image, mode: str, name: str) -> Image.Image:
    """Convert to ``RGB`` or ``RGBA``, also where Pillow has no direct conversion.

    Raises:
        ImageError: Images of its mode are not supported.
    """
    if image.mode in ("La", "LAB"):
        image = image.convert("LA" if image.mode == "La" else "RGB")
    try:
        return image.convert(mode)
    except ValueError as error:
        raise ImageError(
            f"{name}: images of mode {image.mode} are not supported; convert it to RGB"
        ) from error


def _open(path: Path) -> IO[bytes]:
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise ImageError(f"{path}: this is a folder; name an image file in it")
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(f"{path}: this is a device, not a file; name an image file")
        if status.st_size == 0:
            raise ImageError(f"{path}: the file is empty; copy it again from its source")
        return path.open("rb")
    except FileNotFoundError as error:
        raise ImageError(f"{path}: there is no such file; check the path") from error
    except PermissionError as error:
        raise ImageError(f"{path}: no permission to read it; change its permissions") from error
    except (OSError, ValueError) as error:
        raise ImageError(f"{path}: the file cannot be opened ({reason(error)})") from error


def _decode(file: IO[bytes], path: object, *, header_only: bool = False) -> Image.Image:
    try:
        head = file.read(16)
        decoder = next((cls for magic, cls in _DECODERS if magic.match(head)), None)
        if decoder is None:
            raise ImageError(f"{path}: this is not a {_FORMATS} image; convert it to one of these")
        file.seek(0)
        image = decoder(file)
        check_size(image.size, str(path))
        if not header_only:
            if isinstance(image, TiffImagePlugin.TiffImageFile):
                _allocate(image)
            image.load()
        with contextlib.suppress(SyntaxError, ValueError, struct.error, OSError, LookupError):
            if header_only and isinstance(image, PngImagePlugin.PngImageFile):
                _load_late_exif(image, file)
            _exif_of(image)  # while the file is open; Pillow keeps what it read
    except ImageError:
        raise
    except (Image.DecompressionBombError, MemoryError) as error:
        raise ImageError(
            f"{path}: the image is too large to decode ({reason(error)}); cut it into tiles"
        ) from error
    except Exception as error:  # a decoder may raise almost anything on damaged bytes
        raise damaged(path, error) from error
    return image


def _exif_of(image: Image.Image) -> Image.Exif:
    # A PNG's own method decodes the pixels first, since EXIF data may follow them.
    return Image.Image.getexif(image)


def _load_late_exif(image: PngImagePlugin.PngImageFile, file: IO[bytes]) -> None:
    """Decode a PNG if EXIF data may follow its pixels, which is rare."""
    place = file.tell()
    file.seek(8)
    pixels_seen = False
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        text = file.read(length) if pixels_seen and kind != b"IDAT" else b""
        if pixels_seen and _EXIF_CHUNK.match(kind + text):
            file.seek(place)
            image.load()
            return
        pixels_seen |= kind == b"IDAT"
        file.seek(length - len(text) + 4, os.SEEK_CUR)
    file.seek(place)


def _allocate(image: TiffImagePlugin.TiffImageFile) -> None:
    """Allocate a large TIFF's memory here: Pillow's own, lower size limit would refuse it."""
    limit = Image.MAX_IMAGE_PIXELS
    width, height = int(image.tag_v2[_TIFF_WIDTH]), int(image.tag_v2[_TIFF_HEIGHT])
    if limit is not None and width * height > limit:
        image.im = Image.new(image.mode, (width, height)).im
