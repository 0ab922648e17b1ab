"""Each good image is scored by a model that is fitted without it, or sets no threshold."""

from __future__ import annotations

import pytest

from cflow_ad.fitting.folds import FEW, MANY, split_good
from cflow_ad.scoring.threshold import MOST, count_needed


@pytest.mark.parametrize("n", [2, 3, 4, 37, 499])
@pytest.mark.parametrize("folds", [None, 2, 3, 5])
def test_every_image_is_scored_once_by_a_model_fitted_to_all_other_folds(n, folds):
    splits = split_good(n, folds, seed=3)
    assert len(splits) == min(folds or (10 if n < FEW else 4), n)
    assert sorted(i for split in splits for i in split.unseen) == list(range(n))
    for split in splits:
        assert sorted(split.fitted_to + split.unseen) == list(range(n))
        assert split.fitted_to
    sizes = [len(split.unseen) for split in splits]
    assert max(sizes) - min(sizes) <= 1
    assert splits == split_good(n, folds, seed=3)


@pytest.mark.parametrize(("n", "held"), [(2, 1), (9, 1), (MANY, MANY // 5), (10**5, MOST)])
def test_one_fold_is_a_calibration_set(n, held):
    (split,) = split_good(n, 1, seed=3)
    assert len(split.unseen) == held
    assert sorted(split.fitted_to + split.unseen) == list(range(n))


def test_with_many_images_a_calibration_set_that_allows_one_percent_is_held_out():
    assert len(split_good(MANY - 1, None, seed=0)) == 4
    assert split_good(MANY, None, seed=0) == split_good(MANY, 1, seed=0)
    assert len(split_good(MANY, None, seed=0)[0].unseen) >= count_needed(0.01)


@pytest.mark.parametrize(("n", "folds"), [(1, None), (1, 3), (100, 0)])
def test_one_image_or_no_fold_is_not_split(n, folds):
    assert split_good(n, folds, seed=3) == []


def test_another_seed_gives_other_folds():
    assert split_good(100, None, seed=0) != split_good(100, None, seed=1)
