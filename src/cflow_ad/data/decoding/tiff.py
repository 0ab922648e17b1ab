"""Read TIFF files: with Pillow where it gives every sample as stored, else with `tifffile`.

References:
    TIFF, Revision 6.0; BigTIFF: its directories have counts and offsets of 8 bytes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import struct
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import TiffImagePlugin

from cflow_ad.data.decoding import pillow
from cflow_ad.data.decoding.opening import (
    check_page,
    check_size,
    damaged,
    optional_library,
    reason,
    unsupported,
)
from cflow_ad.data.decoding.raster import Header, Raster, Reading
from cflow_ad.errors import DependencyError, ImageError

_Tags: TypeAlias = Mapping[int, tuple[Any, ...]]

_KINDS = {
    1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 11: "f", 12: "d", 13: "I", 16: "Q", 17: "q",
    18: "Q",
}  # fmt: skip
"""Numbers of the types of values, and how `struct` names them."""
_SUBFILE, _WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC = 254, 256, 257, 258, 262
_STRIPS, _ORIENTATION, _SAMPLES, _STRIP_BYTES, _PLANAR, _COLOURS = 273, 274, 277, 279, 284, 320
_TILES, _TILE_BYTES, _EXTRA, _FORMAT, _LARGEST = 324, 325, 338, 339, 341
_WANTED = {
    _SUBFILE, _WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC, _STRIPS, _ORIENTATION, _SAMPLES,
    _STRIP_BYTES, _PLANAR, _COLOURS, _TILES, _TILE_BYTES, _EXTRA, _FORMAT, _LARGEST,
}  # fmt: skip
_MOST_PAGES = 100_000
_REDUCED, _MASK = 1, 4  # bits of `_SUBFILE`: such a directory is no page
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR, _MOSAIC = 0, 1, 2, 3, 5, 6, 32803
_LAB = (8, 9, 10)  # without a white that is the same in every file
_UNSIGNED, _SIGNED, _FLOAT, _VOID = 1, 2, 3, 4


@dataclass(frozen=True, slots=True)
class _Page:
    """What the directory of one page says."""

    number: int
    """Of the directory in the file, from 0."""

    tags: _Tags
    can_pillow: bool
    """Whether Pillow reads files of this byte order and version."""

    def one(self, tag: int, default: int) -> int:
        values = self.tags.get(tag, ())
        return int(values[0]) if values else default

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.one(_WIDTH, 0), self.one(_HEIGHT, 0)

    @property
    def bits(self) -> int:
        return max(map(int, self.tags.get(_BITS, (1,))), default=1)

    @property
    def samples(self) -> int:
        return self.one(_SAMPLES, 1)

    @property
    def format(self) -> int:
        found = self.one(_FORMAT, _UNSIGNED)
        return _UNSIGNED if found == _VOID else found

    @property
    def for_pillow(self) -> bool:
        """Whether Pillow gives every sample as it is stored."""
        plain = self.format == _UNSIGNED
        one = self.samples == 1 and self.bits in (12, 16, 32)
        photometric = self.one(_PHOTOMETRIC, 1)
        # Pillow leaves grey of more than 8 bits as it is where white is 0.
        known = photometric != _MOSAIC and (photometric != _WHITE_IS_ZERO or self.bits <= 8)
        is_float = self.format == _FLOAT and self.samples == 1 and self.bits == 32
        return self.can_pillow and known and ((plain and (self.bits <= 8 or one)) or is_float)

    @property
    def depth(self) -> int | None:
        """As stated: by the largest value, if that is a depth's; else by the bits of a sample."""
        if self.bits <= 8:
            return 8
        largest = self.one(_LARGEST, 0)
        stated = largest.bit_length()
        if self.format != _FLOAT and 8 <= stated <= 16 and largest == 2**stated - 1:
            return stated
        return self.bits if 8 < self.bits < 16 else None

    @property
    def header(self) -> Header:
        width, height = self.size
        shape = pillow.turned(np.empty((height, width), np.void), self.one(_ORIENTATION, 1)).shape
        kind = {_SIGNED: " signed", _FLOAT: " float"}.get(self.format, "")
        colour = {1: "L", 2: "LA", 3: "RGB"}.get(self.samples, "RGBA")
        if self.one(_PHOTOMETRIC, 1) == _CMYK:
            colour = "CMYK"
        return Header(shape, f"{colour};{self.bits}{kind}", self.depth)


