"""Centring: what is left of a vector is what it is beside the other images, at its place."""

import numpy as np
import pytest
import torch

from cflow_ad.cflow.position import axis_places
from cflow_ad.fitting.cache import LevelFeatures
from cflow_ad.fitting.place_means import centred, fit_means


def features_of(images):
    """As the cache keeps images that are maps of vectors, `(h, w, C)`."""
    vectors, positions, ends = [], [], [0]
    for image in images:
        rows, columns = (axis_places(side, "relative").numpy() for side in image.shape[:2])
        grid = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1)
        vectors.append(image.reshape(-1, image.shape[2]))
        positions.append(grid.reshape(-1, 2))
        ends.append(ends[-1] + len(vectors[-1]))
    made = LevelFeatures(
        np.concatenate(vectors).astype(np.float32), np.concatenate(positions).astype(np.int16)
    )
    made.bounds = np.stack([ends[:-1], ends[1:]], axis=1)
    made.grids = [image.shape[:2] for image in images]
    return made


def some_images(count, shape=(8, 8), seed=0, pattern=0.0):
    rng = np.random.default_rng(seed)
    own = rng.normal(size=(*shape, 3)) * pattern
    return [own + rng.normal(size=(*shape, 3)) for _ in range(count)]


def all_of(features):
    return features.take(np.arange(len(features)))[0]


def test_a_pattern_that_all_images_share_is_taken_away():
    images = some_images(200, pattern=10.0)
    left = all_of(centred(features_of(images), 8))
    assert 0.95 < float(left.std()) < 1.1
    assert float(left.view(200, 64, 3).mean(0).abs().max()) < 0.5


def test_an_aspect_ratio_has_its_own_pattern():
    square = some_images(100, (8, 8), 1, pattern=10.0)
    wide = some_images(100, (8, 16), 2, pattern=10.0)
    left = all_of(centred(features_of(square + wide), 16))
    assert float(left[: 100 * 64].std()) < 1.2
    assert float(left[100 * 64 :].std()) < 1.2


@pytest.mark.parametrize("count", [1, 2, 5, 30])
def test_an_image_takes_no_part_in_the_means_taken_from_it(count):
    """Moved, its vector is as much further off; were its own mean taken from it, it would be less.

    But for its share in the mean over all places.
    """
    images = some_images(count)
    before = all_of(centred(features_of(images), 8))
    images[0][3, 4] += 100
    change = all_of(centred(features_of(images), 8)) - before
    at = 3 * 8 + 4
    torch.testing.assert_close(change[at], torch.full((3,), 100.0), rtol=0.05, atol=0)


def test_a_single_image_is_left_as_it_is_but_for_its_mean():
    images = some_images(1, pattern=5.0)
    left = all_of(centred(features_of(images), 8))
    expected = images[0].reshape(-1, 3) - images[0].mean((0, 1))
    np.testing.assert_allclose(left, expected, atol=1e-3)


def test_few_images_of_an_aspect_ratio_are_drawn_towards_all():
    many = some_images(200, (8, 8), 1, pattern=10.0)
    wide = some_images(200, (4, 8), 2, pattern=10.0)

    def distance(count):
        made = fit_means(features_of(many + wide[:count]), 8)
        alone = fit_means(features_of(wide), 8)
        return float((made(4, 8) - alone(4, 8)).square().mean())

    assert distance(100) < distance(10) < distance(1)


def test_images_without_vectors_change_nothing():
    images = some_images(5)
    plain, gaps = features_of(images), features_of(images)
    gaps.bounds = np.insert(gaps.bounds, [0, 3], [[0, 0], [192, 192]], axis=0)
    gaps.grids = [(8, 8)] * 7
    index = np.array([0, 191, 192, 319])
    assert gaps.images_of(index).tolist() == [1, 3, 5, 6]
    found, expected = (fit_means(of, 8).tables for of in (gaps, plain))
    torch.testing.assert_close(found, expected)


def test_chunks_are_the_vectors_as_they_are_read():
    features = centred(features_of(some_images(3)), 4)
    torch.testing.assert_close(torch.cat(list(features.chunks(50))), all_of(features))
    assert not np.shares_memory(all_of(features).numpy(), features.vectors)
