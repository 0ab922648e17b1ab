"""The drift test: its rate of false alarms holds, and it says what moved, when, and by how much."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from crepes.martingales import EpsilonBettingFunction, SleeperStayer, semi_online_p_values

from cflow_ad import DataError
from cflow_ad.station.drift import martingale
from cflow_ad.station.drift.change import find_change
from cflow_ad.station.drift.exchangeability import RECENT, ExchangeabilityTest
from cflow_ad.station.drift.martingale import Martingales, compute_rewards
from cflow_ad.station.drift.measures import BINS, MEASURES, compute_measures
from cflow_ad.station.drift.reference import Reference


def part(rng, **shift):
    """A part of a steady stream; a shift is in standard deviations."""
    usual = {
        "score": (-0.7, 0.3),
        "brightness": (120.0, 2.0),
        "sharpness": (2.0, 0.1),
        "warmth": (0.01, 0.003),
        "tint": (0.0, 0.002),
        "x": (0.5, 0.01),
        "y": (0.5, 0.01),
    }
    values = {
        name: rng.normal(mean + shift.get(name, 0) * spread, spread)
        for name, (mean, spread) in usual.items()
    }
    logarithmic = {"score": np.exp(values["score"]), "sharpness": np.exp(values["sharpness"])}
    return values | logarithmic


# p-values


@pytest.mark.parametrize("distinct", [3, 1000], ids=["with ties", "hardly any ties"])
def test_p_values_are_those_of_crepes(distinct):
    keys = np.random.default_rng(0).integers(0, distinct, 300)
    ties = np.random.RandomState(7).rand(300)
    reference = Reference(1, distinct)
    ours = [reference.add([int(k)], ties[i : i + 1])[0] for i, k in enumerate(keys)]
    np.testing.assert_allclose(ours, semi_online_p_values(keys, seed=7), rtol=1e-12)


def test_p_values_of_exchangeable_parts_are_uniform_and_independent():
    """With few bins, too, in which most parts are ties."""
    rng = np.random.default_rng(1)
    reference = Reference(400, 8)
    p = np.stack(
        [reference.add(rng.integers(0, 8, 400).tolist(), rng.random(400)) for _ in "x" * 40]
    )
    assert np.histogram(p[1:], bins=10, range=(0, 1))[0] == pytest.approx(39 * 40, rel=0.1)
    neighbours = np.corrcoef(p[20:-1].ravel(), p[21:].ravel())[0, 1]
    assert abs(neighbours) < 4 / np.sqrt(p[21:].size)


# Martingale


def test_capital_is_that_of_crepes(monkeypatch):
    """With its rule for what sleeps: a fixed share wakes before each part."""
    p = np.random.default_rng(2).beta(0.8, 1.1, 200)

    class Bets(EpsilonBettingFunction):
        def apply(self, p_values):
            return compute_rewards(np.asarray(p_values))

    expected = SleeperStayer(R=0.01, bf=Bets()).apply(p)
    monkeypatch.setattr(martingale, "sleeping_share", lambda n: 0.99**n)
    ours = Martingales(1)
    capital = [ours.bet(p[n : n + 1])[0] for n in range(200)]
    np.testing.assert_allclose(capital, expected, rtol=1e-10)


def test_linear_bets_are_those_of_crepes():
    p = np.linspace(0, 1, 11)
    np.testing.assert_allclose(
        compute_rewards(p)[:, :4], EpsilonBettingFunction(E=[-1, -1.8, 1, 1.8]).apply(p)
    )


def test_no_bet_gains_in_the_mean():
    p = (np.arange(200_000) + 0.5) / 200_000
    rewards = compute_rewards(p)
    assert rewards.min() > 0
    assert (rewards.mean(axis=0) <= 1 + 1e-9).all()
    assert rewards.mean(axis=0) == pytest.approx(1, abs=5e-3)  # powers: the far tail


@pytest.mark.parametrize("limit", [20, 100])
def test_false_alarms_are_no_more_than_villes_inequality_allows(limit):
    """Of 4000 streams of 1500 parts; a limit of 20 is a rate of 5 %."""
    rng = np.random.default_rng(3)
    tests, highest = Martingales(4000), np.zeros(4000)
    for _ in range(1500):
        highest = np.maximum(highest, tests.bet(rng.random(4000)))
    share = (highest >= limit).mean()
    assert 0.2 / limit < share < 1 / limit + 3 * np.sqrt(1 / limit / 4000)


# The whole test


def test_steady_streams_hardly_ever_ring():
    """At a rate of 10 %, of 40 streams of 250 parts."""
    rang = 0
    for seed in range(40):
        rng, test = np.random.default_rng([4, seed]), ExchangeabilityTest(seed, rate=0.1)
        rang += any(test.add(part(rng)) for _ in range(250))
    assert rang <= 9  # P(more | 10 %) < 1 %


@pytest.mark.parametrize("measure", [measure.name for measure in MEASURES])
def test_a_drift_is_found_named_and_dated(measure):
    rng, test = np.random.default_rng(5), ExchangeabilityTest(5)
    for n in range(300):
        assert not test.add(part(rng), str(n), f"time {n}")
    found = []
    for n in range(300, 360):
        found += test.add(part(rng, **{measure: 3}), str(n), f"time {n}")
    (alarm,) = found
    assert (alarm.measure, alarm.direction) == (measure, "up")
    assert alarm.n_before + alarm.n_after <= 330  # found within 30 parts
    assert abs(int(alarm.since) - 300) <= 2
    assert alarm.since_time == f"time {alarm.since}"
    assert alarm.capital >= test.limit == len(MEASURES) / 0.01
    (now,) = test.alarms()
    assert now.shift == pytest.approx(3, abs=0.6)
    assert (now.since, now.n_after) == (alarm.since, 360 - alarm.n_before)


@pytest.mark.parametrize(("spread", "direction"), [(4, "wider"), (0.05, "narrower")])
def test_a_change_of_spread_is_found(spread, direction):
    rng, test = np.random.default_rng(6), ExchangeabilityTest(6)
    found = []
    for n in range(600):
        found += test.add(part(rng) | {"x": rng.normal(0.5, 0.01 * (1 if n < 300 else spread))})
    assert [(alarm.measure, alarm.direction) for alarm in found] == [("x", direction)]


@pytest.mark.parametrize("shift", [1, 2, -3])
def test_a_change_is_dated_to_a_few_parts(shift):
    errors = []
    for seed in range(30):
        z = np.random.default_rng([11, seed]).normal(size=400)
        z[370:] += shift
        at, direction = find_change([0.5 * math.erfc(value / math.sqrt(2)) for value in z])
        errors.append(abs(at - 370))
        assert direction == ("up" if shift > 0 else "down")
    assert np.median(errors) <= 6 / abs(shift)


def test_late_drift_is_found_nearly_as_soon_as_early_drift():
    delays = []
    for steady in (200, 20_000):
        rng, tests = np.random.default_rng(7), Martingales(200)
        for _ in range(steady):
            tests.bet(rng.random(200))
        delay = np.zeros(200)
        while (tests.capital < 700).any() and delay.max() < 300:
            delay += tests.capital < 700
            tests.bet(rng.beta(0.35, 1.6, 200))  # p-values of a shift of about 1 spread
        delays.append(np.median(delay))
    assert delays[1] < 2 * delays[0] < 80


def test_a_state_survives_json_and_goes_on_the_same():
    rng, whole = np.random.default_rng(8), ExchangeabilityTest(8)
    parts = [part(rng, brightness=2 * (n > 120)) for n in range(200)]
    alarms = [alarm for n, values in enumerate(parts) for alarm in whole.add(values, str(n))]
    cut = ExchangeabilityTest(8)
    resumed = []
    for n, values in enumerate(parts):
        if n % 50 == 0:
            cut = ExchangeabilityTest.from_dict(json.loads(json.dumps(cut.to_dict())))
        resumed += cut.add(values, str(n))
    assert alarms == resumed != []
    assert cut.to_dict() == whole.to_dict()
    assert cut.status() == whole.status()


def test_the_state_does_not_grow():
    """Values of any size and number fall on the grid."""
    test = ExchangeabilityTest(9)
    for n in range(RECENT + 50):
        test.add({"score": 10.0 ** (n % 60 - 30), "brightness": -1e9 * n, "x": 1e300})
    assert test._reference._counts.shape == (len(MEASURES), BINS)
    assert len(test.to_dict()["recent"]) == RECENT
    assert np.isfinite(test._martingales.capital).all()


def test_a_value_that_is_no_number_does_not_count():
    test = ExchangeabilityTest(10)
    before = test.to_dict()
    with pytest.raises(DataError, match="part 7"):
        test.add({"score": float("nan")}, "7")
    assert test.to_dict() == before


def test_a_state_of_other_measures_is_refused():
    with pytest.raises(DataError, match="restart the drift test"):
        ExchangeabilityTest.from_dict(ExchangeabilityTest(0).to_dict() | {"measures": ["score"]})


# Measures


@pytest.fixture(scope="module")
def carpet(images):
    return images[0]


def test_each_measure_follows_what_it_names(carpet):
    base = compute_measures(carpet)
    light = compute_measures(np.clip(carpet * 1.1, 0, 255).astype(np.uint8))
    assert light["brightness"] == pytest.approx(1.1 * base["brightness"], rel=0.02)
    assert light["sharpness"] == pytest.approx(base["sharpness"], rel=0.05)
    blurred = (carpet[1:, 1:] / 2 + carpet[:-1, :-1] / 2).astype(np.uint8)
    assert compute_measures(blurred)["sharpness"] < 0.9 * base["sharpness"]
    red, green = carpet.copy(), carpet.copy()
    red[..., 0] += 20
    green[..., 1] += 20
    assert compute_measures(red)["warmth"] > base["warmth"] + 0.02
    assert compute_measures(green)["tint"] > base["tint"] + 0.02


@pytest.mark.parametrize("size", [(1, 1), (3, 500), (480, 640)])
def test_position_is_where_the_part_is(size):
    height, width = size
    image = np.full((height, width, 3), 30, np.uint8)
    assert all(map(np.isfinite, compute_measures(image).values()))
    if size == (480, 640):
        image[100:200, 400:560] = 200
        found = compute_measures(image)
        assert found["x"] == pytest.approx(0.75, abs=0.01)
        assert found["y"] == pytest.approx(150 / 480, abs=0.01)