def read_header(file: IO[bytes], name: str, reading: Reading) -> Header:
    """Read the header of a page; of the first where none is chosen."""
    pages = _read_pages(file, name)
    page = pages[check_page(reading.page or 1, len(pages), name)]
    check_size(page.size, name)
    if not page.for_pillow:
        return page.header
    try:
        image = _open(file, name, page)
        pillow.read_header(image, file)
        return pillow.header_of(image, bits=page.depth)
    except pillow.NotDecodedError:
        return page.header


def read(file: IO[bytes], name: str, reading: Reading) -> Raster:
    """Read a page.

    Raises:
        ImageError: The file is damaged or of a kind that is not supported, or it has several pages
            and none is chosen.
        DependencyError: `tifffile` is needed and not installed.
    """
    pages = _read_pages(file, name)
    page = pages[check_page(reading.page, len(pages), name)]
    check_size(page.size, name)
    if page.one(_PHOTOMETRIC, 1) == _MOSAIC and reading.bayer == "none":
        raise ImageError(
            f"{name}: a sensor's mosaic (Bayer pattern); name its first two rows with --bayer, "
            "such as --bayer rggb, or convert it to colour"
        )
    if page.one(_PHOTOMETRIC, 1) in _LAB:
        raise unsupported(name, "a TIFF in L*a*b* colours")
    if page.for_pillow:
        try:
            image = _open(file, name, page)
            pillow.decode(image, name)
            return pillow.raster_of(image, pillow.header_of(image, bits=page.depth), name, reading)
        except pillow.NotDecodedError as failure:
            _check_complete(page, file, name)
            try:
                return _read_other(file, name, page, reading)
            except DependencyError:
                raise pillow.refused(name, failure.__cause__) from failure
    _check_complete(page, file, name)
    return _read_other(file, name, page, reading)


def _open(file: IO[bytes], name: str, page: _Page) -> TiffImagePlugin.TiffImageFile:
    file.seek(0)
    image = pillow.open_image(TiffImagePlugin.TiffImageFile, file, name, page.number + 1)
    assert isinstance(image, TiffImagePlugin.TiffImageFile)
    return image


def _read_other(file: IO[bytes], name: str, page: _Page, reading: Reading) -> Raster:
    """Read a page that Pillow does not read, or reads with fewer bits or a wrong sign."""
    what = f"a TIFF of {page.header.mode.split(';')[0]} with {page.bits} bits a sample"
    tifffile = optional_library("tifffile", "formats", name, what)
    optional_library("imagecodecs", "formats", name, what)
    photometric = page.one(_PHOTOMETRIC, 1)
    file.seek(0)
    try:
        with _quiet(), tifffile.TiffFile(file) as opened:
            found = opened.pages[page.number]
            samples = np.asarray(found.asarray(maxworkers=1))
            axes = found.axes
            if found.photometric == _RGB:  # JPEG is converted from YCbCr
                photometric = _RGB
    except (MemoryError, tifffile.TiffFileError, RuntimeError, struct.error) as error:
        raise damaged(name, error) from error
    except Exception as error:
        raise unsupported(name, f"this kind of TIFF ({reason(error)})") from error
    if axes == "SYX":
        samples, axes = np.moveaxis(samples, 0, 2), "YXS"
    if axes not in ("YX", "YXS"):
        raise unsupported(name, f"a TIFF with axes {axes}")
    samples = samples[..., None] if axes == "YX" else samples
    samples = _to_colours(samples, page, photometric, name)
    if samples.dtype.kind not in "uif" or samples.dtype.itemsize > 4:
        raise unsupported(name, f"a TIFF with samples of {samples.dtype}")
    samples = pillow.demosaic(samples, reading, name)
    return Raster(pillow.turned(samples, page.one(_ORIENTATION, 1)), page.header, "TIFF")


