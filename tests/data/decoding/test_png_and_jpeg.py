"""Laws of PNG and JPEG files that Pillow does not read, or reads with fewer bits."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from cflow_ad.data.decoding.raster import Reading
from cflow_ad.data.images import as_image, image_shape, read_image
from cflow_ad.errors import ImageError
from tests.data.pictures import with_orientation

imagecodecs = pytest.importorskip("imagecodecs")

H, W = 5, 7
RNG = np.random.default_rng(0)
DEEP = {n: RNG.integers(0, 65536, (H, W, n), dtype=np.uint16) for n in (2, 3, 4)}
SMOOTH = (np.linspace(0, 4095, 64 * 64 * 3).astype(np.uint16)).reshape(64, 64, 3)


def write(path, data):
    path.write_bytes(data)
    return path


def chunk(kind, data):
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def png(array, *chunks):
    """A PNG of 16 bits a sample, with more chunks before its pixels."""
    height, width, channels = array.shape
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    head = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    body = [(b"IHDR", head), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in body)


def test_16_bit_colour_keeps_its_16_bits(tmp_path):
    path = write(tmp_path / "a.png", png(DEEP[3]))
    assert image_shape(path) == (H, W)
    np.testing.assert_array_equal(read_image(path), as_image(DEEP[3]))
    with Image.open(path) as image:  # which has 8 bits of them
        assert np.abs(as_image(image) - read_image(path)).max() <= 1


@pytest.mark.parametrize("channels", [2, 4])
def test_16_bit_alpha(tmp_path, channels):
    array = DEEP[channels]
    path = write(tmp_path / "a.png", png(array))
    alpha = array[..., -1:] / 65535
    expected = np.broadcast_to(array[..., :-1] * alpha / 257, (H, W, 3))
    np.testing.assert_allclose(read_image(path), expected, rtol=1e-5)


def test_a_transparent_colour_of_16_bits_is_black(tmp_path):
    key = DEEP[3][0, 0].astype(">u2").tobytes()
    pixels = read_image(write(tmp_path / "a.png", png(DEEP[3], (b"tRNS", key))))
    assert not pixels[0, 0].any()
    np.testing.assert_array_equal(pixels[1:], as_image(DEEP[3])[1:])


def test_16_bit_colour_is_turned_as_its_exif_says(tmp_path):
    exif = with_orientation(6).tobytes().removeprefix(b"Exif\0\0")
    path = write(tmp_path / "a.png", png(DEEP[3], (b"eXIf", exif)))
    assert image_shape(path) == (W, H)
    np.testing.assert_array_equal(read_image(path), np.rot90(as_image(DEEP[3]), -1))


def test_16_bit_colour_that_is_cut_short_is_damaged(tmp_path):
    data = png(DEEP[3])
    for length in (len(data) - 30, len(data) - 60):
        with pytest.raises(ImageError, match="damaged or truncated"):
            read_image(write(tmp_path / "a.png", data[:length]))


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_of_12_bits(tmp_path, channels):
    values = SMOOTH if channels == 3 else SMOOTH[..., 0].copy()
    data = imagecodecs.jpeg8_encode(values, bitspersample=12, level=98)
    path = write(tmp_path / "a.jpg", data)
    assert image_shape(path) == (64, 64)
    expected = imagecodecs.jpeg8_decode(data).reshape(64, 64, channels) * (255 / 4095)
    pixels = read_image(path, Reading(bits=12))
    np.testing.assert_allclose(pixels, np.broadcast_to(expected, (64, 64, 3)), rtol=1e-6)


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_lossless_jpeg(tmp_path, bits):
    values = (DEEP[3][..., 0] >> (16 - bits)).astype(np.uint8 if bits == 8 else np.uint16)
    values[0, 0] = 2**bits - 1
    for number, data in enumerate(
        (
            imagecodecs.ljpeg_encode(values, bitspersample=bits),
            imagecodecs.jpegls_encode(values),
        )
    ):
        path = write(tmp_path / f"{number}.jpg", data)
        assert image_shape(path) == (H, W)
        expected = values * np.float64(255 / (2**bits - 1))
        pixels = read_image(path, Reading(bits=bits))
        np.testing.assert_allclose(pixels[..., 0], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
        (b"\0\0\0 ftypavif", "AVIF"),
        (b"\0\0\0 ftypheic", "HEIF"),
        (b"\x93NUMPY\1\0", "NumPy array"),
        (b"%PDF-1.7", "PDF"),
        (b"<?xml version='1.0'?><svg/>", "SVG"),
        (b"PK\3\4", "ZIP"),
        (b"v/1\1\2\0\0\0", "OpenEXR"),
    ],
)
def test_a_known_kind_that_is_not_read_is_named(tmp_path, head, kind):
    path = write(tmp_path / "a.png", head + bytes(200))
    with pytest.raises(ImageError, match=rf"{kind}.* is not supported; convert it to PNG"):
        read_image(path)


def test_what_begins_with_zeros_is_damaged(tmp_path):
    with pytest.raises(ImageError, match=r"zeros.*copy it again"):
        read_image(write(tmp_path / "a.png", bytes(5000)))
