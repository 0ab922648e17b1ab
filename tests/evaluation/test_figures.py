"""The figure and the overlays: outlines, colours, sizes."""

from __future__ import annotations

import base64
import colorsys
import io
import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib import colormaps
from PIL import Image
from scipy import ndimage

from cflow_ad.data.carpet import photograph, weave
from cflow_ad.data.images import read_image
from cflow_ad.errors import DataError, SettingsError
from cflow_ad.evaluation.figures import Panel, draw_panels
from cflow_ad.evaluation.overlay import heatmap, jet_table, map_scale, outline, overlay
from tests.evaluation.synthetic import make_prediction

THRESHOLD = 1.8
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def cloth():
    rng = np.random.default_rng(0)
    return photograph(weave(rng, 128), rng)


def make_mask(shape, box=(40, 60, 50, 90)):
    mask = np.zeros(shape, bool)
    mask[box[0] : box[1], box[2] : box[3]] = True
    return mask


def make_panel(image, truth=None, title="hole"):
    """A panel whose map is the mask, blurred, on a quiet ground."""
    scores = np.full(image.shape[:2], 0.4, np.float32)
    if truth is not None:
        scores += 4 * ndimage.gaussian_filter(truth.astype(np.float32), 3)
    return Panel(make_prediction(scores), image, title, truth)


def draw(panels, path):
    draw_panels(panels, map_threshold=THRESHOLD, scale=map_scale(THRESHOLD), path=path)
    return path


def is_red(pixels):
    red, green, blue = np.moveaxis(np.asarray(pixels).astype(int), -1, 0)
    return (red > 150) & (green < 90) & (blue < 90)


def picture_rows(path):
    """Of a PNG of square images, the rows of pictures, without the margins' words."""
    pixels = read_image(path)
    in_picture = (pixels < 235).any(axis=2).mean(axis=1) > 0.5
    labels, n = ndimage.label(ndimage.binary_closing(in_picture, iterations=3))
    assert n == 3
    return [pixels[rows] for (rows,) in ndimage.find_objects(labels)]


def embedded(path):
    """The rasters in an SVG."""
    texts = re.findall(r'href="data:image/png;base64,\s*([^"]+)"', path.read_text())
    return [Image.open(io.BytesIO(base64.b64decode(text))) for text in texts]


# The picture


def test_a_defect_is_outlined_where_it_is_and_where_it_was_found(cloth, tmp_path):
    panel = make_panel(cloth, make_mask((128, 128)))
    image, _, prediction = picture_rows(draw([panel], tmp_path / "a.png"))
    assert is_red(image).any()
    assert is_red(prediction).any()


def test_good_images_have_no_contour(cloth, tmp_path):
    for truth in (None, np.zeros((128, 128), bool)):
        panel = make_panel(cloth, truth, "good")
        image, _, prediction = picture_rows(draw([panel], tmp_path / "a.png"))
        assert not is_red(image).any()
        assert not is_red(prediction).any()


def test_a_miss_has_a_true_contour_only(cloth, tmp_path):
    truth = make_mask((128, 128))
    panel = replace(make_panel(cloth), truth=truth)
    image, _, prediction = picture_rows(draw([panel], tmp_path / "a.png"))
    assert is_red(image).any()
    assert not is_red(prediction).any()


def test_a_region_at_the_edge_is_outlined_too(cloth, tmp_path):
    panel = make_panel(cloth, np.ones((128, 128), bool))
    image, _, _ = picture_rows(draw([panel], tmp_path / "a.png"))
    assert is_red(image).any()


def test_svg_has_three_rasters_for_each_image_and_one_for_the_bar(cloth, tmp_path):
    panels = [make_panel(cloth, title=f"no. {i}") for i in range(4)]
    path = draw(panels, tmp_path / "a.svg")
    root = ElementTree.parse(path).getroot()
    assert root.tag == f"{SVG}svg"
    assert len(root.findall(f".//{SVG}image")) == 3 * 4 + 1


def test_svg_embeds_no_more_pixels_than_it_needs(cloth, tmp_path):
    big = np.kron(cloth, np.ones((8, 10, 1), np.uint8))
    panel = make_panel(big, make_mask(big.shape[:2], (400, 500, 400, 600)))
    rasters = embedded(draw([panel], tmp_path / "a.svg"))
    assert len(rasters) == 4
    assert all(max(raster.size) <= 512 for raster in rasters)


def test_aspect_ratios_are_kept_whatever_the_mixture(cloth, tmp_path):
    panels = [make_panel(cloth), make_panel(cloth[:40]), make_panel(cloth[:, :30])]
    root = ElementTree.parse(draw(panels, tmp_path / "a.svg")).getroot()
    drawn = [
        float(image.get("width")) / float(image.get("height"))
        for image in root.findall(f".//{SVG}image")
    ]
    raster = [raster.width / raster.height for raster in embedded(tmp_path / "a.svg")]
    assert drawn[:-1] == pytest.approx(raster[:-1], rel=0.05)
    assert raster[:3] == pytest.approx([1, 128 / 40, 30 / 128])


def test_a_wider_picture_for_more_images(cloth, tmp_path):
    one = read_image(draw([make_panel(cloth)], tmp_path / "1.png"))
    three = read_image(draw([make_panel(cloth)] * 3, tmp_path / "3.png"))
    assert len(three) == pytest.approx(len(one), rel=0.03)
    assert three.shape[1] > 1.8 * one.shape[1]


