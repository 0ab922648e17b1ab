"""Manifests of Lookout for Vision: images are found by the end of their keys, labels by class."""

from __future__ import annotations

import json

import pytest

from cflow_ad.data.layouts import Sample, open_dataset
from cflow_ad.errors import DataError


def line(key, name, **more):
    kind = "groundtruth/image-classification"
    return {
        "source-ref": f"s3://bucket/project/{key}",
        "anomaly-label": int(name != "normal"),
        "anomaly-label-metadata": {"class-name": name, "type": kind, "confidence": 1},
        **more,
    }


def write(folder, lines, name="train.manifest"):
    path = folder / name
    path.write_text("\n".join(json.dumps(each) for each in lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def bucket(tmp_path):
    for name in ("train/1.png", "train/2.png", "other/1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def test_images_and_labels(bucket):
    mask = {"anomaly-mask-ref": "s3://bucket/masks/2.png"}
    lines = [
        line("train/1.png", "normal"),
        line("train/2.png", "anomaly", **mask),
        line("other/1.png", "Normal"),
    ]
    data = open_dataset(write(bucket, lines))
    assert (data.layout, data.name) == ("lookout", "train")
    assert [s.path for s in data.train] == [bucket / "train/1.png", bucket / "other/1.png"]
    assert data.test == (Sample(bucket / "train/2.png", "anomaly"),)
    assert data.notes == ("masks are left out: 1",)
    test = open_dataset(write(bucket, lines, "test.manifest"))
    assert (test.train, len(test.test)) == ((), 3)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([line("train/9.png", "normal")], r"1 images are not below .*copy the bucket's images"),
        ([line("1.png", "normal")], "both fit"),
        ([{"source-ref": "s3://b/train/1.png"}], "line 1: no class of the image"),
        ([{"image": 1}], "line 1: no 'source-ref'"),
        ([[1]], "not a JSON object"),
        ([], "no images are listed"),
    ],
)
def test_bad_manifests(bucket, lines, said):
    with pytest.raises(DataError, match=said):
        open_dataset(write(bucket, lines))


def test_a_manifest_that_is_not_json(bucket):
    path = bucket / "a.jsonl"
    path.write_text("{}\n{", encoding="utf-8")
    with pytest.raises(DataError, match=r"line 1: no 'source-ref'"):
        open_dataset(path)
    path.write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match="line 1: this is not JSON"):
        open_dataset(path)
