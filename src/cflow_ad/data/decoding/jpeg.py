"""Read JPEG files: of 8 bits with Pillow, of 12 bits and lossless ones with `imagecodecs`."""

from __future__ import annotations

import struct
from typing import IO

from PIL import JpegImagePlugin

from cflow_ad.data.decoding import pillow
from cflow_ad.data.decoding.mosaic import demosaic
from cflow_ad.data.decoding.opening import check_size, damaged, optional_library
from cflow_ad.data.decoding.raster import Header, Raster, Reading

_LOSSLESS, _JPEG_LS = 0xC3, 0xF7
_FRAMES = {*range(0xC0, 0xD0), _JPEG_LS} - {0xC4, 0xC8, 0xCC}
_NO_LENGTH = {0x01, *range(0xD0, 0xD9)}


def read_header(file: IO[bytes], name: str, reading: Reading) -> Header:
    """Read the header."""
    return _open(file, name, reading)[1]


def read(file: IO[bytes], name: str, reading: Reading) -> Raster:
    """Read the pixels.

    Raises:
        ImageError: The file is damaged.
        NotDecodedError: Pillow fails.
        DependencyError: `imagecodecs` is needed and not installed.
    """
    image, header, kind = _open(file, name, reading)
    if image is not None:
        pillow.decode(image, name)
        return pillow.raster_of(image, header, name, reading)
    what = "a JPEG that is lossless or of 12 bits"
    imagecodecs = optional_library("imagecodecs", "formats", name, what)
    file.seek(0)
    decode = {_LOSSLESS: imagecodecs.jpegsof3_decode, _JPEG_LS: imagecodecs.jpegls_decode}
    try:
        samples = decode.get(kind, imagecodecs.jpeg_decode)(file.read())
    except Exception as error:
        raise damaged(name, error) from error
    samples = demosaic(samples, reading, name)
    samples = samples[..., None] if samples.ndim == 2 else samples
    return Raster(samples, header, "JPEG" if kind not in decode else "lossless JPEG")


def _open(
    file: IO[bytes], name: str, reading: Reading
) -> tuple[JpegImagePlugin.JpegImageFile | None, Header, int]:
    """Open with Pillow; None where its marker says that Pillow does not decode it."""
    file.seek(0)
    kind, bits, shape, channels = _read_frame(file)
    if kind in (_LOSSLESS, _JPEG_LS) or bits > 8:
        check_size((shape[1], shape[0]), name)
        mode = f"{'L' if channels == 1 else 'RGB'}{';16' if bits > 8 else ''}"
        return None, Header(shape, mode, max(8, bits) if bits < 16 else None), kind
    file.seek(0)
    image = pillow.open_image(JpegImagePlugin.JpegImageFile, file, name, reading.page)
    pillow.read_header(image, file)
    assert isinstance(image, JpegImagePlugin.JpegImageFile)
    return image, pillow.header_of(image), kind


def _read_frame(file: IO[bytes]) -> tuple[int, int, tuple[int, int], int]:
    """Return the marker of the frame, its bits, height and width, and channels; 0 if not found."""
    file.seek(2)
    while len(head := file.read(2)) == 2 and head[0] == 0xFF:
        marker = head[1]
        if marker == 0xFF:
            file.seek(-1, 1)
        elif marker not in _NO_LENGTH:
            size = file.read(2)
            if len(size) < 2 or marker == 0xDA:
                break
            length = struct.unpack(">H", size)[0]
            content = file.read(max(0, length - 2))
            if marker in _FRAMES and len(content) >= 6:
                bits, height, width, channels = struct.unpack(">BHHB", content[:6])
                return marker, bits, (height, width), channels
    return 0, 8, (0, 0), 0