@pytest.mark.parametrize(
    "title", ["a name that does not fit at all, not even nearly", "$x_2^$ & <b>", "擦伤\nnew", ""]
)
@pytest.mark.parametrize("suffix", [".png", ".SVG"])
def test_any_title_can_be_drawn(cloth, tmp_path, title, suffix):
    path = draw([make_panel(cloth, title=title)], tmp_path / f"a{suffix}")
    assert path.stat().st_size > 1000


def test_images_of_16_bits_can_be_drawn(cloth, tmp_path):
    panel = make_panel(cloth.astype(np.float32) + 0.25)
    assert draw([panel], tmp_path / "a.png").exists()


def test_the_same_panels_give_the_same_file(cloth, tmp_path):
    panel = make_panel(cloth)
    first = draw([panel], tmp_path / "1.png").read_bytes()
    assert draw([panel], tmp_path / "2.png").read_bytes() == first


def test_what_cannot_be_drawn_is_named(cloth, tmp_path):
    with pytest.raises(SettingsError, match=r"a\.pdf"):
        draw([make_panel(cloth)], tmp_path / "a.pdf")
    with pytest.raises(SettingsError, match="no image"):
        draw([], tmp_path / "a.png")
    with pytest.raises(DataError, match="cannot be written"):
        draw([make_panel(cloth)], tmp_path / "missing" / "a.png")


# Outlines


def test_an_overlay_changes_pixels_near_the_contour_only(cloth):
    mask = make_mask((128, 128))
    prediction = make_prediction(mask * 3)
    before = cloth.copy()
    drawn = overlay(cloth, prediction)
    changed = (drawn != cloth).any(axis=2)
    near = ndimage.binary_dilation(mask, iterations=3) & ~mask
    assert drawn.shape == cloth.shape
    assert drawn.dtype == np.uint8
    assert changed.any()
    assert not changed[~near].any()
    assert np.array_equal(cloth, before)


def test_every_pixel_beside_a_region_is_red(cloth):
    mask = make_mask((128, 128))
    beside = ndimage.binary_dilation(mask) & ~mask
    assert (outline(cloth, mask)[beside] == (255, 0, 0)).all()


def test_nothing_found_changes_nothing(cloth):
    for scores in (np.zeros((128, 128)), np.full((128, 128), 3.0)):  # the map alone decides nothing
        assert np.array_equal(overlay(cloth, make_prediction(scores, score=0.0)), cloth)


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (7, 300)])
def test_an_image_that_is_all_defect_has_its_edge_marked(shape):
    drawn = outline(np.zeros((*shape, 3), np.uint8), np.ones(shape, bool))
    assert (drawn[[0, -1]] == (255, 0, 0)).all()


def test_one_pixel_is_enough_to_be_seen(cloth):
    drawn = outline(cloth, make_mask((128, 128), (64, 65, 64, 65)))
    assert (drawn[[63, 65, 64, 64], [64, 64, 63, 65]] == (255, 0, 0)).all()


def test_the_line_is_wider_on_a_larger_image():
    widths = []
    for size in (256, 1024):
        mask = np.zeros((size, size), bool)
        mask[:, : size // 2] = True
        row = outline(np.zeros((size, size, 3), np.uint8), mask)[size // 2]
        widths.append(np.count_nonzero(row[size // 2 :, 0]))
    assert widths == [1, 4]


def test_many_regions_are_outlined_like_each_alone(cloth):
    rng = np.random.default_rng(0)
    mask = rng.random((128, 128)) > 0.995
    changed = (outline(cloth, mask) == (255, 0, 0)).all(axis=2)
    labels, n = ndimage.label(mask, np.ones((3, 3)))
    alone = [(outline(cloth, labels == i + 1) == (255, 0, 0)).all(axis=2) for i in range(n)]
    assert np.array_equal(changed, np.any(alone, axis=0) & ~(mask & ~changed))


def test_a_mask_of_another_size_is_refused(cloth):
    with pytest.raises(ValueError, match="one size"):
        outline(cloth, np.ones((4, 4), bool))


# Colours


def test_the_table_is_jet():
    assert np.abs(jet_table() / 255 - colormaps["jet"](np.arange(256))[:, :3]).max() < 0.01


def test_the_table_runs_from_blue_to_red_without_turning_back():
    hues = [colorsys.rgb_to_hsv(*colour)[0] for colour in jet_table() / 255]
    assert hues[0] == pytest.approx(2 / 3)
    assert hues[-1] == 0
    assert (np.diff(hues) <= 0).all()
    assert len(np.unique(jet_table(), axis=0)) > 250


def test_the_ends_of_the_scale_have_the_ends_of_the_table():
    colours = heatmap(np.array([[-1.0, 0.0, 2.0, 99.0]]), (0.0, 2.0))[0]
    assert (colours[:2] == jet_table()[0]).all()
    assert (colours[2:] == jet_table()[-1]).all()


def test_a_colour_does_not_depend_on_the_rest_of_the_image():
    scores = np.random.default_rng(0).random((20, 30), np.float32) * 5
    scale = map_scale(THRESHOLD)
    assert np.array_equal(heatmap(scores, scale)[3:9, 4:7], heatmap(scores[3:9, 4:7], scale))


def test_the_threshold_has_the_colour_in_the_middle():
    for threshold in (0.02, 1.8, 40.0):
        colour = heatmap(np.array([[threshold]]), map_scale(threshold))[0, 0]
        assert (colour == jet_table()[128]).all()


@pytest.mark.parametrize("threshold", [0.0, -1.0, float("nan"), float("inf")])
def test_there_is_a_scale_for_any_threshold(threshold):
    assert map_scale(threshold) == (0.0, 1.0)


def test_a_scale_that_does_not_rise_is_refused():
    with pytest.raises(ValueError, match="rise"):
        heatmap(np.zeros((2, 2)), (1.0, 1.0))
