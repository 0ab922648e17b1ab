"""Read PBM, PGM and PPM files, plain and binary: P1 to P6.

References:
    The specifications of Netpbm: pbm, pgm and ppm (5). Samples of two bytes are big-endian.
"""

from __future__ import annotations

import re
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cflow_ad.data.decoding.mosaic import demosaic
from cflow_ad.data.decoding.opening import check_page, check_size, damaged
from cflow_ad.data.decoding.raster import Header, Raster, Reading

_SPACE = rb"(?:\s|#[^\r\n]*[\r\n])+"
_NUMBER = _SPACE + rb"(\d{1,10})"
_BITMAP = re.compile(rb"P([14])" + _NUMBER * 2)
_PIXMAP = re.compile(rb"P([2356])" + _NUMBER * 3)
_COMMENT = re.compile(rb"#[^\r\n]*")
_FIRST, _MOST = 2**8, 2**20  # bytes read to find a header, which may hold comments of any length


class _Image(NamedTuple):
    kind: int
    """1 to 6."""
    width: int
    height: int
    largest: int
    """The value of white."""
    start: int
    """Where the samples begin."""
    n_bytes: int
    """That binary samples take."""

    @property
    def channels(self) -> int:
        return 3 if self.kind in (3, 6) else 1


def read_header(file: IO[bytes], name: str, reading: Reading) -> Header:
    """Read the header of an image; of the first where none is chosen."""
    return _header(_find(file, name, reading.page or 1))


def read(file: IO[bytes], name: str, reading: Reading) -> Raster:
    """Read an image.

    Samples with 8 bits or fewer are brought to 0..255. Those of a largest value that is no depth,
    such as 1000, are brought to 16 bits.

    Raises:
        ImageError: The file is damaged, or holds several images and none is chosen.
    """
    image = _find(file, name, reading.page)
    samples = _samples(file, image, name)
    if image.kind != 4 and samples.max() > image.largest:
        raise damaged(name, f"a sample is {samples.max()}, but the largest {image.largest}")
    header = _header(image)
    white = 255 if header.bits == 8 else 65535
    if image.kind in (1, 4):
        samples = np.where(samples, 0, 255)
    elif header.bits in (8, 16) and image.largest != white:
        samples = np.rint(samples * (white / image.largest))
    samples = samples.astype(np.uint8 if header.bits == 8 else np.uint16)
    samples = demosaic(samples, reading, name)
    return Raster(samples[..., None] if samples.ndim == 2 else samples, header, "PNM")


def _header(image: _Image) -> Header:
    shape = image.height, image.width
    colour = "RGB" if image.channels == 3 else "L"
    if image.largest < 256:
        return Header(shape, "1" if image.kind in (1, 4) else colour, 8)
    bits = image.largest.bit_length()
    stated = None if bits == 16 else bits
    is_depth = image.largest == 2**bits - 1
    return Header(shape, "RGB;16" if colour == "RGB" else "I;16", stated if is_depth else 16)


def _find(file: IO[bytes], name: str, page: int | None) -> _Image:
    """Only binary files may hold several images, one after the other."""
    images = [_parse(file, 0, name)]
    while images[-1].kind >= 4:
        end = images[-1].start + images[-1].n_bytes
        file.seek(end)
        if not re.match(rb"P[1-6]\s", file.read(3)):
            break
        images.append(_parse(file, end, name))
    return images[check_page(page, len(images), name)]


def _parse(file: IO[bytes], start: int, name: str) -> _Image:
    size = _FIRST
    while True:
        file.seek(start)
        head = file.read(size)
        found = _BITMAP.match(head) or _PIXMAP.match(head)
        is_whole = found is not None and found.end() < size  # no digit may follow
        if is_whole or len(head) < size or size >= _MOST:
            break
        size *= 16
    if found is None:
        raise damaged(name, "the header is not that of a PNM file")
    kind, width, height, *rest = map(int, found.groups())
    largest = rest[0] if rest else 1
    check_size((width, height), name)
    if not 0 < largest < 65536:
        raise damaged(name, f"the largest value is {largest}")
    row = (width + 7) // 8 if kind == 4 else width * (3 if kind == 6 else 1) * (1 + (largest > 255))
    return _Image(kind, width, height, largest, start + found.end() + 1, row * height)


def _samples(file: IO[bytes], image: _Image, name: str) -> NDArray[Any]:
    shape = (image.height, image.width, image.channels)
    if image.kind < 4:
        file.seek(image.start - 1)
        return _plain(file.read(), image, name).reshape(shape)
    file.seek(image.start)
    body = np.frombuffer(file.read(image.n_bytes), np.uint8)
    if len(body) < image.n_bytes:
        raise damaged(name, f"{len(body)} bytes of samples in place of {image.n_bytes}")
    if image.kind == 4:
        return np.unpackbits(body.reshape(image.height, -1), axis=1)[:, : image.width, None]
    samples = body.view(">u2").astype(np.uint16) if image.largest > 255 else body
    return samples.reshape(shape)


def _plain(data: bytes, image: _Image, name: str) -> NDArray[np.int64]:
    body = _COMMENT.sub(b"", data)
    n = image.height * image.width * image.channels
    if image.kind == 1:  # its digits may stand without space between them
        words = [bytes([digit]) for digit in b"".join(body.split())[:n]]
    else:
        words = body.split(maxsplit=n)[:n]
    if len(words) < n:
        raise damaged(name, f"{len(words)} samples in place of {n}")
    if not all(word.isdigit() and len(word) < 10 for word in words):
        raise damaged(name, "a sample is not a number")
    return np.array([int(word) for word in words], np.int64)
