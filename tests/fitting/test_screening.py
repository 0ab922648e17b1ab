"""Good images are scored out-of-fold: an outlier is found, and no image vouches for itself."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from cflow_ad import DataError, Detector, open_dataset
from cflow_ad.data.images import image_shape
from cflow_ad.fitting.cache import build_cache
from cflow_ad.fitting.screening import FEWEST, Encoded, limit_of, screen
from cflow_ad.scoring.threshold import split_good
from cflow_ad.scoring.view import View
from tests.fitting.vectors import cache_of, random_maps

pytestmark = pytest.mark.filterwarnings("ignore::cflow_ad.CalibrationWarning")


@pytest.fixture(scope="module")
def with_outlier(images):
    """Good images, and last one with a hole in it."""
    bad = images[0].copy()
    bad[20:60, 20:60] = 0
    return [*images[1:], bad]


def encoded(encoder, images, settings, budget=1.0):
    features = build_cache(encoder, images, View(sizing=settings.sizing), settings, budget=budget)
    return Encoded(features, [image_shape(image) for image in images])


@pytest.mark.parametrize("at", [12, 5])
def test_an_outlier_is_found_wherever_it_is_kept(encoder, with_outlier, toy_settings, at):
    """In one cache, or in another than those that it is compared with."""
    parts = [with_outlier[:at], with_outlier[at:]]
    screening = screen(
        [encoded(encoder, part, toy_settings) for part in parts if part], toy_settings
    )
    worst = screening.suspects[0]
    assert worst.index == int(np.argmax(screening.scores)) == 11
    assert screening.flagged[0] == 11
    assert worst.stands_out
    assert worst.score == pytest.approx(worst.anomaly_map.max())
    row, column = np.unravel_index(worst.anomaly_map.argmax(), worst.anomaly_map.shape)
    assert 20 / 96 < (row + 0.5) / worst.anomaly_map.shape[0] < 60 / 96
    assert 20 / 96 < (column + 0.5) / worst.anomaly_map.shape[1] < 60 / 96


# Out-of-fold


@pytest.fixture(scope="module")
def maps():
    """Feature maps of ten images, two to a fold."""
    return [one.astype(np.float32) for one in random_maps(10)]


def screened(maps, settings):
    """Their scores, and the anomaly map of each."""
    settings = dataclasses.replace(settings, size="64x64", strides=(8,), smoothing=0.0)
    shapes = [(64, 64)] * len(maps)
    screening = screen([Encoded([cache_of(maps)], shapes)], settings, next_in_line=len(maps))
    return screening.scores, {s.index: s.anomaly_map for s in screening.suspects}


def test_an_image_changes_the_scores_of_the_other_folds_alone(maps, toy_settings):
    before, _ = screened(maps, toy_settings)
    after, _ = screened([maps[0] * 5 + 20, *maps[1:]], toy_settings)
    changed = np.abs(after - before) > 1e-4 * before
    assert changed[0]
    assert changed.sum() == 9  # all but the other image of its fold


def test_an_image_has_no_part_in_the_statistics_that_score_it(maps, toy_settings):
    """Where one vector of an image changes, the energies of its others stay as they were."""
    _, before = screened(maps, toy_settings)
    spoilt = [one.copy() for one in maps]
    spoilt[3][0, 0] += 1000
    _, after = screened(spoilt, toy_settings)
    far = np.s_[24:, 24:]  # pixels that the changed position has no part in
    np.testing.assert_allclose(after[3][far], before[3][far], rtol=1e-3, atol=1e-3)
    assert after[3][:8, :8].max() > 10 * before[3][:8, :8].max()


def test_images_of_many_sizes_are_screened(encoder, images, toy_settings):
    mixed = [image[:, : 96 - 7 * (n % 4)] for n, image in enumerate(images)]
    screening = screen([encoded(encoder, mixed, toy_settings)], toy_settings)
    assert np.isfinite(screening.scores).all()
    shapes = {suspect.index: suspect.anomaly_map.shape for suspect in screening.suspects}
    for index, shape in shapes.items():
        assert shape == toy_settings.sizing.valid_shape(mixed[index].shape[:2])


def test_a_small_budget_screens_the_vectors_that_are_kept(encoder, with_outlier, toy_settings):
    part = encoded(encoder, with_outlier, toy_settings, budget=2e-4)
    assert np.argmax(screen([part], toy_settings).scores) == 11


@pytest.mark.parametrize("n", [1, FEWEST - 1])
def test_few_images_have_no_outliers(with_outlier, toy_settings, n):
    detector = Detector.fit(with_outlier[-n:], toy_settings, device="cpu")
    assert detector.training["screening"] == {"n_images": n, "limit": None, "flagged": {}}
    assert "too few" in detector.screening.note


def test_a_few_outliers_do_not_move_the_limit():
    scores = np.random.default_rng(0).lognormal(0, 0.3, 200)
    strange = np.concatenate([scores, np.full(10, 50.0)])
    assert limit_of(strange) == pytest.approx(limit_of(scores), rel=0.15)
    assert (scores > limit_of(scores)).mean() < 0.02


def test_images_that_are_all_the_same_have_no_outliers():
    assert not (np.full(20, 1.0) > limit_of(np.full(20, 1.0))).any()
    assert math.isfinite(limit_of(np.zeros(20)))


def test_training_and_calibration_images_are_both_screened(with_outlier, toy_settings):
    def is_held_out(seed):
        return 11 in split_good(12, toy_settings.calibration_fraction, seed)[1]

    for held_out in (True, False):
        seed = next(seed for seed in range(100) if is_held_out(seed) == held_out)
        settings = dataclasses.replace(toy_settings, seed=seed, steps=0)
        screened = Detector.fit(with_outlier, settings, device="cpu").screening
        assert len(screened.names) == 12
        assert next(iter(screened.flagged)) == "image 12"
        assert screened.flagged_held_out == held_out
        assert ("calibration set" in screened.note) == held_out


# Leaving images out


def test_excluded_images_have_no_part(carpet_folder, toy_settings):
    without = Detector.fit(
        carpet_folder, toy_settings, device="cpu", exclude=["003.png", "train/good/005.png"]
    )
    assert without.training["excluded"] == ["train/good/003.png", "train/good/005.png"]
    assert len(without.screening.names) == 10
    assert without.screening.names[0] == "train/good/000.png"
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
    assert detector.calibration.n_images == 1
    assert detector.calibration.held_out == (n == 4)
    assert detector.training["n_images"] == max(1, n - 1)
    assert len(detector.screening.names) == n


def test_augmented_copies_change_the_model(images, toy_settings):
    settings = dataclasses.replace(toy_settings, augment_copies=1)
    varied, plain = (Detector.fit(images[:4], of, device="cpu") for of in (settings, toy_settings))
    assert varied.threshold != plain.threshold
