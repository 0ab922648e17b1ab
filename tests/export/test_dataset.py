"""Laws of a data set written anew: it is the same data set."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from cflow_ad.data.images import image_shape
from cflow_ad.data.layouts import Dataset, Sample, open_dataset
from cflow_ad.data.masks import MaskFiles, read_mask
from cflow_ad.errors import DataError, SettingsError
from cflow_ad.export.dataset import column_runs, export_dataset
from tests.cli.commands import run

H, W = 7, 9


@pytest.fixture
def dataset(tmp_path):
    """Two clips with the same names in them, a mask of two files, and a defect without a mask."""
    root = tmp_path / "clips"
    paths = [root / clip / f"{index}.png" for clip in ("a", "b") for index in range(3)]
    masks = [root / "masks" / f"{index}.png" for index in range(2)]
    random = np.random.default_rng(0)
    for path in (*paths, *masks):
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (H, W), np.uint8)
        if path in masks:
            pixels[:, ::2] = 0
        Image.fromarray(pixels).save(path)
    scratch = Sample(paths[1], "scratch 1/3", MaskFiles(tuple(masks)))
    test = (scratch, Sample(paths[4], "scratch 1/3"), Sample(paths[2], "good"))
    train = (Sample(paths[0], "good"), Sample(paths[3], "good"))
    return Dataset(root, "clips", train, test, "folder")


def content(sample):
    shape = image_shape(sample.path)
    mask = None if sample.mask is None else read_mask(sample.mask, shape).tobytes()
    return sample.path.read_bytes(), sample.label.replace("/", "-"), mask


@pytest.mark.parametrize("format", ["manifest", "mvtec"])
def test_what_is_written_is_read_as_the_same(dataset, tmp_path, format):
    out = tmp_path / "out"
    (written,) = export_dataset(dataset, out, format)
    again = open_dataset(written)
    assert again.layout == format
    for before, after in ((dataset.train, again.train), (dataset.test, again.test)):
        assert sorted(map(content, before), key=str) == sorted(map(content, after), key=str)
    with pytest.raises(DataError, match="not empty"):
        export_dataset(dataset, out, format)


def test_a_manifest_keeps_where_to_look(dataset, tmp_path):
    first, *others = dataset.train
    roi = dataset.test[0].mask.files[0]
    some = dataclasses.replace(
        dataset, train=(dataclasses.replace(first, roi=roi), *others), test=dataset.test
    )
    (written,) = export_dataset(some, tmp_path / "some")
    assert [sample.roi for sample in open_dataset(written).train] == [roi, None]
    (written,) = export_dataset(dataset, tmp_path / "none")
    assert "roi" not in written.read_text()


def test_coco(dataset, tmp_path):
    done = []
    paths = export_dataset(dataset, tmp_path / "out", "coco", progress=lambda *c: done.append(c))
    train, test = (json.loads(path.read_text()) for path in paths)
    assert done[-1] == (5, 5)
    assert (len(train["images"]), train["annotations"]) == (2, [])
    assert test["categories"] == [{"id": 1, "name": "scratch 1/3"}]
    image = test["images"][0]
    assert (image["height"], image["width"]) == (H, W)
    assert (tmp_path / "out" / image["file_name"]).resolve() == dataset.test[0].path
    union = np.zeros((H, W), int)
    *parts, without_mask = test["annotations"]
    assert (without_mask["image_id"], without_mask["segmentation"]) == (2, [])
    assert without_mask["bbox"] == [0, 0, W, H]
    for annotation in parts:
        assert (annotation["image_id"], annotation["category_id"]) == (1, 1)
        counts = annotation["segmentation"]["counts"]
        values = np.arange(len(counts)) % 2
        part = np.repeat(values, counts).reshape(H, W, order="F")
        left, top, width, height = annotation["bbox"]
        rows, columns = np.nonzero(part)
        assert (columns.min(), rows.min()) == (left, top)
        assert (np.ptp(columns) + 1, np.ptp(rows) + 1) == (width, height)
        assert part.sum() == annotation["area"]
        union += part
    np.testing.assert_array_equal(union, read_mask(dataset.test[0].mask, (H, W)))


def test_runs_of_every_mask_add_up():
    random = np.random.default_rng(0)
    for density in (0, 0.2, 0.8, 1):
        mask = random.random((5, 4)) < density
        counts = column_runs(mask)
        assert sum(counts) == mask.size
        flat = np.repeat(np.arange(len(counts)) % 2, counts)
        np.testing.assert_array_equal(flat.reshape(mask.shape, order="F"), mask)


def test_the_command(dataset, tmp_path):
    result = run("data", "export", dataset.root / "a", tmp_path / "out")
    assert result.exit_code == 0
    assert result.stdout == f"{tmp_path / 'out' / 'manifest.csv'}\n"
    assert run("data", "export", dataset.root / "a", tmp_path / "x", "-f", "voc").exit_code == 2
    with pytest.raises(SettingsError, match="manifest, coco or mvtec"):
        export_dataset(dataset, tmp_path / "y", "voc")
