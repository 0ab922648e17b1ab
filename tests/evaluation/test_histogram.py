from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from cflow_ad.evaluation.curves import threshold_between
from cflow_ad.evaluation.histogram import MAX_PAGES, PAGE_BITS, ScoreHistogram

EXTREMES = np.array([-3.4028235e38, -1.0, -1e-45, 0.0, 1e-45, 1.0, 3.4028235e38], np.float32)


def histogram(scores):
    """A histogram of good pixels."""
    result = ScoreHistogram()
    result.add(np.asarray(scores, np.float32), np.zeros(len(scores), bool), np.empty(0))
    return result


def wild_scores(n=20000, seed=0):
    """Scores (n,) of every magnitude and either sign."""
    rng = np.random.default_rng(seed)
    scores = rng.standard_normal(n) * 10.0 ** rng.uniform(-44, 37, n)
    return scores.astype(np.float32)


def test_few_scores_are_counted_one_by_one():
    bins = histogram(np.repeat(EXTREMES, [1, 2, 3, 4, 3, 2, 1])).bins()
    np.testing.assert_array_equal(bins.lowest, EXTREMES[::-1])
    np.testing.assert_array_equal(bins.highest, EXTREMES[::-1])
    assert bins.good.tolist() == [1, 2, 3, 4, 3, 2, 1]


def test_bins_part_the_scores_in_order():
    scores = np.concatenate([wild_scores(), EXTREMES])
    bins = histogram(scores).bins()
    assert (bins.lowest <= bins.highest).all()
    assert (bins.highest[1:] < bins.lowest[:-1]).all()
    within = (scores[:, None] >= bins.lowest[:64]) & (scores[:, None] <= bins.highest[:64])
    np.testing.assert_array_equal(within.sum(axis=0), bins.good[:64])
    assert bins.good.sum() == scores.size


def test_bins_have_one_relative_width():
    scores = np.abs(wild_scores())
    bins = histogram(scores[scores > 1e-30]).bins()
    assert ((bins.highest - bins.lowest) / bins.lowest).max() < 2e-3


def test_the_grid_follows_from_the_scores_alone():
    scores = wild_scores()
    whole = histogram(scores).bins()
    for seed in range(3):
        shuffled = np.random.default_rng(seed).permutation(scores)
        merged = ScoreHistogram()
        for part in np.array_split(shuffled, 7):
            merged = merged.merge(histogram(part))
        np.testing.assert_array_equal(merged.bins().lowest, whole.lowest)
        np.testing.assert_array_equal(merged.bins().highest, whole.highest)
        np.testing.assert_array_equal(merged.bins().good, whole.good)


def test_memory_is_bounded():
    result = ScoreHistogram()
    for seed in range(5):
        result = result.merge(histogram(wild_scores(seed=seed)))
        arrays = [v for v in vars(result).values() if isinstance(v, np.ndarray)]
        assert sum(a.nbytes for a in arrays) < 24 * 2**20
        assert result._good.size <= MAX_PAGES << PAGE_BITS


def test_an_empty_histogram_has_no_bins():
    assert ScoreHistogram().merge(ScoreHistogram()).bins().lowest.size == 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_thresholds_part_their_neighbours(dtype):
    scores = np.unique(np.concatenate([wild_scores(2000), EXTREMES])).astype(dtype)
    if dtype is np.float64:
        scores = np.unique(np.concatenate([scores, np.nextafter(scores, np.inf)]))
    for below, above in pairwise(scores):
        threshold = threshold_between(float(below), float(above))
        assert dtype(threshold) == threshold
        assert not below > threshold
        assert above > threshold
    lowest = threshold_between(None, float(scores[0]))
    assert scores[0] > lowest
