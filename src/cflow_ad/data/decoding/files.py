"""Read any image file: its format is recognised by its first bytes."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, NamedTuple

from PIL import BmpImagePlugin, ImageFile, WebPImagePlugin

from cflow_ad.data.decoding import jpeg, netpbm, pillow, png, tiff
from cflow_ad.data.decoding.opening import damaged, open_file, unsupported
from cflow_ad.data.decoding.raster import Header, Raster, Reading
from cflow_ad.errors import CflowError, ImageError

_FORMATS = "PNG, JPEG, BMP, TIFF, WebP or PNM (PGM, PPM)"


class _Format(NamedTuple):
    """A format that has a module of its own."""

    magic: re.Pattern[bytes]
    read: Callable[[IO[bytes], str, Reading], Raster]
    read_header: Callable[[IO[bytes], str, Reading], Header]


_OWN = (
    _Format(re.compile(rb"\x89PNG\r\n\x1a\n"), png.read, png.read_header),
    _Format(re.compile(rb"\xff\xd8\xff"), jpeg.read, jpeg.read_header),
    _Format(re.compile(rb"II[*+]\0|MM\0[*+]"), tiff.read, tiff.read_header),
    _Format(re.compile(rb"P[1-6](?=[\s#])"), netpbm.read, netpbm.read_header),
)
_PLAIN: tuple[tuple[re.Pattern[bytes], Callable[[IO[bytes]], ImageFile.ImageFile]], ...] = (
    (re.compile(rb"RIFF....WEBP", re.DOTALL), WebPImagePlugin.WebPImageFile),
    (re.compile(rb"BM"), BmpImagePlugin.BmpImageFile),
)
# Known, so that the error can name them.
_OTHERS: tuple[tuple[re.Pattern[bytes], str], ...] = tuple(
    (re.compile(pattern, re.DOTALL), name)
    for pattern, name in (
        (rb"GIF8[79]a", "a GIF image"),
        (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "a JPEG 2000 image"),
        (rb"\0\0\0\x0cJXL |\xff\x0a", "a JPEG XL image"),
        (rb"....ftypavi[fs]", "an AVIF image"),
        (rb"....ftyp(hei|mif|msf)", "an HEIF image"),
        (rb"....ftyp", "a video (MP4)"),
        (rb"RIFF....AVI ", "a video (AVI)"),
        (rb"II\xbc\x01", "a JPEG XR image"),
        (rb"P7[\s]", "a PAM image"),
        (rb"P[Ff][\s]", "a PFM image, of float,"),
        (rb"8BPS", "a Photoshop file"),
        (rb"v/1\x01", "an OpenEXR image"),
        (rb"#\?R", "a Radiance HDR image"),
        (rb"DDS ", "a DDS texture"),
        (rb"qoif", "a QOI image"),
        (rb"SIMPLE  =", "a FITS file"),
        (rb".{128}DICM", "a DICOM file"),
        (rb"\x93NUMPY", "a NumPy array; in Python, give the array. A file of it"),
        (rb"\x89HDF\r\n", "an HDF5 file"),
        (rb"%PDF", "a PDF document"),
        (rb"\0\0[\x01\x02]\0", "an icon (ICO)"),
        (rb"\x0a[\0-\x05]\x01[\x01\x02\x04\x08]", "a PCX image"),
        (rb"(\xef\xbb\xbf)?\s*<(svg|\?xml)", "an SVG drawing or other XML file"),
        (rb"PK\x03\x04", "a ZIP archive; unpack it. An archive"),
        (rb"\x1f\x8b", "a gzip archive; unpack it. An archive"),
    )
)


def read_raster(path: Path, reading: Reading) -> Raster:
    """Read the samples of an image file.

    Raises:
        ImageError: The file is missing, a folder, empty, unreadable, not an image, damaged,
            truncated, of an unsupported kind, larger than `MAX_PIXELS`, or holds several images and
            none is chosen.
        DependencyError: A library that its kind needs is not installed.
    """
    with open_file(path) as file:
        return read_raster_of(file, str(path), reading)


def read_raster_of(file: IO[bytes], name: str, reading: Reading) -> Raster:
    """Read as `read_raster`, from a file that is open or in memory."""
    with pillow.silent(), _image_errors(name):
        head = _head(file, name)
        if (own := _own_format(head)) is not None:
            return own.read(file, name, reading)
        image = _open_plain(file, head, name, reading.page)
        pillow.decode(image, name)
        return pillow.raster_of(image, pillow.header_of(image), name, reading)


def read_header(path: Path, reading: Reading) -> Header:
    """Read what the header says of an image; raises as `read_raster` does.

    Of a file that holds several images where none is chosen, it is the first one's.
    """
    with open_file(path) as file:
        return read_header_of(file, str(path), reading)


def read_header_of(file: IO[bytes], name: str, reading: Reading) -> Header:
    """Read as `read_header`, from a file that is open or in memory."""
    with pillow.silent(), _image_errors(name):
        head = _head(file, name)
        if (own := _own_format(head)) is not None:
            return own.read_header(file, name, reading)
        image = _open_plain(file, head, name, reading.page or 1)
        pillow.read_header(image, file)
        return pillow.header_of(image)


@contextlib.contextmanager
def _image_errors(name: str) -> Iterator[None]:
    """Turn what damaged bytes may raise anywhere into an error that names the file."""
    try:
        yield
    except CflowError:
        raise
    except pillow.NotDecodedError as error:
        raise pillow.refused(name, error.__cause__) from error
    except Exception as error:
        raise damaged(name, error) from error


def _head(file: IO[bytes], name: str) -> bytes:
    head = file.read(132)
    if not head:
        raise ImageError(
            f"{name}: the file is empty; copy it again from its source",
            code="image.empty",
            name=name,
        )
    file.seek(0)
    return head


def _own_format(head: bytes) -> _Format | None:
    return next((of for of in _OWN if of.magic.match(head)), None)


def _open_plain(file: IO[bytes], head: bytes, name: str, page: int | None) -> ImageFile.ImageFile:
    """Open a file of a format that Pillow alone reads."""
    decoder = next((cls for magic, cls in _PLAIN if magic.match(head)), None)
    if decoder is None:
        for magic, what in _OTHERS:
            if magic.match(head):
                raise unsupported(name, what)
        if not head.strip(b"\0"):
            raise damaged(name, "it begins with zeros alone")
        raise ImageError(
            f"{name}: this is not a {_FORMATS} image; convert it to one of these",
            code="image.format",
            name=name,
            formats=_FORMATS.replace(" or ", ", "),
        )
    return pillow.open_image(decoder, file, name, page)
