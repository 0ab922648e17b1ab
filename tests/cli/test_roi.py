"""A region of interest on the command line."""

from __future__ import annotations

import json

import numpy as np
from PIL import Image

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
