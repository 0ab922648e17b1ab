"""The thresholds keep the false-positive rate for any distribution of scores, or say why not."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cflow_ad.scoring.threshold import (
    MOST,
    Calibration,
    calibrate_thresholds,
    count_needed,
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
    assert "99 would allow it" in calibration.note


def test_ninety_nine_images_are_enough_for_one_percent():
    calibration = calibrate(list(range(99)), 0.01)
    assert calibration.is_as_asked
    assert calibration.achieved_rate == pytest.approx(0.01)
    assert count_needed(0.01) == 99


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


def test_where_the_model_was_fitted_to_the_images_nothing_is_promised():
    calibration = calibrate([1.0, 2.0], 0.5, folds=0)
    assert not calibration.is_as_asked
    assert "promises no false-alarm rate" in calibration.note


# p-values


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.3])
def test_a_p_value_is_at_most_the_promised_rate_exactly_above_the_threshold(rate):
    rng = np.random.default_rng(2)
    calibration = calibrate(rng.lognormal(size=120).tolist(), rate)
    near = calibration.threshold * (1 + rng.normal(size=500) * 1e-3)
    scores = [*near.tolist(), *rng.lognormal(size=500).tolist(), calibration.threshold]
    for score in scores:
        is_low = calibration.compute_p_value(score) <= calibration.achieved_rate + 1e-12
        assert is_low == (score > calibration.threshold)


def test_p_values_of_new_good_images_are_valid():
    """No more than a share `a` of them is at most `a`, whatever the distribution."""
    rng = np.random.default_rng(3)
    values = []
    for _ in range(1000):
        scores = rng.exponential(size=41)
        values += [calibrate(scores[:40].tolist(), 0.1).compute_p_value(of) for of in scores[40:]]
    assert min(values) >= 1 / 41
    for rate in (0.05, 0.1, 0.5):
        share = np.mean(np.array(values) <= rate)
        assert share <= rate + 3 * math.sqrt(rate / 1000)
        assert share >= rate - 1 / 41 - 3 * math.sqrt(rate / 1000)


def test_a_p_value_falls_from_1_as_the_score_rises():
    calibration = calibrate([1.0, 2.0, 3.0], 0.3)
    assert [calibration.compute_p_value(of) for of in (0.0, 1.5, 2.5, 9.0)] == [1, 0.75, 0.5, 0.25]
    assert calibrate([1.0, 2.0], 0.3, folds=0).compute_p_value(1.5) is None


def test_more_scores_than_are_stored_count_by_a_random_choice():
    scores = np.random.default_rng(0).random(MOST + 5000).tolist()
    calibration = calibrate(scores, 0.01)
    assert calibration.n_images == MOST
    assert calibration.threshold == pytest.approx(0.99, abs=0.005)
    again = calibrate_thresholds(calibration.scores, calibration.peaks, 0.01)
    assert again == calibration
