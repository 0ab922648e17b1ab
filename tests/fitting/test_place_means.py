"""Place means: what is left of a vector is its difference from the other images' at its place."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cflow_ad.fitting.place_means import fit_means, own_shares, subtract_place_means
from tests.fitting.vectors import cache_of, random_maps, take_all


def subtracted(maps, parts=8, originals=None):
    """The vectors of all images, less their means."""
    return take_all(subtract_place_means(cache_of(maps), parts, originals or len(maps)))


def fitted_means(maps, parts=8):
    return fit_means(cache_of(maps), parts, torch.ones(len(maps), dtype=torch.bool))


def test_a_pattern_that_all_images_share_is_removed():
    left = subtracted(random_maps(200, pattern=10.0))
    assert 0.95 < float(left.std()) < 1.1
    assert float(left.view(200, 64, 3).mean(0).abs().max()) < 0.5


def test_an_aspect_ratio_has_its_own_pattern():
    square = random_maps(100, (8, 8), 1, pattern=10.0)
    wide = random_maps(100, (8, 16), 2, pattern=10.0)
    left = subtracted(square + wide, 16)
    assert float(left[: 100 * 64].std()) < 1.2
    assert float(left[100 * 64 :].std()) < 1.2


@pytest.mark.parametrize("count", [1, 2, 5, 30])
def test_an_image_has_no_part_in_the_means_subtracted_from_it(count):
    """Changed by 100, its vector is 100 further off; its own part in the mean would hide some.

    But for its share in the mean over all places.
    """
    maps = random_maps(count)
    before = subtracted(maps)
    maps[0][3, 4] += 100
    change = subtracted(maps) - before
    at = 3 * 8 + 4
    torch.testing.assert_close(change[at], torch.full((3,), 100.0), rtol=0.05, atol=0)


def test_augmented_copies_have_no_part_in_the_means():
    """Copies of an image look like it: with them it would vouch for itself."""
    maps = random_maps(6, pattern=5.0)
    strange = [one + 100 for one in random_maps(12, seed=1)]
    with_copies = subtract_place_means(cache_of(maps + strange), 8, 6)
    alone = subtract_place_means(cache_of(maps), 8, 6)
    torch.testing.assert_close(with_copies.means.tables, alone.means.tables, rtol=0, atol=0)
    torch.testing.assert_close(take_all(with_copies)[: 6 * 64], take_all(alone), rtol=0, atol=0)


def test_a_copy_takes_its_images_factor():
    """Equal to its image, it is as far off; images of two aspect ratios have two factors."""
    maps = random_maps(5, pattern=5.0) + random_maps(1, (4, 8), 1)
    images, first, second = subtracted(maps * 3, originals=6).view(3, -1, 3)
    torch.testing.assert_close(first, images, rtol=0, atol=0)
    torch.testing.assert_close(second, images, rtol=0, atol=0)


def test_own_shares_are_of_fitted_images_alone_and_fall_with_their_number():
    features = cache_of(random_maps(40))
    largest = [
        float(own_shares(features, torch.tensor([0.0]), torch.arange(40) < count).max())
        for count in (1, 4, 40)
    ]
    assert 0.5 > largest[0] > largest[1] > largest[2] > 0
    shares = own_shares(features, torch.tensor([0.0]), torch.arange(40) < 4)
    assert (shares[:4] > 0).all()
    assert not shares[4:].any()


def test_a_single_image_keeps_all_but_its_mean():
    maps = random_maps(1, pattern=5.0)
    expected = maps[0].reshape(-1, 3) - maps[0].mean((0, 1))
    np.testing.assert_allclose(subtracted(maps), expected, atol=1e-3)


def test_few_images_of_an_aspect_ratio_are_shrunk_towards_all():
    many = random_maps(200, (8, 8), 1, pattern=10.0)
    wide = random_maps(200, (4, 8), 2, pattern=10.0)
    alone = fitted_means(wide)

    def distance(count):
        return float((fitted_means(many + wide[:count])(4, 8) - alone(4, 8)).square().mean())

    assert distance(100) < distance(10) < distance(1)


def test_images_without_vectors_change_nothing():
    maps = random_maps(5)
    plain, gaps = cache_of(maps), cache_of(maps)
    gaps.bounds = np.insert(gaps.bounds, [0, 3], [[0, 0], [192, 192]], axis=0)
    gaps.grids = [(8, 8)] * 7
    index = np.array([0, 191, 192, 319])
    assert gaps.images_of(index).tolist() == [1, 3, 5, 6]
    found, expected = (
        subtract_place_means(of, 8, len(of.grids)).means.tables for of in (gaps, plain)
    )
    torch.testing.assert_close(found, expected)


def test_chunks_are_the_vectors_as_they_are_read(monkeypatch):
    monkeypatch.setattr("cflow_ad.fitting.features.CHUNK", 50)
    features = subtract_place_means(cache_of(random_maps(3)), 4, 3)
    torch.testing.assert_close(torch.cat(list(features.chunks())), take_all(features))
    assert not np.shares_memory(take_all(features).numpy(), features.vectors)
