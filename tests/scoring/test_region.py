"""A region of interest is read as it was drawn, and scaled to every image."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cflow_ad.data.augmentation import variants
from cflow_ad.errors import DataError, ImageError, MaskError, SettingsError
from cflow_ad.scoring.canvas import Sizing
from cflow_ad.scoring.cells import cells_of
from cflow_ad.scoring.image_regions import RegionFiles, open_region, open_regions
from cflow_ad.scoring.region import Region
from cflow_ad.scoring.view import View
from cflow_ad.settings import Settings


def write(path, said):
    path.write_text(json.dumps(said), encoding="utf-8")
    return path


def test_a_mask_and_polygons_say_the_same(tmp_path):
    mask = np.zeros((40, 60), np.bool_)
    mask[10:30, 15:45] = True
    Image.fromarray(mask).save(tmp_path / "mask.png")
    corners = [[15, 10], [45, 10], [45, 30], [15, 30]]
    files = [
        tmp_path / "mask.png",
        write(tmp_path / "pixels.json", [corners]),
        write(tmp_path / "fractions.json", [[[x / 60, y / 40] for x, y in corners]]),
        write(
            tmp_path / "labelme.json",
            {
                "imageHeight": 40,
                "imageWidth": 60,
                "shapes": [{"shape_type": "rectangle", "points": [[15, 10], [45, 30]]}],
            },
        ),
    ]
    for file in files:
        region = Region.read(file, (40, 60))
        for again in (region, Region.from_png(region.to_png())):
            # Polygons take in the pixels that their outline runs through.
            found = again.inside((40, 60))
            assert found[mask].all()
            assert not found[:9].any()
            assert not found[:, 46:].any()
            assert np.abs(again.inside((80, 120)).mean() - mask.mean()) < 0.06


def test_a_region_fits_its_aspect_ratio_alone_unless_drawn_in_fractions(tmp_path):
    mask = np.ones((40, 60), np.bool_)
    with pytest.raises(ImageError, match="same aspect ratio"):
        Region(mask).inside((60, 40), "a.png")
    drawn = write(tmp_path / "r.json", [[[0, 0], [0.5, 0], [0.5, 1], [0, 1]]])
    assert Region.read(drawn, (40, 60)).inside((100, 30)).mean() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ([], "three points"),
        ([[[0, 0], [1, 1]]], "three points"),
        ([[[0, 0], [90, 0], [90, 90]]], "outside the image"),
        ({"shapes": []}, "no LabelMe file"),
        ([[0, 0], [1, 0], [1, 1]], "no polygons"),
        ([[[0, 0], [1, 0], [1, float("nan")]]], "not finite"),
    ],
)
def test_what_is_no_region_is_said_in_one_line(tmp_path, said, message):
    with pytest.raises(DataError, match=message) as raised:
        Region.read(write(tmp_path / "r.json", said), (40, 60))
    assert "\n" not in str(raised.value)
    assert "r.json" in str(raised.value)


def test_an_empty_mask_and_a_missing_file_are_refused(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "empty.png")
    with pytest.raises(DataError, match="covers nothing"):
        Region.read(tmp_path / "empty.png", (8, 8))
    with pytest.raises(DataError, match="no such file"):
        Region.read(tmp_path / "none.png", (8, 8))


def test_the_mask_of_an_image_in_a_folder_has_its_stem(tmp_path):
    masks = tmp_path / "masks"
    masks.mkdir()
    mask = np.zeros((8, 8), np.uint8)
    mask[2:4] = 255
    Image.fromarray(mask).save(masks / "1.png")
    Image.fromarray(mask.T.copy()).save(masks / "2.png")
    Image.fromarray(mask).save(masks / "3_mask.png")
    regions = open_region(masks, (8, 8))
    for _ in range(2):
        assert np.array_equal(regions.inside("test/good/1.jpg", (8, 8)), mask > 0)
        assert np.array_equal(regions.inside(Path("test/bad/2.jpg").absolute(), (8, 8)), mask.T > 0)
    with pytest.raises(ImageError, match=r"3\.jpg: no region .* put its mask at .*3\.png"):
        regions.inside("test/good/3.jpg", (8, 8))
    with pytest.raises(ImageError, match=r"bad/2\.jpg and .*good/2\.jpg; put one for each"):
        regions.inside("test/good/2.jpg", (8, 8))
    with pytest.raises(MaskError, match=r"1\.png.* 8 x 8 .* 9 x 8"):
        regions.inside("test/good/1.jpg", (9, 8))
    with pytest.raises(ImageError, match="from memory"):
        regions.inside(np.zeros((8, 8, 3), np.uint8), (8, 8))
    Image.new("L", (8, 8)).save(masks / "1.png")
    with pytest.raises(ImageError, match=r"1\.png: the region of interest is empty"):
        regions.inside("test/good/1.jpg", (8, 8))
    with pytest.raises(SettingsError, match="--roi FOLDER"):
        RegionFiles().inside("1.png", (8, 8))


def test_a_cell_matters_where_a_pixel_that_matters_is_scored_by_it():
    rng = np.random.default_rng(0)
    for _ in range(30):
        inside = np.zeros((64, 96), np.bool_)
        y, x = rng.integers(0, 64), rng.integers(0, 96)
        inside[y, x] = True
        for stride in (8, 16, 32):
            found = cells_of(inside, (64, 96), (stride, stride))
            of_y = np.abs((np.arange(64 // stride) + 0.5) * stride - (y + 0.5)) < stride
            of_x = np.abs((np.arange(96 // stride) + 0.5) * stride - (x + 0.5)) < stride
            assert found[np.ix_(of_y, of_x)].all()
            assert found.sum() <= 9


def test_a_view_of_all_changes_nothing():
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    sizing = Sizing(64, 64)
    canvas = View(sizing=sizing).prepare(image)
    assert np.array_equal(canvas.pixels, sizing.prepare(image).pixels)
    assert canvas.inside is None
    assert canvas.motion is None


def test_a_manifest_says_where_to_look_in_each_image(tmp_path):
    mask = np.zeros((8, 8), np.uint8)
    mask[2:4] = 255
    for name in ("a.png", "b.png", "c.png"):
        Image.new("L", (8, 8)).save(tmp_path / name)
    Image.fromarray(mask).save(tmp_path / "roi.png")
    (tmp_path / "link").symlink_to(tmp_path)
    lines = ["path,label,roi", "a.png,,roi.png", "b.png,,", "c.png,dent,./roi.png"]
    manifest = tmp_path / "list.csv"
    manifest.write_text("\n".join(lines), encoding="utf-8")
    regions = open_regions(manifest)
    for name in ("a.png", "c.png", "link/a.png"):
        assert np.array_equal(regions.inside(tmp_path / name, (8, 8)), mask > 0)
    assert regions.inside(str(tmp_path / "b.png"), (8, 8)) is None
    view = View(sizing=Sizing(32, 32), regions=regions)
    assert view.prepare(tmp_path / "b.png").inside is None
    assert all(cells.all() for cells in view.cells_of(tmp_path / "b.png", [(8, 8)]))
    with pytest.raises(ImageError, match="list does not list it"):
        regions.inside(tmp_path / "roi.png", (8, 8))
    with pytest.raises(ImageError, match="from memory"):
        regions.inside(mask, (8, 8))
    (variant,) = variants([tmp_path / "a.png"], 1, rotation=9, shift=0.1, brightness=0, seed=0)
    assert np.array_equal(regions.inside(variant, (8, 8)), mask > 0)
    with pytest.raises(MaskError, match=r"roi\.png.* 8 x 8 .* 9 x 8"):
        regions.inside(tmp_path / "a.png", (9, 8))
    manifest.write_text("path,label,roi\na.png,,\n", encoding="utf-8")
    with pytest.raises(DataError, match="column roi"):
        open_regions(manifest)
    assert open_regions(tmp_path / "a.png") is None


def test_what_a_data_set_lists_takes_the_place_of_an_earlier_list_but_not_of_a_folder(tmp_path):
    first, second = RegionFiles({Path("/a"): None}, name="x"), RegionFiles({Path("/b"): None})
    view = View(sizing=Sizing(32, 32), regions=first)
    assert view.with_own(second).regions is second
    assert view.with_own(None) is view
    with pytest.raises(SettingsError, match="leave out --roi"):
        view.with_masks(tmp_path).with_own(second)


def test_regions_have_another_fingerprint_where_a_mask_changes(tmp_path):
    mask = tmp_path / "m.png"
    Image.new("L", (8, 8), 255).save(mask)
    regions = RegionFiles({Path("/a.png"): mask, Path("/b.png"): None})
    folder = RegionFiles(folder=tmp_path)
    first, whole = regions.fingerprint(), folder.fingerprint()
    assert RegionFiles({Path("/z/b.png"): None, Path("/z/a.png"): mask}).fingerprint() == first
    assert RegionFiles({Path("/a.png"): mask, Path("/b.png"): mask}).fingerprint() != first
    Image.new("L", (8, 8), 1).save(mask)
    assert regions.fingerprint() != first
    assert folder.fingerprint() != whole


def test_a_view_with_a_region_and_one_of_each_image_keeps_both(tmp_path):
    region = Region(np.ones((8, 8), np.bool_))
    settings = Settings(size="32x32")
    view = View(sizing=settings.sizing, region=region, regions=RegionFiles(folder=tmp_path))
    again = View.restore(settings, view.metadata(), view.pictures())
    assert np.array_equal(again.region.mask, region.mask)
    with pytest.raises(SettingsError, match="--roi FOLDER"):
        again.prepare(np.zeros((8, 8), np.uint8))
