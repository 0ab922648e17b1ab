"""Laws of TIFF files: every sample as it is stored, and unsupported is not damaged."""

from __future__ import annotations

import struct
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from cflow_ad.data.decoding.raster import Reading
from cflow_ad.data.images import as_image, image_shape, read_image
from cflow_ad.errors import ImageError
from tests.data.pictures import save

tifffile = pytest.importorskip("tifffile")
pytest.importorskip("imagecodecs")

H, W = 37, 50
RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (H, W, 3), dtype=np.uint8)
RGB16 = RNG.integers(0, 65536, (H, W, 3), dtype=np.uint16)
GREY16 = RGB16[..., 0].copy()
SMOOTH = np.linspace(0, 255, 64 * 64 * 3).astype(np.uint8).reshape(64, 64, 3)


def write(path, array, **options):
    tifffile.imwrite(path, array, **options)
    return path


COLOUR = {"photometric": "rgb"}
STORAGE = {
    "strips": {},
    "one row a strip": {"rowsperstrip": 1},
    "big-endian": {"byteorder": ">"},
    "BigTIFF": {"bigtiff": True},
    "big-endian BigTIFF": {"bigtiff": True, "byteorder": ">"},
    "planar": {"planarconfig": "separate"},
    "LZW": {"compression": "lzw", "predictor": True},
    "Deflate": {"compression": "zlib", "predictor": True},
    "Zstandard": {"compression": "zstd"},
    "PackBits": {"compression": "packbits"},
    "tiles": {"tile": (16, 16)},
    "planar tiles, LZW": {"tile": (16, 32), "planarconfig": "separate", "compression": "lzw"},
}


@pytest.mark.parametrize("storage", STORAGE)
@pytest.mark.parametrize("array", [RGB, RGB16], ids=["8 bits", "16 bits"])
def test_colour_is_read_as_stored(tmp_path, storage, array):
    options = dict(STORAGE[storage])
    stored = np.moveaxis(array, 2, 0) if "planarconfig" in options else array
    path = write(tmp_path / "a.tif", stored, **COLOUR, **options)
    assert image_shape(path) == (H, W)
    np.testing.assert_array_equal(read_image(path), as_image(array))


@pytest.mark.parametrize(
    "storage", ["strips", "big-endian", "BigTIFF", "big-endian BigTIFF", "LZW", "Deflate", "tiles"]
)
def test_16_bit_grey_is_read_as_stored(tmp_path, storage):
    path = write(tmp_path / "a.tif", GREY16, photometric="minisblack", **STORAGE[storage])
    np.testing.assert_array_equal(read_image(path), as_image(GREY16))


@pytest.mark.parametrize("bits", [10, 12, 14])
@pytest.mark.parametrize("channels", [1, 3])
def test_packed_bits_state_the_depth(tmp_path, bits, channels):
    """Without bits of a data set, and below more bits of one, white is that of the file."""
    values = RNG.integers(0, 2**bits, (H, W, channels), dtype=np.uint16)
    values[0, 0], values[0, 1] = 0, 2**bits - 1
    stored = values[..., 0] if channels == 1 else values
    path = write(tmp_path / "a.tif", stored, bitspersample=bits, **(COLOUR if channels > 1 else {}))
    expected = np.broadcast_to(values * np.float64(255 / (2**bits - 1)), (H, W, 3))
    for reading in (Reading(), Reading(bits=bits), Reading(bits=16)):
        np.testing.assert_allclose(read_image(path, reading), expected, rtol=1e-6)
    with pytest.raises(ImageError, match=rf"{bits} bits, but those of this data set 8.*--bits"):
        read_image(path, Reading(bits=8))


def test_unsigned_values_of_32_bits_are_not_called_signed(tmp_path):
    path = write(tmp_path / "a.tif", np.full((H, W), 2**31 + 5, np.uint32))
    with pytest.raises(ImageError, match=r"values run from 2147483653 .* outside 16 bits"):
        read_image(path)


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32])
def test_a_negative_value_is_no_brightness(tmp_path, dtype):
    low = write(
        tmp_path / "low.tif", np.array([[-1, 5], [100, 0]], dtype), photometric="minisblack"
    )
    with pytest.raises(ImageError, match=r"low\.tif: signed values from -1 to 100: .* add an off"):
        read_image(low)
    high = write(tmp_path / "high.tif", np.array([[1, 5], [100, 0]], dtype))
    unsigned = np.array([[1, 5], [100, 0]], np.uint8 if dtype == np.int8 else np.uint16)
    np.testing.assert_array_equal(read_image(high), as_image(unsigned))


