"""Laws of masks: one threshold for all of them, and a mask is as large as its image."""

import numpy as np
import pytest
from PIL import Image

from cflow_ad.data.images import read_image
from cflow_ad.data.masks import check_mask, read_mask
from cflow_ad.errors import MaskError
from tests.data.pictures import save, with_orientation

H, W = 5, 7
GREY = np.random.default_rng(0).integers(0, 256, (H, W), dtype=np.uint8)


@pytest.mark.parametrize("white", [1, 255])
def test_a_mask_is_what_is_not_zero(tmp_path, white):
    expected = GREY > 127
    for i, dtype in enumerate((np.uint8, np.uint16, np.int32, np.float32)):
        path = save(tmp_path / f"{i}.tif", expected.astype(dtype) * dtype(white))
        mask = read_mask(path, (H, W))
        assert mask.dtype == bool
        np.testing.assert_array_equal(mask, expected)
    np.testing.assert_array_equal(
        read_mask(save(tmp_path / "a.png", Image.fromarray(expected)), (H, W)), expected
    )


@pytest.mark.parametrize("value", [9, 255])
def test_any_channel_counts_where_it_is_not_transparent(tmp_path, value):
    """Programs leave colours below what is transparent, white or what was erased."""
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[0, 1] = 0, 0, value, 255
    rgba[1, 0] = 0, 0, 0, 255
    rgba[1, 1] = value, value, value, 0
    mask = read_mask(save(tmp_path / "a.png", rgba), (2, 2))
    np.testing.assert_array_equal(mask, [[False, True], [False, False]])
    grey = Image.fromarray(rgba).convert("LA")
    np.testing.assert_array_equal(read_mask(save(tmp_path / "b.png", grey), (2, 2)), mask)


def test_alpha_says_nothing_where_all_is_transparent(tmp_path):
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[0, 1, 0] = 255
    mask = read_mask(save(tmp_path / "a.png", rgba), (2, 2))
    np.testing.assert_array_equal(mask, [[False, True], [False, False]])


def test_a_palette_mask_goes_by_its_colours(tmp_path):
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8)).convert("P")
    image.putpalette([255, 255, 255, 0, 0, 0, 0, 9, 0])
    mask = read_mask(save(tmp_path / "a.png", image), (1, 3))
    np.testing.assert_array_equal(mask, [[True, False, True]])


def test_a_mask_is_turned_as_its_image_is(tmp_path):
    image = save(tmp_path / "a.png", GREY, exif=with_orientation(6))
    mask = save(tmp_path / "m.png", GREY // 128 * 255, exif=with_orientation(6))
    np.testing.assert_array_equal(read_mask(mask, (W, H)), read_image(image)[..., 0] > 127)


@pytest.mark.parametrize("shape", [(H, W), (W, H), (H + 1, W)])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_header_says_of_a_masks_size_what_its_pixels_say(tmp_path, shape, orientation):
    path = save(tmp_path / "m.png", GREY, exif=with_orientation(orientation))
    said = []
    for look in (read_mask, check_mask):
        try:
            look(path, shape)
            said.append("")
        except MaskError as error:
            said.append(str(error))
    assert said[0] == said[1]
    assert (said[0] == "") == (shape == ((H, W) if orientation == 1 else (W, H)))


def test_unusable_masks(tmp_path):
    path = save(tmp_path / "a.png", GREY)
    with pytest.raises(MaskError, match=r"a\.png: the mask is 5 x 7 .* its image is 7 x 5"):
        read_mask(path, (W, H))
    with pytest.raises(MaskError, match="NaN"):
        read_mask(save(tmp_path / "a.tif", np.full((H, W), np.nan, np.float32)), (H, W))


BOX = np.zeros((64, 64), bool)
BOX[16:48, 16:40] = True


def test_soft_edges_count_from_half_of_white(tmp_path):
    ramp = np.arange(256, dtype=np.uint8)[None]
    for number, values in enumerate((ramp, ramp.astype(np.uint16) * 257, np.dstack([ramp] * 3))):
        path = save(tmp_path / f"{number}.png", values) if number < 2 else None
        path = path or save(tmp_path / "c.png", np.ascontiguousarray(values))
        np.testing.assert_array_equal(read_mask(path, (1, 256)), ramp >= 128)


def test_a_background_need_not_be_zero(tmp_path):
    path = save(tmp_path / "a.png", np.where(BOX, 240, 12).astype(np.uint8))
    np.testing.assert_array_equal(read_mask(path, BOX.shape), BOX)


@pytest.mark.parametrize("quality", [30, 75, 95])
def test_a_jpeg_is_a_mask_and_a_blank_one_is_blank(tmp_path, quality):
    path = save(tmp_path / "a.jpg", BOX.astype(np.uint8) * 255, quality=quality)
    assert (read_mask(path, BOX.shape) != BOX).mean() < 0.01
    noise = np.random.default_rng(0).integers(0, 8, BOX.shape, dtype=np.uint8)
    assert not read_mask(save(tmp_path / "b.jpg", noise, quality=quality), BOX.shape).any()


def test_numbers_of_classes_are_all_defect(tmp_path):
    classes = np.arange(6, dtype=np.uint8)[None]
    path = save(tmp_path / "a.png", classes)
    np.testing.assert_array_equal(read_mask(path, (1, 6)), classes > 0)
    colours = Image.fromarray(np.array([[0, 1, 2]], np.uint8)).convert("P")
    colours.putpalette([0, 0, 0, 64, 0, 0, 128, 0, 0])  # of Pascal VOC
    np.testing.assert_array_equal(
        read_mask(save(tmp_path / "b.png", colours), (1, 3)), [[False, True, True]]
    )
