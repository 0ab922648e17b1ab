"""Laws of sizing: shapes, and the reflection that fills the canvas."""

import numpy as np
import pytest
from PIL import Image

from cflow_ad.errors import ImageError, SettingsError
from cflow_ad.scoring.canvas import Sizing

MODES = ["snap", "fit", "pad", "stretch"]
SHAPES = [(1, 1), (1, 300), (300, 1), (60, 90), (65, 40), (2000, 10)]
every_mode = pytest.mark.parametrize("mode", MODES)
both_types = pytest.mark.parametrize("dtype", [np.uint8, np.float32])
RNG = np.random.default_rng(0)


def image_of(shape, dtype=np.uint8):
    return RNG.integers(0, 256, (*shape, 3), dtype=np.uint8).astype(dtype)


# Settings


@pytest.mark.parametrize(
    ("text", "height", "width"),
    [("256x512", 256, 512), ("256", 256, 256), (" 32 X 1 ", 32, 1), ("8×16384", 8, 16384)],
)
def test_sizes_are_read_height_first(text, height, width):
    assert Sizing.parse(text, mode="pad", multiple=8) == Sizing(height, width, "pad", 8)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not a size"),
        ("axb", "is not a size"),
        ("256x", "is not a size"),
        ("256x256x3", "is not a size"),
        ("25.6", "is not a size"),
        ("nan", "is not a size"),
        ("9" * 5000, "is not a size"),
        ("0", "height is 0"),
        ("256x0", "width is 0"),
        ("-5x256", "height is -5"),
        ("256x16385", "width is 16385; give a number from 1 to 16384"),
    ],
)
def test_bad_sizes(text, message):
    with pytest.raises(SettingsError, match=message):
        Sizing.parse(text)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"height": 2.5}, "height is 2.5; give a whole number"),
        ({"width": True}, "width is True"),
        ({"width": "8"}, "width is '8'"),
        ({"multiple": 0}, "multiple is 0"),
        ({"mode": "crop"}, "mode is 'crop'; give one of snap, fit, pad"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(SettingsError, match=message):
        Sizing(**{"height": 8, "width": 8, **settings})


def test_numpy_numbers_become_plain_ones():
    sizing = Sizing(np.int64(8), np.int64(9))
    assert sizing == Sizing(8, 9)
    assert type(sizing.height) is int


@pytest.mark.parametrize("text", ["native", " native ", "longest=800", "longest = 800"])
def test_sizes_without_a_box(text):
    sizing = Sizing.parse(text, multiple=8)
    assert sizing.mode == text.strip().split("=")[0].strip()
    said = "has no box to pad images to; give HEIGHTxWIDTH, or leave resize out"
    with pytest.raises(SettingsError, match=said):
        Sizing.parse(text, "pad")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("longest", "is not a size"),
        ("longest=", "is not a size"),
        ("longest=0", "height is 0"),
        ("longest=16385", "height is 16385"),
        ("native=3", "is not a size"),
    ],
)
def test_bad_sizes_without_a_box(text, message):
    with pytest.raises(SettingsError, match=message):
        Sizing.parse(text)


# Shapes


def test_native_keeps_every_pixel():
    sizing = Sizing.parse("native")
    for shape in (*SHAPES, (3072, 4096), (64, 131072)):
        assert sizing.valid_shape(shape) == shape
        assert all(0 <= c - s < 32 for c, s in zip(sizing.canvas_shape(shape), shape, strict=True))
    with pytest.raises(ImageError, match=r"at most 131072 a side.*longest=N"):
        sizing.valid_shape((1, 131073))


def test_longest_shrinks_as_fit_does_and_never_enlarges():
    for shape in SHAPES:
        valid = Sizing.parse("longest=100").valid_shape(shape)
        assert valid == (shape if max(shape) <= 100 else Sizing(100, 100).valid_shape(shape))


@pytest.mark.parametrize("box", [(64, 96), (50, 50), (1, 1), (300, 7)])
def test_fit_keeps_the_ratio_and_fills_the_box(box):
    for shape in (*SHAPES, (20000, 100), (7, 20000)):
        valid = Sizing(*box).valid_shape(shape)
        scale = min(box[0] / shape[0], box[1] / shape[1])
        for side, original, limit in zip(valid, shape, box, strict=True):
            assert 1 <= side <= limit
            assert side == 1 or abs(side - original * scale) <= 0.5 + 1e-9
        assert valid[0] == box[0] or valid[1] == box[1]


@every_mode
@pytest.mark.parametrize("multiple", [1, 8, 32])
def test_canvas_shapes(mode, multiple):
    box = (50, 70)
    sizing = Sizing(*box, mode, multiple)
    for shape in SHAPES:
        canvas, valid = sizing.canvas_shape(shape), sizing.valid_shape(shape)
        fit = Sizing(*box).valid_shape(shape)
        for side, inside, whole in zip(canvas, valid, box, strict=True):
            assert side % multiple == 0
            needed = inside if mode in ("snap", "fit") else whole
            assert needed <= side < needed + multiple
        if mode != "snap":
            assert valid == (box if mode == "stretch" else fit)
            continue
        assert valid == canvas
        for side, near in zip(valid, fit, strict=True):
            assert abs(side - near) <= multiple / 2 or side == multiple


# Pixels


@both_types
@every_mode
def test_the_canvas_is_the_image_and_its_reflection(mode, dtype):
    sizing = Sizing(50, 70, mode)
    for shape in SHAPES:
        canvas = sizing.prepare(image_of(shape, dtype))
        assert canvas.original == shape
        assert canvas.valid == sizing.valid_shape(shape)
        assert canvas.pixels.shape == (*sizing.canvas_shape(shape), 3)
        assert canvas.pixels.dtype == dtype
        assert canvas.pixels.flags.c_contiguous
        inside = canvas.pixels[: canvas.valid[0], : canvas.valid[1]]
        missing = [c - v for c, v in zip(canvas.pixels.shape[:2], canvas.valid, strict=True)]
        expected = np.pad(inside, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="symmetric")
        np.testing.assert_array_equal(canvas.pixels, expected)
        plain = sizing.prepare(np.full((*shape, 3), 77, dtype))
        assert (plain.pixels == 77).all()


@both_types
@every_mode
def test_the_right_size_passes_unchanged(mode, dtype):
    image = image_of((64, 96), dtype)
    np.testing.assert_array_equal(Sizing(64, 96, mode).prepare(image).pixels, image)
    if mode == "snap":
        return  # to 50 x 100
    padded = Sizing(64, 96, mode, multiple=50).prepare(image)
    np.testing.assert_array_equal(padded.pixels[:64, :96], image)


def test_resizing_is_pillows_bilinear_and_float_agrees_with_8_bit():
    image = image_of((90, 60))
    sizing = Sizing(32, 32, "stretch")
    expected = np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(sizing.prepare(image).pixels, expected)
    floats = sizing.prepare(image.astype(np.float32)).pixels
    assert np.abs(floats - expected).max() <= 1.01  # 8 bit rounds once for each side


def test_views_are_taken_as_they_look():
    image = image_of((90, 60))
    sizing = Sizing(32, 32)
    np.testing.assert_array_equal(
        sizing.prepare(image[::-1, :, ::-1]).pixels,
        sizing.prepare(image[::-1, :, ::-1].copy()).pixels,
    )


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 4, 3)),
        np.zeros((4, 4, 3), np.uint16),
    ],
)
def test_unusable_arrays(array):
    with pytest.raises(ImageError, match="the image array"):
        Sizing(8, 8).prepare(array)