def test_a_signed_image_of_pillow_is_not_taken_for_an_unsigned_one(tmp_path):
    path = write(tmp_path / "a.tif", np.array([[-1, 5]], np.int8), photometric="minisblack")
    with (
        Image.open(path) as image,
        pytest.raises(ImageError, match=r"signed 8-bit .* give the path"),
    ):
        as_image(image)


@pytest.mark.parametrize("largest", [1023, 4095])
def test_the_largest_sample_value_states_the_depth(tmp_path, largest):
    values = np.array([[0, largest // 3], [largest // 2, largest]], np.uint16)
    path = write(tmp_path / "a.tif", values, extratags=[(341, 3, 1, largest, True)])
    np.testing.assert_allclose(
        read_image(path, Reading(bits=16))[..., 0], values * (255 / largest), rtol=1e-6
    )
    wrong = write(tmp_path / "b.tif", values + 1, extratags=[(341, 3, 1, largest, True)])
    with pytest.raises(ImageError, match=r"above white.*the file states .* correct what it states"):
        read_image(wrong)


def test_a_largest_sample_value_that_is_no_depth_states_nothing(tmp_path):
    path = write(tmp_path / "a.tif", GREY16 // 2, extratags=[(341, 3, 1, 3000, True)])
    np.testing.assert_array_equal(read_image(path), as_image(GREY16 // 2))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_white_is_zero(tmp_path, dtype):
    values = RGB16[..., 0].astype(dtype)
    path = write(tmp_path / "a.tif", np.iinfo(dtype).max - values, photometric="miniswhite")
    np.testing.assert_array_equal(read_image(path), as_image(values))


@pytest.mark.parametrize(("extra", "is_alpha"), [("unassalpha", True), ("unspecified", False)])
def test_only_what_is_stated_to_be_alpha_is(tmp_path, extra, is_alpha):
    rgba = np.dstack([RGB16, GREY16])
    path = write(tmp_path / "a.tif", rgba, **COLOUR, extrasamples=[extra])
    np.testing.assert_array_equal(read_image(path), as_image(rgba if is_alpha else RGB16))


def test_cmyk_of_16_bits(tmp_path):
    ink = np.zeros((2, 2, 4), np.uint16)
    ink[0, 0] = 0, 65535, 65535, 0  # red
    ink[0, 1, 3] = 65535  # black
    path = write(tmp_path / "a.tif", ink, photometric="separated")
    np.testing.assert_array_equal(
        read_image(path), [[[255, 0, 0], [0, 0, 0]], [[255, 255, 255], [255, 255, 255]]]
    )


@pytest.mark.parametrize("compression", ["jpeg", "webp", "jpeg2000", "jpegxl"])
def test_compressed_colour_is_that_of_a_second_library(tmp_path, compression):
    path = write(tmp_path / "a.tif", SMOOTH, **COLOUR, compression=compression)
    expected = tifffile.imread(path).astype(int)
    assert np.abs(read_image(path).astype(int) - expected).max() <= 2


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_lossless_jpeg_in_tiff(tmp_path, bits):
    values = RNG.integers(0, 2**bits, (H, W), dtype=np.uint16 if bits > 8 else np.uint8)
    codec = {"compressionargs": {"lossless": True, "bitspersample": bits}}
    path = write(tmp_path / "a.tif", values, compression="jpeg", **codec)
    pixels = read_image(path, Reading(bits=bits))
    np.testing.assert_allclose(pixels[..., 0], values * (255 / (2**bits - 1)), rtol=1e-6)


def test_old_jpeg_in_tiff(tmp_path):
    """A whole JPEG file, to which tags of TIFF 6.0 point."""
    jpeg = save(tmp_path / "a.jpg", SMOOTH, quality=95, subsampling=0)
    data = jpeg.read_bytes()
    tags = [(256, 64), (257, 64), (258, 8), (259, 6), (262, 6), (273, 0), (277, 3), (278, 64)]
    tags += [(279, len(data)), (513, 0), (514, len(data)), (530, 0x10001)]
    start = 8 + 2 + 12 * len(tags) + 4 + 6
    entries = b""
    for tag, value in tags:
        count = {258: 3, 530: 2}.get(tag, 1)
        value = start if tag in (273, 513) else start - 6 if tag == 258 else value
        kind = 3 if tag in (258, 530) else 4
        entries += struct.pack("<HHII", tag, kind, count, value)
    head = struct.pack("<2sHIH", b"II", 42, 8, len(tags))
    path = tmp_path / "a.tif"
    path.write_bytes(head + entries + bytes(4) + struct.pack("<3H", 8, 8, 8) + data)
    assert np.abs(read_image(path).astype(int) - read_image(jpeg)).max() <= 3


def test_the_orientation_is_applied_to_what_pillow_does_not_read(tmp_path):
    lying = np.ascontiguousarray(np.rot90(RGB16))
    path = write(tmp_path / "a.tif", lying, **COLOUR, extratags=[(274, 3, 1, 6, True)])
    assert image_shape(path) == (H, W)
    np.testing.assert_array_equal(read_image(path), as_image(RGB16))


def test_a_page_is_chosen_and_a_thumbnail_is_no_page(tmp_path):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as file:
        file.write(RGB16, **COLOUR)
        file.write(RGB16[::2, ::2], **COLOUR, subfiletype=1)
        file.write(65535 - RGB16, **COLOUR)
    with pytest.raises(ImageError, match="holds 2 images"):
        read_image(path)
    np.testing.assert_array_equal(read_image(path, Reading(page=2)), as_image(65535 - RGB16))
    with tifffile.TiffWriter(path) as file:
        file.write(RGB, **COLOUR)
        file.write(RGB[::2, ::2], **COLOUR, subfiletype=1)
    np.testing.assert_array_equal(read_image(path), RGB)


def test_a_mosaic_is_refused_until_its_pattern_is_given(tmp_path):
    path = write(tmp_path / "a.tif", GREY16, photometric="cfa")
    with pytest.raises(ImageError, match=r"mosaic .* --bayer rggb"):
        read_image(path)


def test_float_has_no_white(tmp_path):
    path = write(tmp_path / "a.tif", RGB.astype(np.float32), **COLOUR)
    with pytest.raises(ImageError, match=r"no fixed white; convert .* the value of white, scale"):
        read_image(path)


@pytest.mark.parametrize("dtype", [np.complex64, np.float64, np.uint64])
def test_a_whole_file_of_another_kind_is_not_called_damaged(tmp_path, dtype):
    path = write(tmp_path / "a.tif", np.ones((4, 4), dtype))
    with pytest.raises(ImageError) as caught:
        read_image(path)
    assert "damaged" not in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("options", [{}, {"compression": "lzw"}, {"tile": (16, 16)}])
def test_a_file_that_is_cut_short_is_damaged(tmp_path, options, caplog):
    whole = write(tmp_path / "a.tif", RGB16, **COLOUR, **options).read_bytes()
    for length in (len(whole) - 100, len(whole) // 2, 100):
        path = tmp_path / "b.tif"
        path.write_bytes(whole[:length])
        with pytest.raises(ImageError, match="damaged or truncated"):
            read_image(path)
    assert not caplog.records


@pytest.mark.parametrize("options", [{}, {"bigtiff": True}, {"compression": "lzw"}])
def test_damage_anywhere_is_an_image_error_or_an_image(tmp_path, options):
    small = np.ascontiguousarray(RGB16[:8, :9])
    whole = write(tmp_path / "a.tif", small, **COLOUR, **options).read_bytes()
    path = tmp_path / "b.tif"
    for seed in range(40):
        rng = np.random.default_rng(seed)
        data = bytearray(whole)
        for _ in range(2):
            data[rng.integers(4, len(data) if seed % 2 else 250)] = rng.integers(256)
        path.write_bytes(data)
        try:
            image_shape(path)
            pixels = read_image(path)
        except ImageError:
            continue
        assert pixels.shape[2] == 3


def test_an_offset_beyond_every_file_is_damage(tmp_path):
    path = tmp_path / "a.tif"
    path.write_bytes(b"II+\0\x08\0\0\0" + b"\xff" * 8 + bytes(64))
    for look in (read_image, image_shape):
        with pytest.raises(ImageError, match="damaged"):
            look(path)


def test_without_the_extra_a_file_that_needs_it_says_so(tmp_path):
    """In a process where the libraries cannot be imported."""
    deep = write(tmp_path / "deep.tif", RGB16, **COLOUR)
    plain = save(tmp_path / "plain.tif", RGB, compression="tiff_lzw")
    code = f"""
import sys
sys.modules["tifffile"] = sys.modules["imagecodecs"] = None
from cflow_ad.data.images import read_image
from cflow_ad.errors import DependencyError
assert read_image({str(plain)!r}).shape == ({H}, {W}, 3)
try:
    read_image({str(deep)!r})
except DependencyError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == (
        f"{deep}: a TIFF of RGB with 16 bits a sample needs tifffile, which is not installed: "
        "pip install 'cflow-ad[formats]'"
    )
