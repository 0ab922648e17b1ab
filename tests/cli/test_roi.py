"""A region of interest on the command line."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from cflow_ad import Detector
from cflow_ad.data.layouts import open_dataset
from tests.cli.commands import TINY, refused, run


def test_a_region_is_given_once_and_kept(carpet, tmp_path):
    good, model = carpet / "train" / "good", tmp_path / "m.safetensors"
    drawn = tmp_path / "left.json"
    drawn.write_text(json.dumps([[[0, 0], [0.5, 0], [0.5, 1], [0, 1]]]), encoding="utf-8")
    assert run("train", good, "-o", model, "--roi", drawn, *TINY).exit_code == 0
    out = tmp_path / "out"
    run("predict", model, carpet / "test" / "good", "-o", out, "--maps", "npy", "--overlays")
    for file in out.rglob("*.npy"):
        values = np.load(file)
        assert values[:, : values.shape[1] // 2 - 1].any()
        assert not values[:, values.shape[1] // 2 + 1 :].any()
    assert json.loads(run("info", model, "--json").stdout)["view"] == {"regions": "one"}
    assert run("evaluate", model, carpet, "-o", tmp_path / "e").exit_code == 0
    said = refused("evaluate", model, carpet, "--reference", "-o", tmp_path / "f")
    assert "whole images" in said


def test_a_folder_of_masks_is_given_each_time(carpet, tmp_path):
    good, model, masks = carpet / "train" / "good", tmp_path / "m.safetensors", tmp_path / "masks"
    masks.mkdir()
    image = next(iter(sorted(good.iterdir())))
    with Image.open(image) as opened:
        side = opened.size
    for path in good.iterdir():
        Image.new("L", side, 255).save(masks / path.name)
    assert run("train", good, "-o", model, "--roi", masks, *TINY).exit_code == 0
    assert "--roi FOLDER" in refused("predict", model, image)
    assert run("predict", model, image, "--roi", masks, "--exit-zero").exit_code == 0
    assert "--roi is a folder" in refused("predict", model, image, "--roi", image)
    Image.new("L", side, 0).save(masks / image.name)
    assert "empty" in refused("train", good, "-o", model, "--roi", masks, *TINY)


def test_wrong_regions_are_said_in_one_line(carpet, tmp_path):
    good, model = carpet / "train" / "good", tmp_path / "m.safetensors"
    assert "no such file" in refused("train", good, "-o", model, "--roi", tmp_path / "no.png")
    Image.new("L", (10, 40), 255).save(tmp_path / "tall.png")
    said = refused("train", good, "-o", model, "--roi", tmp_path / "tall.png", *TINY)
    assert "same aspect ratio" in said
    (tmp_path / "x.json").write_text("{", encoding="utf-8")
    assert "no polygons" in refused("train", good, "-o", model, "--roi", tmp_path / "x.json")
    assert "align is 'x'" in refused("train", good, "-o", model, "--align", "x")


@pytest.fixture
def manifest(carpet, tmp_path):
    """The carpet, to be scored in its left half; but one training and one test image in all."""
    with Image.open(carpet / "train" / "good" / "000.png") as opened:
        mask = np.zeros(opened.size[::-1], np.uint8)
    mask[:, : mask.shape[1] // 2] = 255
    (tmp_path / "roi").mkdir()
    Image.fromarray(mask).save(tmp_path / "roi" / "left.png")
    whole = {carpet / "train" / "good" / "000.png", carpet / "test" / "good" / "000.png"}
    dataset = open_dataset(carpet)
    with (tmp_path / "list.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label", "mask", "split", "roi"])
        for split, samples in (("train", dataset.train), ("test", dataset.test)):
            for s in samples:
                roi = "" if s.path in whole else "roi/left.png"
                rows.writerow([s.path, s.label, s.mask or "", split, roi])
    return tmp_path / "list.csv"


def write_others(carpet, tmp_path):
    """List good images that no model is trained on, in their left halves."""
    others = tmp_path / "others.csv"
    good = sorted((carpet / "test" / "good").iterdir())
    rows = [f"{path},good,,train,roi/left.png" for path in good]
    others.write_text("\n".join(["path,label,mask,split,roi", *rows]), encoding="utf-8")
    return others


def test_a_manifest_says_where_to_look_and_nothing_else_is_scored(manifest, carpet, tmp_path):
    model = tmp_path / "m.safetensors"
    assert run("train", manifest, "-o", model, *TINY).exit_code == 0
    assert json.loads(run("info", model, "--json").stdout)["view"] == {"regions": "each"}
    good = carpet / "test" / "good"
    assert "--roi FOLDER" in refused("predict", model, good)
    out = tmp_path / "out"
    run("predict", model, good, "--roi", manifest, "-o", out, "--maps", "npy")
    for file in sorted(out.rglob("*.npy")):
        right = np.load(file)[:, 32:]
        assert right.any() == (file.stem == "000")
    other = carpet / "train" / "good" / "000.png"
    strange = tmp_path / "strange.png"
    strange.write_bytes(other.read_bytes())
    result = run("predict", model, other, strange, "--roi", manifest, "--exit-zero")
    assert result.exit_code == 3
    assert f"{strange}: list does not list it" in result.stderr

    assert run("evaluate", model, manifest, "-o", tmp_path / "e").exit_code == 0
    pixel = json.loads((tmp_path / "e" / "metrics.json").read_text())["pixel"]
    assert pixel["n_pixels"] == 64 * 64 + 13 * 64 * 32
    calibrated, table = tmp_path / "c.safetensors", tmp_path / "scores.csv"
    others = write_others(carpet, tmp_path)
    assert run("calibrate", model, others, "-o", calibrated).exit_code == 0
    run("predict", model, good, "--roi", others, "--table", table)
    with table.open(encoding="utf-8") as file:
        highest = max(float(row["score"]) for row in csv.DictReader(file))
    assert Detector.load(calibrated).threshold == pytest.approx(highest, rel=1e-3)


def test_a_manifest_does_what_a_folder_of_masks_does(manifest, carpet, tmp_path):
    good, masks = carpet / "train" / "good", tmp_path / "masks"
    masks.mkdir()
    for path in good.iterdir():
        if path.stem == "000":
            Image.new("L", (64, 64), 255).save(masks / path.name)
        else:
            shutil.copy(tmp_path / "roi" / "left.png", masks / path.name)
    thresholds = []
    for data, options in ((manifest, []), (good, ["--roi", masks])):
        model = tmp_path / f"{len(thresholds)}.safetensors"
        assert run("train", data, "-o", model, *options, *TINY).exit_code == 0
        calibration = Detector.load(model).calibration
        thresholds.append((calibration.threshold, calibration.map_threshold))
    assert thresholds[0] == thresholds[1]


def test_regions_of_a_manifest_that_cannot_be_used_are_said_in_one_line(
    manifest, model, carpet, tmp_path
):
    out = tmp_path / "m.safetensors"
    commands = (
        ("train", manifest, "-o", out, *TINY),
        ("evaluate", model, manifest, "-o", tmp_path / "e"),
        ("calibrate", model, write_others(carpet, tmp_path), "-o", out),
    )
    (tmp_path / "masks").mkdir()
    for command in commands:
        assert "leave out --roi" in refused(*command, "--roi", tmp_path / "masks")
    assert "leave out --roi" in refused(*commands[0], "--roi", tmp_path / "roi" / "left.png")
    left = tmp_path / "roi" / "left.png"
    for spoil, said in (
        (lambda: Image.new("L", (64, 64)).save(left), "empty"),
        (lambda: Image.new("L", (64, 32), 255).save(left), "32 x 64"),
        (lambda: left.write_text("no image"), "not a PNG"),
        (left.unlink, "no such file"),
    ):
        spoil()
        for command in commands:
            line = refused(*command)
            assert said in line
            assert str(left) in line
    assert not out.exists()
