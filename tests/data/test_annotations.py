"""Laws of outlines: what is drawn is what a second way of marking it marks."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from cflow_ad.data.coco import read_coco
from cflow_ad.data.layouts import open_dataset
from cflow_ad.data.masks import check_mask, read_mask
from cflow_ad.errors import DataError, MaskError
from tests.data.pictures import save

H, W = 20, 30
BOX = np.zeros((H, W), bool)
BOX[4:9, 3:15] = True
CORNERS = [[3, 4], [15, 4], [15, 9], [3, 9]]


def write(path, content):
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def labelme(*shapes, height=H, width=W):
    return {"shapes": list(shapes), "imageHeight": height, "imageWidth": width, "imageData": None}


def shape(points, kind="polygon", **more):
    return {"label": "dent", "points": points, "shape_type": kind, **more}


def coco(*annotations, name="dent/0.png"):
    images = [{"id": 7, "file_name": name, "height": H, "width": W}]
    more = [{"id": n, "image_id": 7, **each} for n, each in enumerate(annotations)]
    return {"images": images, "annotations": more, "categories": []}


def run_lengths(mask):
    """Unmarked and marked pixels in turn, down the columns."""
    flat = mask.T.ravel()
    changes = np.flatnonzero(np.diff(np.concatenate([[False], flat]).astype(int))).tolist()
    return np.diff([0, *changes, flat.size]).tolist()


def as_text(lengths):
    text = ""
    for n, length in enumerate(lengths):
        value = length - (lengths[n - 2] if n > 2 else 0)
        more = True
        while more:
            digit, value = value & 0x1F, value >> 5
            more = value != (-1 if digit & 0x10 else 0)
            text += chr((digit | 0x20 * more) + 48)
    return text


def test_polygons_rectangles_and_masks_of_labelme_mark_the_same(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(np.ones((5, 12), bool)).save(buffer, "PNG")
    picture = base64.b64encode(buffer.getvalue()).decode()
    shapes = [
        shape(CORNERS),
        shape([[3, 4], [15, 9]], "rectangle"),
        shape([[3, 4], [14, 8]], "mask", mask=picture),
    ]
    for number, each in enumerate(shapes):
        path = write(tmp_path / f"{number}.json", labelme(each))
        np.testing.assert_array_equal(read_mask(path, (H, W)), BOX)
        check_mask(path, (H, W))


def test_a_circle_has_its_area(tmp_path):
    path = write(tmp_path / "a.json", labelme(shape([[15, 10], [15, 3]], "circle")))
    assert read_mask(path, (H, W)).sum() == pytest.approx(np.pi * 49, rel=0.03)


def test_polygons_and_run_lengths_of_coco_mark_the_same(tmp_path):
    lengths = run_lengths(BOX)
    flat = [[value for corner in CORNERS for value in corner]]
    rng = np.random.default_rng(0)
    noise = rng.random((H, W)) > 0.6
    for segmentation, expected in (
        (flat, BOX),
        ({"size": [H, W], "counts": lengths}, BOX),
        ({"size": [H, W], "counts": as_text(lengths)}, BOX),
        ({"size": [H, W], "counts": as_text(run_lengths(noise))}, noise),
    ):
        path = write(tmp_path / "a.json", coco({"segmentation": segmentation}))
        outlines = read_coco(path)["dent/0.png"].outlines
        np.testing.assert_array_equal(read_mask(outlines, (H, W)), expected)


def test_several_annotations_of_an_image_are_united(tmp_path):
    parts = [[[3, 4], [9, 4], [9, 9], [3, 9]], [[9, 4], [15, 4], [15, 9], [9, 9]]]
    flats = [{"segmentation": [[value for corner in part for value in corner]]} for part in parts]
    path = write(tmp_path / "a.json", coco(*flats))
    np.testing.assert_array_equal(read_mask(read_coco(path)["dent/0.png"].outlines, (H, W)), BOX)
    shapes = labelme(*(shape(part) for part in parts))
    np.testing.assert_array_equal(read_mask(write(tmp_path / "b.json", shapes), (H, W)), BOX)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            labelme(shape([[1, 1], [5, 5]], "line")),
            r"a\.json: a shape of type line, which covers no area; draw",
        ),
        (labelme(shape([[1, 1], [5, 5]])), "three points"),
        (labelme(shape([[0, 0], [90, 0], [90, 90]])), "outside the image"),
        (labelme(shape(CORNERS), height=W, width=H), "the mask is 30 x 20 .* its image is 20 x 30"),
        ({"shapes": 3}, "no LabelMe file"),
        ([1], "no LabelMe file"),
    ],
)
def test_unusable_labelme_files(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        read_mask(write(tmp_path / "a.json", content), (H, W))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (coco({"segmentation": [[1, 2, 3]]}), "odd number"),
        (coco({"segmentation": {"size": [2, 2], "counts": [1]}}), "do not fill"),
        ({"images": [], "annotations": [{"image_id": 3}]}, "no COCO file"),
    ],
)
def test_unusable_coco_files(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        read_coco(write(tmp_path / "a.json", content))


@pytest.fixture
def parts(tmp_path):
    """A data set whose one defect has no mask yet."""
    rng = np.random.default_rng(0)
    for folder in ("train/good", "test/good", "test/dent"):
        (tmp_path / folder).mkdir(parents=True)
        save(tmp_path / folder / "0.png", rng.integers(0, 256, (H, W, 3), dtype=np.uint8))
    return tmp_path


def mask_of(root):
    (sample,) = (s for s in open_dataset(root).test if s.label == "dent")
    return read_mask(sample.mask, (H, W))


def test_outlines_lie_beside_the_image_or_in_ground_truth(parts):
    places = ["test/dent/0.json", "ground_truth/dent/0.json", "ground_truth/dent/0_mask.json"]
    for place in places:
        path = parts / place
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, labelme(shape(CORNERS)))
        np.testing.assert_array_equal(mask_of(parts), BOX)
        path.unlink()
    (parts / "ground_truth/dent").rmdir()
    for name in ("dent/0.png", "anything/dent/0.png"):
        content = coco({"segmentation": [[v for corner in CORNERS for v in corner]]}, name=name)
        write(parts / "ground_truth/annotations.json", content)
        if name == "dent/0.png":
            np.testing.assert_array_equal(mask_of(parts), BOX)
        else:
            with pytest.raises(DataError, match=r"may be .*0\.png or .*0\.png; write its path"):
                mask_of(parts)


def test_a_box_is_no_mask(parts):
    (parts / "ground_truth").mkdir()
    content = coco({"bbox": [1, 2, 3, 4], "segmentation": []})
    write(parts / "ground_truth/annotations.json", content)
    with pytest.raises(DataError, match="a box alone"):
        mask_of(parts)


def test_outlines_are_ground_truth_in_a_manifest(parts):
    write(parts / "dent.json", labelme(shape(CORNERS)))
    lines = "path,label,mask\ntrain/good/0.png,,\ntest/dent/0.png,dent,dent.json\n"
    (parts / "set.csv").write_text(lines, encoding="utf-8")
    np.testing.assert_array_equal(mask_of(parts / "set.csv"), BOX)


def test_an_image_with_two_masks_is_refused(parts):
    write(parts / "test/dent/0.json", labelme(shape(CORNERS)))
    (parts / "ground_truth/dent").mkdir(parents=True)
    save(parts / "ground_truth/dent/0.png", BOX.astype(np.uint8) * 255)
    with pytest.raises(DataError, match="has two masks"):
        open_dataset(parts)


def test_masks_of_good_images_are_blank(parts):
    folder = parts / "ground_truth/good"
    folder.mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 4, (64, 64), dtype=np.uint8)
    save(folder / "0.png", np.zeros((H, W), np.uint8))
    save(folder / "1.jpg", noise)
    assert all(s.mask is None for s in open_dataset(parts).test if s.is_good)
    save(folder / "2.png", BOX.astype(np.uint8) * 255)
    with pytest.raises(DataError, match=r"2\.png: it marks a defect in a good image"):
        open_dataset(parts)


def test_a_mask_that_is_no_longer_its_images_is_refused(parts):
    content = labelme(shape(CORNERS), height=40, width=60)
    path = write(parts / "a.json", content)
    for look in (read_mask, check_mask):
        with pytest.raises(MaskError, match="the mask is 40 x 60"):
            look(path, (H, W))
