"""Two products among the good images are seen; one product that varies is not taken for two."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from cflow_ad.data.check import check_dataset
from cflow_ad.data.clusters import describe_cluster, find_cluster, look_at_some
from cflow_ad.data.decoding.raster import Reading
from cflow_ad.data.layouts import open_dataset
from tests.data.parts import draw_part


def write(folder, images):
    folder.mkdir(exist_ok=True)
    paths = []
    for number, image in enumerate(images):
        paths.append(folder / f"{number:02d}.png")
        Image.fromarray(image).save(paths[-1])
    return paths


def parts(count, seed=0, **changes):
    rng = np.random.default_rng(seed)
    return [draw_part(rng, side=64, **changes) for _ in range(count)]


@pytest.mark.parametrize("share", [4, 15])
def test_two_products_are_two_clusters(tmp_path, share):
    others = [255 - image for image in parts(share, seed=1)]
    paths = write(tmp_path / "p", [*parts(30 - share), *others])
    found, looks = look_at_some(paths)
    assert find_cluster(looks).tolist() in (
        [False] * (30 - share) + [True] * share,
        [True] * (30 - share) + [False] * share,
    )
    assert "train a model for each" in describe_cluster(found, looks)
    findings = check_dataset(open_dataset(tmp_path / "p")).warnings
    assert [f.kind for f in findings if f.kind == "clusters"] == ["clusters"]


def test_images_are_compared_as_they_are_read(tmp_path):
    """Of 10 bits in 16, read with 16, four grey levels would be left."""
    images = parts(4)
    deep = [np.rint(image * (1023 / 255)).astype(np.uint16)[..., 0] for image in images]
    _, expected = look_at_some(write(tmp_path / "8", [image[..., 0] for image in images]))
    _, looks = look_at_some(write(tmp_path / "10", deep), Reading(bits=10))
    for one, other in zip(looks, expected, strict=True):
        assert np.abs(one.thumbnail.astype(int) - other.thumbnail).max() <= 1


def test_one_product_under_a_light_that_varies_is_one_cluster(tmp_path):
    light = np.linspace(0.6, 1, 40)
    images = [
        (image * level).astype(np.uint8) for image, level in zip(parts(40), light, strict=True)
    ]
    _, looks = look_at_some(write(tmp_path / "p", images))
    assert find_cluster(looks) is None


def test_one_outlier_is_no_cluster_nor_are_a_few_images_or_equal_ones(tmp_path):
    paths = write(tmp_path / "p", [*parts(29), np.zeros((64, 64, 3), np.uint8)])
    assert find_cluster(look_at_some(paths)[1]) is None
    assert find_cluster(look_at_some(paths[-8:])[1]) is None
    same = write(tmp_path / "q", parts(1) * 25)
    assert describe_cluster(*look_at_some(same)) == ""


def test_an_unreadable_image_is_left_out(tmp_path):
    paths = write(tmp_path / "p", parts(3))
    paths[1].write_bytes(b"no image")
    assert look_at_some(paths)[0] == [paths[0], paths[2]]
