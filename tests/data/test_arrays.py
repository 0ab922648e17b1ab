"""Laws of arrays: what OpenCV, torch and a camera give is the picture that a file holds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from cflow_ad.data.arrays import ArrayImage
from cflow_ad.data.decoding.raster import Reading
from cflow_ad.data.images import as_image, image_shape, read_image
from cflow_ad.errors import ImageError, SettingsError
from tests.data.pictures import save

H, W = 6, 9
RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (H, W, 3), dtype=np.uint8)
RGB16 = RNG.integers(0, 65536, (H, W, 3), dtype=np.uint16)


@pytest.mark.parametrize("array", [RGB, RGB16, RGB.astype(np.float32)])
def test_every_order_and_layout_is_the_same_picture(array):
    expected = as_image(array)
    forms = [
        ArrayImage(array[..., ::-1], color="bgr"),
        ArrayImage(np.moveaxis(array, 2, 0), layout="chw"),
        ArrayImage(np.moveaxis(array[..., ::-1], 2, 0).copy(), color="bgr", layout="chw"),
    ]
    for form in forms:
        np.testing.assert_array_equal(as_image(form), expected)
        assert image_shape(form) == (H, W)


def test_alpha_stays_last_in_bgra():
    rgba = np.dstack([RGB, RGB[..., 0]])
    bgra = rgba[..., [2, 1, 0, 3]]
    np.testing.assert_array_equal(as_image(ArrayImage(bgra, color="bgr")), as_image(rgba))


@pytest.mark.parametrize("scale", [1.0, 4095.0, 100])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_scale_is_white(scale, channels):
    array = RNG.uniform(0, scale, (H, W, channels))
    pixels = as_image(ArrayImage(array, scale=scale))
    expected = np.broadcast_to(array * 255 / scale, (H, W, 3))
    np.testing.assert_allclose(pixels, expected, rtol=1e-5)
    counts = array.astype(np.int32)
    np.testing.assert_allclose(
        as_image(ArrayImage(counts, scale=scale)),
        np.broadcast_to(counts * 255 / scale, (H, W, 3)),
        rtol=1e-5,
    )


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64", "float16", "bfloat16"])
def test_tensors(dtype):
    values = torch.from_numpy(RGB.copy()).permute(2, 0, 1)
    tensor = values if dtype == "uint8" else (values / 255).to(getattr(torch, dtype))
    tensor = tensor.requires_grad_(dtype != "uint8")
    scale = None if dtype == "uint8" else 1.0
    pixels = as_image(ArrayImage(tensor, layout="chw", scale=scale))
    tolerance = {"bfloat16": 1.1, "float16": 0.13}.get(dtype, 1e-3)
    assert np.abs(pixels.astype(float) - RGB).max() <= tolerance
    np.testing.assert_array_equal(as_image(values.permute(1, 2, 0)), RGB)
    assert image_shape(values.permute(1, 2, 0)) == (H, W)


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_a_file_and_the_array_in_it_are_one_picture(tmp_path, bits):
    cv2 = pytest.importorskip("cv2")
    values = RNG.integers(0, 2**bits, (H, W, 3), dtype=np.uint16)
    values = values.astype(np.uint8) if bits == 8 else values
    reading = Reading(bits=bits)
    for suffix in ("png", "tif", "ppm"):
        path = tmp_path / f"a.{suffix}"
        cv2.imwrite(str(path), values[..., ::-1])
        loaded = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        expected = as_image(ArrayImage(loaded, color="bgr"), reading)
        np.testing.assert_array_equal(read_image(path, reading), expected)
        np.testing.assert_array_equal(expected, as_image(values, reading))


def test_read_only_and_sliced_arrays_are_left_as_they_are():
    base = RNG.integers(0, 256, (3 * H, 2 * W, 3), dtype=np.uint8)
    base.setflags(write=False)
    slices = [base[::3, ::2], base[::-3, ::-2], base[H : 2 * H, W:], base[:H, :W].swapaxes(0, 1)]
    for array in slices:
        pixels = as_image(array)
        np.testing.assert_array_equal(pixels, array)
        assert pixels.flags.carray


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "grbg", "gbrg"])
@pytest.mark.parametrize("bits", [8, 12])
def test_a_mosaic_of_plain_areas_is_their_colours(tmp_path, pattern, bits):
    """A picture of one colour is that colour again, in arrays and files of either depth."""
    pytest.importorskip("cv2")
    white = 2**bits - 1
    colour = np.array([0.25, 0.5, 0.75]) * white
    where = np.array(["rgb".index(letter) for letter in pattern]).reshape(2, 2)
    mosaic = np.tile(colour[where], (8, 10)).astype(np.uint8 if bits == 8 else np.uint16)
    expected = np.broadcast_to(colour.astype(int) * (255 / white), (16, 20, 3))
    reading = Reading(bits=bits, bayer=pattern)
    path = save(tmp_path / "a.png", mosaic)
    for source in (path, mosaic, Image.fromarray(mosaic)):
        np.testing.assert_allclose(as_image(source, reading), expected, atol=1e-3)


def test_a_mosaic_has_no_colours_yet(tmp_path):
    for source in (RGB, save(tmp_path / "a.png", RGB)):
        with pytest.raises(ImageError, match="leave out --bayer"):
            as_image(source, Reading(bayer="rggb"))
    with pytest.raises(ImageError, match="without scale"):
        as_image(ArrayImage(RGB[..., 0], scale=300), Reading(bayer="rggb"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"color": "BGR"}, "color is 'BGR': it must be rgb or bgr"),
        ({"layout": "nchw"}, "layout is 'nchw': it must be hwc or chw"),
        ({"scale": 0.0}, "scale is 0.0: it must be a number greater than 0"),
        ({"scale": float("nan")}, "scale is nan"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(SettingsError, match=message):
        ArrayImage(RGB, **options)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (ArrayImage(RGB, layout="chw"), 'with layout="chw" channels come first'),
        (ArrayImage(RGB / 100, scale=1.0), "run from .* white 1; give their white as scale"),
        (ArrayImage(np.full((4, 4), np.nan), scale=1.0), "NaN; replace"),
        (ArrayImage(np.zeros((4, 4, 2))), "two channels"),
        (ArrayImage(np.zeros((4, 4), np.int16)), "int16; .* or give the value of white, scale"),
    ],
)
def test_wrong_arrays(image, message):
    with pytest.raises(ImageError, match=message):
        as_image(image)
