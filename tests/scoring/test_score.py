"""The image's score is a geometric mean over the levels."""

from __future__ import annotations

import numpy as np
import pytest

from cflow_ad.method import Method
from cflow_ad.scoring.canvas import Canvas
from cflow_ad.scoring.cells import cell_of
from cflow_ad.scoring.score import LEAST_TERM, compute_image_score, weigh_levels

SHAPE = (64, 96)
STRIDES = (8, 16, 32)


def canvas_of(inside=None, valid=SHAPE):
    original = valid if inside is None else inside.shape
    return Canvas(np.zeros((*SHAPE, 3), np.uint8), valid, original, inside)


def random_energies(seed=0, strides=STRIDES):
    rng = np.random.default_rng(seed)
    return [
        rng.exponential(size=(SHAPE[0] // s, SHAPE[1] // s)).astype(np.float32) for s in strides
    ]


def compute(energies, **canvas):
    return score_of(energies, canvas_of(**canvas))


def score_of(energies, canvas, method=None):
    cells = [cell_of(canvas.shape, grid.shape) for grid in energies]
    weights = weigh_levels(len(energies), method or Method(memory=0))
    return compute_image_score(energies, cells, canvas, weights)


def mean_of_four(values):
    return np.sort(values, axis=None)[-4:].mean()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("strides", [(8,), (8, 16), STRIDES])
def test_it_is_the_geometric_mean_of_the_means_of_the_four_highest(seed, strides):
    energies = random_energies(seed, strides)
    terms = [mean_of_four(grid) for grid in energies]
    expected = np.prod(terms) ** (1 / len(terms))
    assert compute(energies) == pytest.approx(expected)
    found = score_of(energies, canvas_of(), Method())
    if len(strides) > 1:  # the second level has a memory, with three quarters of the weight
        memory, others = terms.pop(1), terms
        expected = (memory**3 * np.prod(others) ** (1 / len(others))) ** 0.25
    assert found == pytest.approx(expected)


def test_only_positions_in_the_region_of_interest_count():
    """Those within a position's side of the region, since upsampling spreads them into it."""
    inside = np.zeros(SHAPE, np.bool_)
    inside[:32, :32] = True
    energies = random_energies()
    expected = compute(energies, inside=inside)
    assert expected != compute(energies)
    for grid, stride in zip(energies, STRIDES, strict=True):
        grid[(32 // stride) + 2 :] = 1000
        grid[:, (32 // stride) + 2 :] = 1000
    assert compute(energies, inside=inside) == expected
    energies[0][0, 0] = 1000
    assert compute(energies, inside=inside) > 2 * expected


def test_positions_in_the_reflection_do_not_count():
    energies = random_energies()
    expected = compute(energies, valid=(64, 64))
    for grid, stride in zip(energies, STRIDES, strict=True):
        grid[:, 64 // stride :] = 1000
    assert compute(energies, valid=(64, 64)) == expected


@pytest.mark.parametrize("count", [1, 2, 3])
def test_fewer_than_four_positions_are_averaged_over_all(count):
    energies = [np.arange(1, count + 1, dtype=np.float32)[None]]
    canvas = Canvas(np.zeros((8, 8 * count, 3), np.uint8), (8, 8 * count), (8, 8 * count))
    mean = (count + 1) / 2
    assert score_of(energies, canvas) == pytest.approx(mean, rel=1e-5)


def test_energies_far_beyond_the_maps_end_still_change_the_score():
    """The map ends at 69, where the mean normality is the least number it separates from 0."""
    scores = []
    for energy in (60, 100, 1000, 1e5):
        energies = random_energies()
        for grid in energies:
            grid[:2, :2] = energy
        scores.append(compute(energies))
    assert scores == sorted(set(scores))
    assert scores[-1] > 10 * scores[-2]


def test_a_defect_that_one_level_sees_raises_the_score_more_than_the_map_does():
    plain, seen = random_energies(), random_energies()
    plain[0][:] = seen[0][:] = 1
    seen[0][3:5, 3:5] = 50
    assert compute(seen) > 2 * compute(plain)


@pytest.mark.parametrize("seed", range(3))
def test_a_higher_energy_never_lowers_the_score(seed):
    rng = np.random.default_rng(seed)
    energies = random_energies(seed)
    before = compute(energies)
    for _ in range(20):
        grid = energies[rng.integers(3)]
        grid[tuple(rng.integers(side) for side in grid.shape)] += rng.exponential(5)
        after = compute(energies)
        assert after >= before * (1 - 1e-6)
        before = after


def test_an_image_without_any_energy_has_the_least_score():
    energies = [np.zeros_like(grid) for grid in random_energies()]
    assert compute(energies) == pytest.approx(LEAST_TERM)
