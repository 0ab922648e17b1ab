"""Laws of the trade-off: each threshold does what it says, with exact intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import beta

from cflow_ad.evaluation.tradeoff import compute_tradeoff, select_operations


@pytest.fixture
def tradeoff():
    rng = np.random.default_rng(0)
    good = rng.normal(1, 0.5, 80)
    defects = [*rng.normal(2, 0.7, 25), 1.3, 1.3]
    made = compute_tradeoff(good, [(score, f"{n}.png") for n, score in enumerate(defects)])
    return made, good, np.array(defects)


def test_every_threshold_finds_and_costs_what_it_says(tradeoff):
    made, good, defects = tradeoff
    assert made.operations[0].found == len(defects)
    assert made.lowest == defects.min()
    assert made.lowest_image == f"{defects.argmin()}.png"
    assert len(made.operations) == len(set(defects))
    for at in made.operations:
        assert at.found == (defects > at.threshold).sum()
        assert at.alarms == (good > at.threshold).sum()
    thresholds = [at.threshold for at in made.operations]
    assert thresholds == sorted(thresholds)
    # No threshold finds as many at fewer false alarms, but for what rounding may add to a score.
    for other in np.linspace(0, 4, 1001):
        fits = [at for at in made.operations if at.found >= (defects > other).sum()]
        if fits:
            assert min(at.alarms for at in fits) <= (good > other + 2e-3).sum() + 1


def test_intervals_are_those_of_clopper_and_pearson(tradeoff):
    made, good, defects = tradeoff
    for at in made.operations[:5]:
        k, n = at.alarms, len(good)
        assert at.alarm_interval == pytest.approx(
            (beta.ppf(0.025, k, n - k + 1), beta.ppf(0.975, k + 1, n - k))
        )
    low, high = made.operations[0].found_interval
    assert (low, high) == pytest.approx((0.025 ** (1 / len(defects)), 1))


def test_printed_thresholds_each_save_false_alarms(tradeoff):
    chosen = select_operations(tradeoff[0], most=5)
    assert chosen[0] == tradeoff[0].operations[0]
    alarms = [at.alarms for at in chosen]
    assert alarms == sorted(set(alarms), reverse=True)
    assert len(chosen) <= 5


def test_without_defects_or_good_images():
    assert compute_tradeoff([1.0], []) is None
    made = compute_tradeoff([], [(0.5, "a.png")])
    assert made.operations[0].alarms == 0
    assert math.isnan(made.operations[0].alarm_interval[0])
