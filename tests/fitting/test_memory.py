"""Laws of fitting a memory: no image is compared with itself."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from cflow_ad import Settings
from cflow_ad.fitting.likelihood import build_level
from cflow_ad.fitting.memory import fit_memory, measure_radii
from cflow_ad.fitting.scale import fit_scale
from cflow_ad.method import Method
from tests.fitting.vectors import cache_of, random_maps

SETTINGS = Settings(strides=(8, 16), method=Method(memory=60, place_means=False, place_scales=0.0))


def fitted(images, n_originals=None):
    features = cache_of(images)
    level = build_level(features, SETTINGS, 1)
    same = fit_memory(level, features, SETTINGS, 1, n_originals or len(images))
    return level, features, same


def test_a_memory_is_of_whitened_vectors_of_the_images():
    level, features, _ = fitted(random_maps(10))
    assert level.density.vectors.shape == (60, features.channels)
    known = level.input_layer(features.take(np.arange(len(features)))[0])
    apart = torch.cdist(level.density.vectors, known, compute_mode="donot_use_mm_for_euclid_dist")
    assert apart.amin(1).max() < 1e-6


@pytest.mark.parametrize(
    ("side", "most", "expected"), [(4, 60, 32), (8, 60, 60), (30, 4000, 500), (90, 4000, 810)]
)
def test_a_memory_has_a_twentieth_of_the_vectors_within_bounds(side, most, expected):
    method = dataclasses.replace(SETTINGS.method, memory=most)
    features = cache_of(random_maps(2, shape=(side, side)))
    settings = dataclasses.replace(SETTINGS, method=method)
    level = build_level(features, settings, 1)
    fit_memory(level, features, settings, 1, 2)
    assert len(features) == 2 * side * side
    assert len(level.density.vectors) == expected


def test_vectors_of_the_same_image_and_of_its_copies_are_known():
    level, features, same = fitted(random_maps(6), n_originals=3)
    index = np.arange(len(features))
    x = level.input_layer(features.take(index)[0])
    kept = torch.cdist(x, level.density.vectors, compute_mode="donot_use_mm_for_euclid_dist") < 1e-6
    image = features.images_of(index)
    for number, of_memory in enumerate(kept.T):
        own = int(image[of_memory.nonzero()[0, 0]])
        assert torch.equal(same(index)[:, number], image % 3 == own % 3)


def test_an_offset_is_a_share_of_the_squared_distance_to_another_image():
    level, features, _ = fitted(random_maps(6), n_originals=3)
    index = np.arange(len(features))
    x = level.input_layer(features.take(index)[0]).double()
    image = features.images_of(index) % 3
    apart = torch.cdist(level.density.vectors.double(), x)
    own = image[apart.argmin(1)]
    radii = apart.masked_fill(image == own[:, None], torch.inf).amin(1)
    expected = SETTINGS.method.memory_radii * radii.square()
    torch.testing.assert_close(level.density.offsets.double(), expected, rtol=1e-4, atol=1e-4)


def test_vectors_of_one_image_have_no_radius():
    vectors = torch.randn(30, 4)
    radii = measure_radii(vectors, torch.zeros(30, dtype=torch.int64), torch.arange(5))
    assert torch.equal(radii, torch.zeros(5))


def test_an_image_alone_is_compared_with_itself():
    level, features, same = fitted(random_maps(1))
    assert not same(np.arange(len(features))).any()
    fit_scale(level, features, SETTINGS, 1, same)
    assert level.scale.isfinite()


@pytest.mark.parametrize("number", [0, 4])
def test_an_image_is_scored_for_the_scale_as_if_it_were_not_there(number):
    """By the distances to the others' vectors, as a new image is."""
    level, features, same = fitted(random_maps(5))
    own = np.arange(*features.bounds[number])
    z = features.take(own)[0]
    found = level.without(z, same(own))
    kept = ~same(own[:1])[0]
    others, offsets = level.density.vectors[kept], level.density.offsets[kept]
    apart = torch.cdist(level.input_layer(z), others).square() - offsets
    expected = -apart.amin(1).clamp(min=0).sqrt() / features.channels
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    before = level.density.vectors.clone()
    fit_scale(level, features, SETTINGS, 1, same)
    with_own = level.location.clone(), level.scale.clone()
    fit_scale(level, features, SETTINGS, 1)
    assert level.location > with_own[0]  # with its own vectors an image looks likelier
    assert torch.equal(level.density.vectors, before)
