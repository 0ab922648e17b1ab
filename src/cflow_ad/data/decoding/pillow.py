"""Decode with Pillow; any number of threads may do so at once."""

from __future__ import annotations

import contextlib
import os
import re
import struct
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, PngImagePlugin, TiffImagePlugin

from cflow_ad.data.decoding.mosaic import demosaic
from cflow_ad.data.decoding.opening import (
    check_page,
    check_size,
    damaged,
    reason,
    unsupported,
)
from cflow_ad.data.decoding.raster import Header, Raster, Reading
from cflow_ad.errors import ImageError

ORIENTATION = 0x0112
"""The tag of EXIF and TIFF that says how an image is turned."""

# PNG chunks that may hold the orientation: EXIF, text that is EXIF, or XMP.
_EXIF_CHUNK = re.compile(
    rb"eXIf|(tEXt|zTXt|iTXt)(Raw profile type|XML:com\.adobe\.xmp(\x00\x01|.*Orientation))",
    re.DOTALL,
)
_SAMPLE_FORMAT, _SIGNED = 339, 2  # of TIFF
_TURNS: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a[::-1].swapaxes(0, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a[:, ::-1].swapaxes(0, 1),
}
# How Pillow words that it cannot decode a whole file.
_NOT_DECODED = re.compile(
    r"unsupported|not supported|unknown|unrecognized|cannot handle|not available|not implemented|"
    r"no decoder|header size|too large",
    re.IGNORECASE,
)


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
def silent() -> Iterator[None]:
    """Keep Pillow's warnings of this thread to itself."""
    before, _WARNINGS.silent = _WARNINGS.silent, True
    try:
        yield
    finally:
        _WARNINGS.silent = before


class NotDecodedError(Exception):
    """Pillow does not decode a file; the error it gave is the cause."""


def open_image(
    decoder: Callable[[IO[bytes]], ImageFile.ImageFile],
    file: IO[bytes],
    name: str,
    page: int | None,
) -> ImageFile.ImageFile:
    """Read the header of an image, of the page that is wanted.

    The decoder's class is called directly: Image.open would warn of any image above Pillow's own,
    global and much lower size limit.

    Raises:
        ImageError: It is too large, or its page is not known.
        NotDecodedError: Pillow fails.
    """
    with _not_decoded(name):
        image = decoder(file)
        check_size(image.size, name)
        if not isinstance(image, TiffImagePlugin.TiffImageFile):
            page = check_page(page, getattr(image, "n_frames", 1), name) + 1
        if page is not None and page > 1:
            image.seek(page - 1)
        return image


def header_of(image: Image.Image, *, bits: int | None = None, hint: int | None = None) -> Header:
    """Describe an image that is opened; `bits` is the depth where the file states it."""
    shape = upright(np.empty((image.height, image.width), np.void), image).shape
    if not (image.mode in ("I", "F") or image.mode.startswith("I;16")):
        bits = 8
    return Header(shape, image.mode, bits, hint)


def read_header(image: ImageFile.ImageFile, file: IO[bytes]) -> None:
    """Read the orientation of an image, without its pixels where they need not be decoded for it.

    Afterwards the file may be closed: Pillow keeps what it read.
    """
    with contextlib.suppress(SyntaxError, ValueError, struct.error, OSError, LookupError):
        if isinstance(image, PngImagePlugin.PngImageFile):
            _load_late_exif(image, file)
        _exif_of(image)


def decode(image: ImageFile.ImageFile, name: str) -> None:
    """Decode the pixels, in place.

    Raises:
        ImageError: There is not enough memory.
        NotDecodedError: Pillow fails.
    """
    with _not_decoded(name):
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            _allocate(image)
        image.load()
        with contextlib.suppress(SyntaxError, ValueError, struct.error, OSError, LookupError):
            _exif_of(image)


