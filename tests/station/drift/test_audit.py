"""Error rates from a blind audit, their intervals, and what may move a threshold."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import beta

from cflow_ad.scoring.threshold import calibrate_thresholds
from cflow_ad.station.drift.audit import AuditMark, audit_rates, suggest_threshold
from cflow_ad.station.drift.intervals import confidence_sequence, exact_interval


@pytest.mark.parametrize(("count", "of"), [(0, 1), (3, 412), (20, 20), (500, 100_000), (7, 13)])
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.999])
def test_exact_intervals_are_those_of_the_beta_distribution(count, of, confidence):
    tail = (1 - confidence) / 2
    low = beta.ppf(tail, count, of - count + 1) if count else 0
    high = beta.ppf(1 - tail, count + 1, of - count) if count < of else 1
    assert exact_interval(count, of, confidence) == pytest.approx((low, high), rel=1e-9)


@pytest.mark.parametrize("share", [0.002, 0.1, 0.5])
def test_a_confidence_sequence_holds_the_share_at_all_times(share):
    """In 95 % of 400 audits, read after every fifth draw; the exact interval does not."""
    counts = (np.random.default_rng(0).random((400, 200)) < share).cumsum(axis=1)[:, 4::5]
    wrong = {confidence_sequence: np.zeros(400, bool), exact_interval: np.zeros(400, bool)}
    for interval, missed in wrong.items():
        for look, column in enumerate(counts.T):
            for count in np.unique(column).tolist():
                low, high = interval(count, 5 * (look + 1))
                missed[column == count] |= not low <= share <= high
    assert wrong[confidence_sequence].mean() <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)
    if share > 0.01:
        assert wrong[exact_interval].mean() > 0.15


def test_a_confidence_sequence_narrows_around_the_share():
    widths = []
    for n in (50, 500, 5000):
        low, high = confidence_sequence(n // 10, n)
        assert low < 0.1 < high
        exact = exact_interval(n // 10, n)
        assert low < exact[0] < exact[1] < high
        widths.append(high - low)
    assert widths[0] > 2 * widths[1] > 4 * widths[2]


def test_each_rate_is_of_the_parts_that_can_be_wrong_so():
    marks = [AuditMark(anomalous, bad) for anomalous in (False, True) for bad in (False, True)]
    rates = audit_rates(marks)
    assert {name: (rate.count, rate.of) for name, rate in rates.items()} == {
        "false_alarms": (1, 2),
        "misses": (1, 2),
        "escapes": (1, 2),
    }
    assert (rates["misses"].low, rates["misses"].high) == confidence_sequence(1, 2)


def test_the_suggested_threshold_is_of_calibration_and_audit_together():
    calibration = calibrate_thresholds([0.0] * 50, [0.0] * 50, 0.05)
    assert suggest_threshold(calibration, []) == calibration.threshold
    found = suggest_threshold(calibration, [s / 100 for s in range(50, 99)])
    assert found == pytest.approx(0.94, abs=0.01)
    without = calibrate_thresholds([0.0] * 50, [0.0] * 50, 0.05, folds=0)
    assert suggest_threshold(without, [1.0]) is None, "its scores promise nothing"


def test_flagged_parts_marked_good_would_let_the_threshold_creep_and_a_random_draw_does_not():
    """Ten months: one feeds back what was flagged in error, one a blind draw of one in fifty."""
    rng = np.random.default_rng(1)
    start = rng.lognormal(0, 0.4, 400)
    crept, audited = [*start], [*start]
    for _ in range(10):
        good = rng.lognormal(0, 0.4, 5000)
        limit = np.quantile(crept, 0.99)
        crept += good[good > limit].tolist()
        audited += good[rng.random(5000) < 1 / 50].tolist()
    defects = rng.lognormal(1.2, 0.4, 5000)
    calibration = calibrate_thresholds(start, start, 0.01)
    misses = [
        (defects <= suggest_threshold(calibration, scores)).mean()
        for scores in ([], crept[400:], audited[400:])
    ]
    assert misses[1] > misses[0] + 0.2
    assert abs(misses[2] - misses[0]) < 0.1
