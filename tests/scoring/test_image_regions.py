"""Regions of interest in a folder: masks are found by the names of images and of their folders."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from cflow_ad.errors import ImageError
from cflow_ad.scoring.image_regions import RegionFiles

SHAPE = (6, 8)


def save(path, column=0):
    """Write a mask with one column marked."""
    mask = np.zeros(SHAPE, np.uint8)
    mask[:, column] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask).save(path)


@pytest.fixture
def images(tmp_path):
    """Images of two folders, with one name."""
    return [tmp_path / "parts" / folder / "1.jpg" for folder in "ab"]


def test_masks_in_the_folders_of_their_images(images, tmp_path):
    save(tmp_path / "masks" / "a" / "1.png", 1)
    save(tmp_path / "masks" / "parts" / "b" / "1.png", 2)
    save(tmp_path / "masks" / "1.png", 3)
    regions = RegionFiles(folder=tmp_path / "masks")
    found = [regions.inside(path, SHAPE) for path in (*images, tmp_path / "parts" / "1.jpg")]
    assert [int(np.flatnonzero(mask[0])[0]) for mask in found] == [1, 2, 3]


def test_a_mask_of_two_images_or_none_is_refused(images, tmp_path):
    regions = RegionFiles(folder=tmp_path / "masks")
    with pytest.raises(ImageError, match=r"put its mask at .*masks/1\.png, or at a/1\.png"):
        regions.inside(images[0], SHAPE)
    save(tmp_path / "masks" / "1.png")
    regions.inside(images[0], SHAPE)
    with pytest.raises(ImageError, match=r"name of both .*a/1\.jpg and .*; .* such as b/1\.png"):
        regions.inside(images[1], SHAPE)


def test_an_image_is_not_its_own_mask(tmp_path):
    save(tmp_path / "a" / "1.png")
    regions = RegionFiles(folder=tmp_path)
    with pytest.raises(ImageError, match=r"1\.png: in .* it would be its own region of interest"):
        regions.inside(tmp_path / "a" / "1.png", SHAPE)


def test_a_change_of_any_mask_changes_the_fingerprint(tmp_path):
    regions = RegionFiles(folder=tmp_path / "masks")
    prints = set()
    for column in (0, 1):
        save(tmp_path / "masks" / "a" / "1.png", column)
        prints.add(regions.fingerprint())
    assert len(prints) == 2
