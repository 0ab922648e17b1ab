"""The thresholds keep the false-positive rate for any distribution of scores, or say why not."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cflow_ad.scoring.threshold import (
    Calibration,
    calibrate_thresholds,
    images_needed,
    split_good,
)


def calibrate(scores, rate, **options):
    """With maps whose maxima are the scores."""
    return calibrate_thresholds(scores, scores, rate, **options)


@pytest.mark.parametrize("n", [5, 42, 99, 200])
@pytest.mark.parametrize("rate", [0.01, 0.05, 0.3])
@pytest.mark.parametrize("draw", ["normal", "lognormal", "exponential"])
def test_unseen_good_images_exceed_the_threshold_at_the_promised_rate(n, rate, draw):
    rng = np.random.default_rng([n, round(100 * rate)])
    splits, unseen = 2000, 50
    alarms = []
    for _ in range(splits):
        scores = getattr(rng, draw)(size=n + unseen)
        calibration = calibrate(scores[:n].tolist(), rate)
        alarms.append(np.mean(scores[n:] > calibration.threshold))
    promised = calibration.achieved_rate
    error = np.std(alarms) / math.sqrt(splits)
    # For scores without ties the rate is met exactly, not only bounded.
    assert abs(np.mean(alarms) - promised) < 4 * error + 1e-4
    assert promised <= max(rate, 1 / (n + 1)) + 1e-12


@pytest.mark.parametrize("n", [1, 10, 98])
def test_too_few_images_are_said_to_be_too_few(n):
    calibration = calibrate(list(range(n)), 0.01)
    assert calibration.achieved_rate == pytest.approx(1 / (n + 1))
    assert not calibration.is_as_asked
    assert "too few" in calibration.note
    assert "99 held-out" in calibration.note


def test_ninety_nine_images_are_enough_for_one_percent():
    calibration = calibrate(list(range(99)), 0.01)
    assert calibration.is_as_asked
    assert calibration.achieved_rate == pytest.approx(0.01)
    assert images_needed(0.01) == 99


def test_the_threshold_is_an_order_statistic_and_flags_none_of_the_images_below_it():
    scores = np.random.default_rng(0).random(120)
    calibration = calibrate(scores.tolist(), 0.05)
    k = math.ceil(121 * 0.95)
    assert calibration.threshold == pytest.approx(np.sort(scores)[k - 1], abs=1e-3)
    assert np.sum(scores > calibration.threshold) == 120 - k


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.5])
def test_both_thresholds_are_conformal_quantiles(rate):
    rng = np.random.default_rng(1)
    scores, peaks = rng.random(150), 20 * rng.random(150)
    calibration = calibrate_thresholds(scores.tolist(), peaks.tolist(), rate)
    k = math.ceil(151 * (1 - rate))
    for values, threshold in (
        (scores, calibration.threshold),
        (peaks, calibration.map_threshold),
    ):
        assert threshold == pytest.approx(np.sort(values)[k - 1], rel=1e-3, abs=1e-3)
        assert np.sum(values > threshold) == 150 - k


def test_a_calibration_goes_through_plain_values_unchanged():
    calibration = calibrate_thresholds([1.0, 2.0], [3.0, 5.0], 0.5)
    assert Calibration.from_dict(calibration.to_dict()) == calibration
    assert (calibration.threshold, calibration.map_threshold) == pytest.approx((2, 5), rel=1e-3)


def test_a_higher_rate_gives_a_lower_threshold():
    scores = np.random.default_rng(0).random(300).tolist()
    thresholds = [calibrate(scores, rate).threshold for rate in (0.01, 0.1, 0.5)]
    assert thresholds == sorted(thresholds, reverse=True)


def test_without_held_out_images_nothing_is_promised():
    calibration = calibrate([1.0, 2.0], 0.5, held_out=False)
    assert not calibration.is_as_asked
    assert "promises no false-alarm rate" in calibration.note


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 10, 209])
@pytest.mark.parametrize("fraction", [0.01, 0.2, 0.99])
def test_the_split_is_a_partition(n, fraction):
    training, held_out = split_good(n, fraction, seed=3)
    assert sorted(training + held_out) == list(range(n))
    assert training
    assert bool(held_out) == (n >= 4)
    assert (training, held_out) == split_good(n, fraction, seed=3)


def test_a_fraction_of_0_holds_nothing_out():
    assert split_good(100, 0.0, seed=3) == (list(range(100)), [])


def test_another_seed_holds_out_other_images():
    assert split_good(100, 0.2, seed=0)[1] != split_good(100, 0.2, seed=1)[1]
