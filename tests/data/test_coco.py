"""COCO files as data sets: labels are categories, masks are outlines, and a split is as named."""

from __future__ import annotations

import json

import numpy as np
import pytest

from cflow_ad.data.layouts import open_dataset
from cflow_ad.data.masks import read_mask
from cflow_ad.errors import DataError
from cflow_ad.export.dataset import export_dataset
from tests.data.pictures import save

H, W = 20, 30
BOX = [[3, 4, 15, 4, 15, 9, 3, 9]]
CATEGORIES = {1: "dent", 2: "scratch", 3: "OK"}


def write(path, images):
    """Write a file: for each image's name, its annotations as pairs of category and outlines."""
    content = {
        "images": [
            {"id": number, "file_name": name, "height": H, "width": W}
            for number, name in enumerate(images)
        ],
        "annotations": [
            {"image_id": number, "category_id": category, "segmentation": segmentation}
            for number, name in enumerate(images)
            for category, segmentation in images[name]
        ],
        "categories": [{"id": number, "name": name} for number, name in CATEGORIES.items()],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.fixture
def parts(tmp_path):
    """Seven images: 0 to 4 are good."""
    (tmp_path / "images").mkdir()
    for number in range(7):
        save(tmp_path / "images" / f"{number}.png", np.zeros((H, W), np.uint8))
    return tmp_path


IMAGES = {
    **{f"{number}.png": [] for number in range(4)},
    "4.png": [(3, BOX)],
    "5.png": [(1, BOX)],
    "images/6.png": [(1, []), (2, BOX)],
}


def test_labels_masks_and_split(parts):
    file = write(parts / "annotations" / "instances.json", IMAGES)
    data = open_dataset(file)
    assert (data.layout, data.root, data.name) == ("coco", parts, "instances")
    assert len(data.train) == 4
    assert all(sample.is_good for sample in data.train)
    good, dent, both = data.test
    assert {good.path, *(sample.path for sample in data.train)} == {
        parts / "images" / f"{number}.png" for number in range(5)
    }
    assert (good.is_good, dent.label, both.label) == (True, "dent", "combined")
    mask = read_mask(dent.mask, (H, W))
    assert (mask[4:9, 3:15].all(), mask.sum()) == (True, 60)
    assert both.mask is None
    assert "with a box alone have no mask: 1" in data.notes[1]
    assert "no split of its own" in data.notes[2]


@pytest.mark.parametrize(
    ("name", "counts"),
    [("images/test.json", (0, 7)), ("images/instances_train.json", (5, 2))],
)
def test_the_name_says_what_it_is_for(parts, name, counts):
    data = open_dataset(write(parts / name, {key.split("/")[-1]: of for key, of in IMAGES.items()}))
    assert (len(data.train), len(data.test)) == counts


def test_a_data_set_that_is_exported_is_read_again(parts, tmp_path):
    data = open_dataset(write(parts / "annotations" / "instances.json", IMAGES))
    again = [open_dataset(path) for path in export_dataset(data, tmp_path / "out", "coco")]
    assert [s.path for s in again[0].train] == [s.path for s in data.train]
    assert [(s.path, s.label) for s in again[1].test] == [(s.path, s.label) for s in data.test]
    masks = [read_mask(of.test[1].mask, (H, W)) for of in (data, again[1])]
    np.testing.assert_array_equal(*masks)


def test_what_cannot_be_used_is_named(parts):
    with pytest.raises(DataError, match=r"1 images are not below .* \(9\.png\)"):
        open_dataset(write(parts / "parts.json", {"9.png": []}))
    (parts / "other").mkdir()
    save(parts / "other" / "1.png", np.zeros((H, W), np.uint8))
    with pytest.raises(DataError, match="both fit"):
        open_dataset(write(parts / "parts.json", {"1.png": []}))
    with pytest.raises(DataError, match="not a data set"):
        open_dataset(parts / "images" / "1.png")
