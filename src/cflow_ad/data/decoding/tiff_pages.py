"""The directories of a TIFF: what they say of each page.

References:
    TIFF, Revision 6.0; BigTIFF: its directories have counts and offsets of 8 bytes.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Any, TypeAlias

import numpy as np

from cflow_ad.data.decoding import pillow
from cflow_ad.data.decoding.opening import damaged
from cflow_ad.data.decoding.raster import Header

_Tags: TypeAlias = Mapping[int, tuple[Any, ...]]

_KINDS = {
    1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 11: "f", 12: "d", 13: "I", 16: "Q", 17: "q",
    18: "Q",
}  # fmt: skip
"""Numbers of the types of values, and how `struct` names them."""
_SUBFILE, _WIDTH, _HEIGHT, _BITS, PHOTOMETRIC = 254, 256, 257, 258, 262
_STRIPS, ORIENTATION, _SAMPLES, _STRIP_BYTES, COLOURS = 273, 274, 277, 279, 320
_TILES, _TILE_BYTES, EXTRA, _FORMAT, _LARGEST = 324, 325, 338, 339, 341
_WANTED = {
    _SUBFILE, _WIDTH, _HEIGHT, _BITS, PHOTOMETRIC, _STRIPS, ORIENTATION, _SAMPLES,
    _STRIP_BYTES, COLOURS, _TILES, _TILE_BYTES, EXTRA, _FORMAT, _LARGEST,
}  # fmt: skip
_MOST_PAGES = 100_000
_REDUCED, _MASK = 1, 4  # bits of `_SUBFILE`: such a directory is no page
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, MOSAIC = 0, 1, 2, 3, 5, 32803
LAB = (8, 9, 10)  # without a white that is the same in every file
UNSIGNED, _SIGNED, _FLOAT, _VOID = 1, 2, 3, 4


@dataclass(frozen=True, slots=True)
class Page:
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
        found = self.one(_FORMAT, UNSIGNED)
        return UNSIGNED if found == _VOID else found

    @property
    def for_pillow(self) -> bool:
        """Whether Pillow gives every sample as it is stored."""
        plain = self.format == UNSIGNED
        one = self.samples == 1 and self.bits in (12, 16, 32)
        photometric = self.one(PHOTOMETRIC, 1)
        # Pillow leaves grey of more than 8 bits as it is where white is 0.
        known = photometric != MOSAIC and (photometric != WHITE_IS_ZERO or self.bits <= 8)
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
        shape = pillow.turned(np.empty((height, width), np.void), self.one(ORIENTATION, 1)).shape
        kind = {_SIGNED: " signed", _FLOAT: " float"}.get(self.format, "")
        colour = {1: "L", 2: "LA", 3: "RGB"}.get(self.samples, "RGBA")
        if self.one(PHOTOMETRIC, 1) == CMYK:
            colour = "CMYK"
        return Header(shape, f"{colour};{self.bits}{kind}", self.depth)


def read_pages(file: IO[bytes], name: str) -> list[Page]:
    """Read the directories of the pages; not those of thumbnails and masks."""
    try:
        directories, can_pillow = _read_directories(file)
    except (struct.error, OverflowError, MemoryError, OSError, ValueError) as error:
        raise damaged(name, "its directory of tags is cut short or wrong") from error
    pages = [
        Page(number, tags, can_pillow)
        for number, tags in enumerate(directories)
        if not int(tags.get(_SUBFILE, (0,))[0]) & (_REDUCED | _MASK)
    ]
    return pages or [Page(0, directories[0], can_pillow)]


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


def check_complete(page: Page, file: IO[bytes], name: str) -> None:
    """Check that the file is long enough: a library may fill what is missing with zeros."""
    end = file.seek(0, os.SEEK_END)
    for offsets, counts in ((_STRIPS, _STRIP_BYTES), (_TILES, _TILE_BYTES)):
        places = zip(page.tags.get(offsets, ()), page.tags.get(counts, ()), strict=False)
        for offset, count in places:
            if offset + count > end:
                raise damaged(name, f"its pixels end at byte {offset + count}, the file at {end}")
