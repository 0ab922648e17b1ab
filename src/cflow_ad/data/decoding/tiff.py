"""Read TIFF files: with Pillow where it gives every sample as stored, else with `tifffile`.

References:
    TIFF, Revision 6.0; BigTIFF: its directories have counts and offsets of 8 bytes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import struct
import threading
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import TiffImagePlugin

from cflow_ad.data.decoding import pillow
from cflow_ad.data.decoding.mosaic import demosaic
from cflow_ad.data.decoding.opening import (
    check_page,
    check_size,
    damaged,
    optional_library,
    reason,
    unsupported,
)
from cflow_ad.data.decoding.raster import Header, Raster, Reading
from cflow_ad.data.decoding.tiff_pages import (
    BLACK_IS_ZERO,
    CMYK,
    COLOURS,
    EXTRA,
    LAB,
    MOSAIC,
    ORIENTATION,
    PALETTE,
    PHOTOMETRIC,
    RGB,
    UNSIGNED,
    WHITE_IS_ZERO,
    Page,
    check_complete,
    read_pages,
)
from cflow_ad.errors import DependencyError, ImageError


def read_header(file: IO[bytes], name: str, reading: Reading) -> Header:
    """Read the header of a page; of the first where none is chosen."""
    pages = read_pages(file, name)
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
    pages = read_pages(file, name)
    page = pages[check_page(reading.page, len(pages), name)]
    check_size(page.size, name)
    if page.one(PHOTOMETRIC, 1) == MOSAIC and reading.bayer == "none":
        raise ImageError(
            f"{name}: a sensor's mosaic (Bayer pattern); name its first two rows with --bayer, "
            "such as --bayer rggb, or convert it to colour",
            code="image.mosaic",
            name=name,
        )
    if page.one(PHOTOMETRIC, 1) in LAB:
        raise unsupported(name, "a TIFF in L*a*b* colours")
    if page.for_pillow:
        try:
            image = _open(file, name, page)
            pillow.decode(image, name)
            raster = pillow.raster_of(
                image, pillow.header_of(image, bits=page.depth), name, reading
            )
            if page.bits == 32 and page.format == UNSIGNED:  # Pillow takes them for signed ones
                return dataclasses.replace(raster, samples=raster.samples.view(np.uint32))
            return raster
        except pillow.NotDecodedError as failure:
            check_complete(page, file, name)
            try:
                return _read_other(file, name, page, reading)
            except DependencyError:
                raise pillow.refused(name, failure.__cause__) from failure
    check_complete(page, file, name)
    return _read_other(file, name, page, reading)


def _open(file: IO[bytes], name: str, page: Page) -> TiffImagePlugin.TiffImageFile:
    file.seek(0)
    image = pillow.open_image(TiffImagePlugin.TiffImageFile, file, name, page.number + 1)
    assert isinstance(image, TiffImagePlugin.TiffImageFile)
    return image


def _read_other(file: IO[bytes], name: str, page: Page, reading: Reading) -> Raster:
    """Read a page that Pillow does not read, or reads with fewer bits or a wrong sign."""
    what = f"a TIFF of {page.header.mode.split(';')[0]} with {page.bits} bits a sample"
    tifffile = optional_library("tifffile", "formats", name, what)
    optional_library("imagecodecs", "formats", name, what)
    photometric = page.one(PHOTOMETRIC, 1)
    file.seek(0)
    try:
        with _quiet(), tifffile.TiffFile(file) as opened:
            found = opened.pages[page.number]
            samples = np.asarray(found.asarray(maxworkers=1))
            axes = found.axes
            if found.photometric == RGB:  # JPEG is converted from YCbCr
                photometric = RGB
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
    samples = demosaic(samples, reading, name)
    return Raster(pillow.turned(samples, page.one(ORIENTATION, 1)), page.header, "TIFF")


def _to_colours(samples: NDArray[Any], page: Page, photometric: int, name: str) -> NDArray[Any]:
    """Bring samples to grey or RGB, with alpha where there is one."""
    if samples.dtype == np.bool_:
        samples = samples.astype(np.uint8) * np.uint8(255)
    channels = {RGB: 3, CMYK: 4}.get(photometric, 1)
    if photometric not in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, MOSAIC):
        raise unsupported(name, f"a TIFF of photometric interpretation {photometric}")
    n_extra = samples.shape[2] - channels
    if n_extra < 0:
        raise damaged(name, f"{samples.shape[2]} samples a pixel, too few for its colours")
    alpha = samples[..., channels : channels + 1]
    # 1 is alpha that colours are multiplied with already; 2 is alpha; 0 is anything.
    extra = page.one(EXTRA, 0) if n_extra else 0
    colours = samples[..., :channels]
    if samples.dtype.kind == "f":
        return colours
    white = 2 ** (page.depth or page.bits) - 1
    if photometric == WHITE_IS_ZERO:
        colours = white - colours
    elif photometric == PALETTE:
        table = np.array(page.tags[COLOURS], np.uint16).reshape(3, -1)
        colours = (table.T[colours[..., 0]] >> 8).astype(np.uint8)
    elif photometric == CMYK:
        ink = white - colours.astype(np.int64)
        colours = (ink[..., :3] * ink[..., 3:] // white).astype(samples.dtype)
    return np.concatenate([colours, alpha], axis=2) if extra == 2 else colours


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
