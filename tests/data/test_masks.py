"""Laws of masks: whatever is not zero is defect, and a mask is as large as its image."""

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


def test_any_channel_counts_and_alpha_does_not(tmp_path):
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[0, 1, 2] = 9  # blue, and wholly transparent
    rgba[1, 0, 3] = 255  # black, and opaque
    mask = read_mask(save(tmp_path / "a.png", rgba), (2, 2))
    np.testing.assert_array_equal(mask, [[False, True], [False, False]])
    grey = Image.fromarray(rgba).convert("LA")
    np.testing.assert_array_equal(read_mask(save(tmp_path / "b.png", grey), (2, 2)), mask)


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
    with pytest.raises(MaskError, match="cannot be a JPEG"):
        read_mask(save(tmp_path / "a.jpg", GREY), (H, W))
    with pytest.raises(MaskError, match="NaN"):
        read_mask(save(tmp_path / "a.tif", np.full((H, W), np.nan, np.float32)), (H, W))