def _to_colours(samples: NDArray[Any], page: _Page, photometric: int, name: str) -> NDArray[Any]:
    """Bring samples to grey or RGB, with alpha where there is one."""
    if samples.dtype == np.bool_:
        samples = samples.astype(np.uint8) * np.uint8(255)
    channels = {_RGB: 3, _CMYK: 4}.get(photometric, 1)
    if photometric not in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _MOSAIC):
        raise unsupported(name, f"a TIFF of photometric interpretation {photometric}")
    n_extra = samples.shape[2] - channels
    if n_extra < 0:
        raise damaged(name, f"{samples.shape[2]} samples a pixel, too few for its colours")
    alpha = samples[..., channels : channels + 1]
    # 1 is alpha that colours are multiplied with already; 2 is alpha; 0 is anything.
    extra = page.one(_EXTRA, 0) if n_extra else 0
    colours = samples[..., :channels]
    if samples.dtype.kind == "f":
        return colours
    white = 2 ** (page.depth or page.bits) - 1
    if photometric == _WHITE_IS_ZERO:
        colours = white - colours
    elif photometric == _PALETTE:
        table = np.array(page.tags[_COLOURS], np.uint16).reshape(3, -1)
        colours = (table.T[colours[..., 0]] >> 8).astype(np.uint8)
    elif photometric == _CMYK:
        ink = white - colours.astype(np.int64)
        colours = (ink[..., :3] * ink[..., 3:] // white).astype(samples.dtype)
    return np.concatenate([colours, alpha], axis=2) if extra == 2 else colours


def _check_complete(page: _Page, file: IO[bytes], name: str) -> None:
    """Check that the file is long enough: a library may fill what is missing with zeros."""
    end = file.seek(0, os.SEEK_END)
    for offsets, counts in ((_STRIPS, _STRIP_BYTES), (_TILES, _TILE_BYTES)):
        places = zip(page.tags.get(offsets, ()), page.tags.get(counts, ()), strict=False)
        for offset, count in places:
            if offset + count > end:
                raise damaged(name, f"its pixels end at byte {offset + count}, the file at {end}")


def _read_pages(file: IO[bytes], name: str) -> list[_Page]:
    """Read the directories of the pages; not those of thumbnails and masks."""
    try:
        directories, can_pillow = _read_directories(file)
    except (struct.error, OverflowError, MemoryError, OSError, ValueError) as error:
        raise damaged(name, "its directory of tags is cut short or wrong") from error
    pages = [
        _Page(number, tags, can_pillow)
        for number, tags in enumerate(directories)
        if not int(tags.get(_SUBFILE, (0,))[0]) & (_REDUCED | _MASK)
    ]
    return pages or [_Page(0, directories[0], can_pillow)]


def _read_directories(file: IO[bytes]) -> tuple[list[_Tags], bool]:
    file.seek(0)
    head = file.read(16)
    order = "<" if head[:2] == b"II" else ">"
    is_big = struct.unpack(order + "H", head[2:4])[0] == 43
    count, entry, pointer = ("Q", "HHQ8s", "Q") if is_big else ("H", "HHI4s", "I")
    offset = struct.unpack(order + pointer, head[8:16] if is_big else head[4:8])[0]
    found: list[_Tags] = []
    seen: set[int] = set()
    while offset and offset not in seen and len(found) < _MOST_PAGES:
        seen.add(offset)
        file.seek(offset)
        n = struct.unpack(order + count, file.read(struct.calcsize(order + count)))[0]
        length = struct.calcsize(order + entry)
        body = file.read(n * length) if n < 2**16 else b""
        offset = struct.unpack(order + pointer, file.read(struct.calcsize(order + pointer)))[0]
        tags = {}
        for tag, kind, number, value in struct.iter_unpack(order + entry, body):
            if tag in _WANTED and kind in _KINDS and number < 2**24:
                tags[tag] = _values(file, order, _KINDS[kind], number, value, pointer)
        found.append(tags)
    if not found:
        raise struct.error
    return found, not (is_big and order == ">")


def _values(
    file: IO[bytes], order: str, kind: str, number: int, value: bytes, pointer: str
) -> tuple[Any, ...]:
    form = f"{order}{number}{kind}"
    length = struct.calcsize(form)
    if length <= len(value):
        return struct.unpack(form, value[:length])
    place = file.tell()
    file.seek(struct.unpack(order + pointer, value)[0])
    found = struct.unpack(form, file.read(length))
    file.seek(place)
    return found


class _Filter(threading.local, logging.Filter):
    """Keeps what `tifffile` logs of a file to itself in a thread that decodes here."""

    silent = False

    def filter(self, record: logging.LogRecord) -> bool:
        return not self.silent


_FILTER = _Filter()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("tifffile")
    if _FILTER not in logger.filters:
        logger.addFilter(_FILTER)
    _FILTER.silent = True
    try:
        yield
    finally:
        _FILTER.silent = False
