"""Flags of good images: laws of the statistics, and a product that has all three."""

from __future__ import annotations

import numpy as np
import pytest

from cflow_ad import CalibrationWarning, Detector
from cflow_ad.fleet.flags import find_clusters, find_drift, find_flags


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("n", [12, 40])
def test_images_of_one_kind_in_random_order_are_not_flagged(seed, n):
    vectors = np.random.default_rng(seed).normal(size=(n, 40))
    assert find_clusters(vectors) is None
    assert find_drift(vectors) is None


@pytest.mark.parametrize("n", [21, 90])
def test_two_variants_are_two_clusters_whatever_their_order(n):
    rng = np.random.default_rng(n)
    vectors = rng.normal(size=(n, 40))
    vectors[: n // 3, :10] += 8
    assert find_clusters(vectors) == (n - n // 3, n // 3)
    assert find_clusters(rng.permutation(vectors)) == (n - n // 3, n // 3)


def test_one_outlier_is_no_cluster():
    vectors = np.random.default_rng(0).normal(size=(40, 10))
    vectors[0] += 50
    assert find_clusters(vectors) is None


def test_a_steady_change_is_drift_and_a_shuffled_one_is_not():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(40, 20)) + 6 * np.linspace(0, 1, 40)[:, None]
    assert find_drift(vectors) > 0.9
    assert find_drift(rng.permutation(vectors)) is None


def test_images_that_do_not_differ_are_not_flagged():
    vectors = np.ones((20, 5))
    assert find_clusters(vectors) is None
    assert find_drift(vectors) is None


def test_a_product_of_two_variants_is_flagged(images, toy_settings):
    # First all of one variant, then all of the other: that is a change with time as well.
    both = [*images, *(image // 4 for image in images)]
    with pytest.warns(CalibrationWarning):
        detector = Detector.fit(both, toy_settings, device="cpu")
    flags = find_flags(detector, both)
    assert set(flags) == {"few", "clusters", "drift"}
    assert "of 12 and 12 of the 24" in flags["clusters"]
    assert set(find_flags(detector, images)) == {"few"}
