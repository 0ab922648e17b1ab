"""The threshold's promise holds whatever the scores' distribution, and says when it can't."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cflow_ad.scoring.threshold import conformal_calibration, images_needed, split_good


@pytest.mark.parametrize("n", [5, 42, 99, 200])
@pytest.mark.parametrize("rate", [0.01, 0.05, 0.3])
@pytest.mark.parametrize("draw", ["normal", "lognormal", "exponential"])
def test_unseen_good_images_exceed_the_threshold_at_the_promised_rate(n, rate, draw):
    rng = np.random.default_rng([n, round(100 * rate)])
    splits, unseen = 2000, 50
    alarms = []
    for _ in range(splits):
        scores = getattr(rng, draw)(size=n + unseen)
        calibration = conformal_calibration(scores[:n].tolist(), rate)
        alarms.append(np.mean(scores[n:] > calibration.threshold))
    promised = calibration.achieved_rate
    error = np.std(alarms) / math.sqrt(splits)
    # For scores without ties the rate is met exactly, not only bounded.
    assert abs(np.mean(alarms) - promised) < 4 * error + 1e-4
    assert promised <= max(rate, 1 / (n + 1)) + 1e-12


@pytest.mark.parametrize("n", [1, 10, 98])
def test_too_few_images_are_said_to_be_too_few(n):
    calibration = conformal_calibration(list(range(n)), 0.01)
    assert calibration.achieved_rate == pytest.approx(1 / (n + 1))
    assert not calibration.is_as_asked
    assert "too few" in calibration.note
    assert "99 held-out" in calibration.note


def test_ninety_nine_images_are_enough_for_one_percent():
    calibration = conformal_calibration(list(range(99)), 0.01)
    assert calibration.is_as_asked
    assert calibration.achieved_rate == pytest.approx(0.01)
    assert images_needed(0.01) == 99


def test_the_threshold_is_an_order_statistic_and_flags_none_of_the_images_below_it():
    scores = np.random.default_rng(0).random(120)
    calibration = conformal_calibration(scores.tolist(), 0.05)
    k = math.ceil(121 * 0.95)
    assert calibration.threshold == pytest.approx(np.sort(scores)[k - 1], abs=1e-3)
    assert np.sum(scores > calibration.threshold) == 120 - k


def test_a_higher_rate_gives_a_lower_threshold():
    scores = np.random.default_rng(0).random(300).tolist()
    thresholds = [conformal_calibration(scores, rate).threshold for rate in (0.01, 0.1, 0.5)]
    assert thresholds == sorted(thresholds, reverse=True)


def test_without_held_out_images_nothing_is_promised():
    calibration = conformal_calibration([1.0, 2.0], 0.5, held_out=False)
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


def test_nothing_is_held_out_where_nothing_is_asked_for():
    assert split_good(100, 0.0, seed=3) == (list(range(100)), [])


def test_another_seed_holds_out_other_images():
    assert split_good(100, 0.2, seed=0)[1] != split_good(100, 0.2, seed=1)[1]
