"""Good images are scored out-of-fold: an outlier is found, and no image vouches for itself."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from cflow_ad import DataError, Detector, open_dataset
from cflow_ad.data.images import as_image
from cflow_ad.fitting.folds import split_good
from cflow_ad.fitting.screening import FEWEST, compute_limit

pytestmark = pytest.mark.filterwarnings("ignore::cflow_ad.CalibrationWarning")


@pytest.fixture(scope="module")
def with_outlier(images):
    """Good images, and last one with a hole in it."""
    bad = images[0].copy()
    bad[20:60, 20:60] = 0
    return [*images[1:], bad]


@pytest.fixture(scope="module")
def screening(with_outlier, toy_settings):
    """Of them, in folds."""
    return Detector.fit(with_outlier, toy_settings, device="cpu").screening


def test_an_outlier_is_found_and_its_map_shows_where(with_outlier, screening):
    assert len(screening.names) == 12
    assert next(iter(screening.flagged)) == "image 12"
    worst = screening.suspects[0]
    assert worst.name == "image 12"
    assert np.array_equal(as_image(worst.source), with_outlier[-1])
    assert worst.is_outlier
    assert worst.score == max(screening.scores)
    anomaly_map = worst.compute_map()
    assert anomaly_map.shape == (96, 96)
    row, column = np.unravel_index(anomaly_map.argmax(), anomaly_map.shape)
    near = range(20 - 8, 60 + 8)  # the hole, and a position of the first level around it
    assert row in near
    assert column in near
    assert "too high" in screening.note


def test_suspects_are_the_outliers_then_the_next(screening):
    scores = [suspect.score for suspect in screening.suspects]
    assert scores == sorted(scores, reverse=True) == sorted(screening.scores)[::-1][: len(scores)]
    assert len(scores) == len(screening.flagged) + 6
    outliers = [suspect.name for suspect in screening.suspects if suspect.is_outlier]
    assert outliers == list(screening.flagged)


def test_of_many_images_the_calibration_set_is_screened(images, toy_settings):
    settings = dataclasses.replace(toy_settings, folds=1)
    screening = Detector.fit(images, settings, device="cpu").screening
    (split,) = split_good(12, 1, settings.seed)
    assert list(screening.names) == [f"image {i + 1}" for i in split.unseen]


def test_without_folds_no_image_is_screened(images, toy_settings):
    settings = dataclasses.replace(toy_settings, folds=0)
    screening = Detector.fit(images[:9], settings, device="cpu").screening
    assert screening.to_dict() == {"n_images": 0, "limit": None, "flagged": {}}
    assert "no good image was scored out-of-fold" in screening.note.lower()


def test_images_of_many_sizes_are_screened(images, toy_settings):
    mixed = [image[:, : 96 - 7 * (n % 4)] for n, image in enumerate(images)]
    screening = Detector.fit(mixed, toy_settings, device="cpu").screening
    for suspect in screening.suspects:
        assert suspect.compute_map().shape == as_image(suspect.source).shape[:2]


def test_a_small_budget_still_shows_the_outlier(with_outlier, toy_settings):
    settings = dataclasses.replace(toy_settings, feature_budget=2e-4)
    screening = Detector.fit(with_outlier, settings, device="cpu").screening
    assert screening.suspects[0].name == "image 12"


@pytest.mark.parametrize("n", [2, FEWEST - 1])
def test_few_images_have_no_outliers(with_outlier, toy_settings, n):
    detector = Detector.fit(with_outlier[-n:], toy_settings, device="cpu")
    assert detector.training["screening"] == {"n_images": n, "limit": None, "flagged": {}}
    assert "too few" in detector.screening.note


def test_a_few_outliers_do_not_move_the_limit():
    scores = np.random.default_rng(0).lognormal(0, 0.3, 200)
    strange = np.concatenate([scores, np.full(10, 50.0)])
    assert compute_limit(strange) == pytest.approx(compute_limit(scores), rel=0.15)
    assert (scores > compute_limit(scores)).mean() < 0.02


def test_images_that_are_all_the_same_have_no_outliers():
    assert not (np.full(20, 1.0) > compute_limit(np.full(20, 1.0))).any()
    assert math.isfinite(compute_limit(np.zeros(20)))


# Leaving images out


def test_excluded_images_have_no_part(carpet_folder, toy_settings):
    without = Detector.fit(
        carpet_folder, toy_settings, device="cpu", exclude=["003.png", "train/good/005.png"]
    )
    assert without.training["excluded"] == ["train/good/003.png", "train/good/005.png"]
    assert len(without.screening.names) == 10
    assert "train/good/000.png" in without.screening.names
    dataset = open_dataset(carpet_folder)
    kept = [s for s in dataset.train if s.path.name not in ("003.png", "005.png")]
    removed = Detector.fit(
        dataclasses.replace(dataset, train=tuple(kept)), toy_settings, device="cpu"
    )
    assert removed.threshold == without.threshold
    assert removed.training["fingerprint"] == without.training["fingerprint"]


def test_excluding_all_images_is_an_error(carpet_folder, toy_settings):
    names = [path.name for path in (carpet_folder / "train" / "good").iterdir()]
    with pytest.raises(DataError, match="every good image is excluded"):
        Detector.fit(carpet_folder, toy_settings, device="cpu", exclude=names)


# Augmented copies


@pytest.mark.parametrize("n", [1, 4])
def test_augmented_copies_are_not_counted_as_images(images, toy_settings, n):
    settings = dataclasses.replace(toy_settings, augment_copies=3)
    detector = Detector.fit(images[:n], settings, device="cpu")
    assert detector.calibration.n_images == n
    assert detector.training["n_images"] == n


def test_augmented_copies_change_the_model(images, toy_settings):
    settings = dataclasses.replace(toy_settings, augment_copies=1)
    varied, plain = (Detector.fit(images[:4], of, device="cpu") for of in (settings, toy_settings))
    assert varied.threshold != plain.threshold