def finish(image: Image.Image, name: str) -> None:
    """Decode an image that a caller opened with Pillow, in place; an error calls it `name`.

    Raises:
        ImageError: It is damaged, truncated, larger than `MAX_PIXELS`, or Pillow would decode it
            wrongly.
    """
    check_size(image.size, name)
    path = getattr(image, "filename", "")
    tiff = image if isinstance(image, TiffImagePlugin.TiffImageFile) else None
    if tiff is not None and tiff.mode == "L" and _SIGNED in tiff.tag_v2.get(_SAMPLE_FORMAT, ()):
        raise ImageError(
            f"{name}: signed 8-bit samples, which Pillow takes for unsigned ones; give the path",
            code="image.signed",
            name=name,
        )
    with silent():
        try:
            if tiff is not None:
                # Keeps Pillow from mapping the file: it turns mapped ones wrongly.
                tiff.filename = ""
            image.load()
        except Exception as error:
            raise damaged(name, error) from error
        finally:
            if tiff is not None:
                tiff.filename = path


def raster_of(image: Image.Image, header: Header, name: str, reading: Reading) -> Raster:
    """Take the samples of an image that is decoded.

    Raises:
        ImageError: Images of its mode are not supported.
    """
    mode = image.mode
    if mode in ("F", "I") or mode.startswith("I;16"):
        samples = np.asarray(image)
        key = image.info.get("transparency")
        if isinstance(key, int):  # a colour key: these pixels are transparent, so black
            samples = np.where(samples == key, samples.dtype.type(0), samples)
    elif image.has_transparency_data:
        samples = np.asarray(_convert(image, "RGBA", name))
    elif mode in ("1", "L"):
        samples = np.asarray(image.convert("L"))
    else:
        samples = np.asarray(_convert(image, "RGB", name))
    samples = demosaic(samples, reading, name)
    samples = samples[..., None] if samples.ndim == 2 else samples
    kind = getattr(image, "format", None) or ""
    return Raster(upright(samples, image), header, kind, mode in ("P", "PA"))


def upright(pixels: NDArray[Any], image: Image.Image) -> NDArray[Any]:
    """Turn an image's pixels, H x W or H x W x C, as its EXIF orientation says; returns a view."""
    try:
        with silent():
            orientation = _exif_of(image).get(ORIENTATION, 1)
    except Exception:  # EXIF data too damaged to read: the image stays as it is stored
        orientation = 1
    return turned(pixels, orientation)


def turned(pixels: NDArray[Any], orientation: Any) -> NDArray[Any]:
    """Turn pixels as an orientation tag says, if it is one of 1 to 8; returns a view."""
    turn = _TURNS.get(orientation) if isinstance(orientation, int) else None
    return turn(pixels) if turn else pixels


def refused(name: str, error: BaseException | None) -> ImageError:
    """Build the error for a file that Pillow fails on, from what it says."""
    text = reason(str(error) or type(error).__name__)
    if _NOT_DECODED.search(text):
        return unsupported(name, f"this kind of image ({text})")
    return damaged(name, text)


@contextlib.contextmanager
def _not_decoded(name: str) -> Iterator[None]:
    try:
        with silent():
            yield
    except ImageError:
        raise
    except (Image.DecompressionBombError, MemoryError) as error:
        raise ImageError(
            f"{name}: the image is too large to decode ({reason(error)}); cut it into tiles",
            code="image.memory",
            name=name,
        ) from error
    except Exception as error:  # a decoder may raise almost anything on damaged bytes
        raise NotDecodedError from error


def _convert(image: Image.Image, mode: str, name: str) -> Image.Image:
    """Convert to ``RGB`` or ``RGBA``, also where Pillow has no direct conversion."""
    if image.mode == "LAB":  # its white differs from program to program
        raise unsupported(name, "an image in L*a*b* colours")
    if image.mode == "La":
        image = image.convert("LA")
    try:
        return image.convert(mode)
    except ValueError as error:
        raise unsupported(name, f"an image of mode {image.mode}") from error


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
    width, height = int(image.tag_v2[256]), int(image.tag_v2[257])
    if limit is not None and width * height > limit:
        image.im = Image.new(image.mode, (width, height)).im
