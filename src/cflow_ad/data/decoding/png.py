"""Read PNG files: colour of 16 bits with `imagecodecs`, all else with Pillow.

References:
    Portable Network Graphics (PNG) Specification, Third Edition: IHDR, sBIT, tRNS.
"""

from __future__ import annotations

import struct
from typing import IO, NamedTuple

from PIL import PngImagePlugin

from cflow_ad.data.decoding import pillow
from cflow_ad.data.decoding.mosaic import demosaic
from cflow_ad.data.decoding.opening import damaged, optional_library
from cflow_ad.data.decoding.raster import Header, Raster, Reading

_GREY = 0
_MODES = {2: "RGB;16", 4: "LA;16", 6: "RGBA;16"}


class _Start(NamedTuple):
    """What the chunks before the pixels say."""

    bits: int
    colour: int
    """The colour type: 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGB and alpha."""
    significant: int | None
    """Of `sBIT`, the most of all channels."""


def read_header(file: IO[bytes], name: str, reading: Reading) -> Header:
    """Read the header, and the orientation wherever it stands; raises as `read` does."""
    start = _read_start(file)
    file.seek(0)
    page = 1 if reading.page is None else reading.page
    image = pillow.open_image(PngImagePlugin.PngImageFile, file, name, page)
    pillow.read_header(image, file)
    return _header(pillow.header_of(image, hint=start.significant), start)


def read(file: IO[bytes], name: str, reading: Reading) -> Raster:
    """Read the pixels.

    Raises:
        ImageError: The file is damaged, or animated and no frame is chosen.
        NotDecodedError: Pillow fails.
        DependencyError: `imagecodecs` is needed and not installed.
    """
    start = _read_start(file)
    file.seek(0)
    image = pillow.open_image(PngImagePlugin.PngImageFile, file, name, reading.page)
    is_deep = start.bits == 16 and start.colour != _GREY and getattr(image, "n_frames", 1) == 1
    if is_deep:
        pillow.read_header(image, file)
    else:
        pillow.decode(image, name)
    header = pillow.header_of(image, hint=start.significant)
    if not is_deep:
        return pillow.raster_of(image, header, name, reading)
    imagecodecs = optional_library("imagecodecs", "formats", name, "a PNG of 16-bit colour")
    file.seek(0)
    try:
        samples = imagecodecs.png_decode(file.read())
    except Exception as error:
        raise damaged(name, error) from error
    samples = demosaic(samples, reading, name)
    return Raster(pillow.upright(samples, image), _header(header, start), "PNG")


def _header(header: Header, start: _Start) -> Header:
    if start.bits < 16:
        return header
    return header._replace(mode=_MODES.get(start.colour, header.mode), bits=None)


def _read_start(file: IO[bytes]) -> _Start:
    """Read the chunks before the pixels; what is damaged is left for the decoder to find."""
    file.seek(8)
    bits, colour, significant = 8, 2, None
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind in (b"IDAT", b"IEND") or length > 2**24:
            break
        content = file.read(length + 4)[:-4]
        if kind == b"IHDR" and length == 13:
            bits, colour = content[8], content[9]
        elif kind == b"sBIT" and content:
            significant = max(content)
    return _Start(bits, colour, significant if bits == 16 else None)
