"""Laws of the anomaly map: a linear resampling of the levels' mean normality, on one scale."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch.nn import functional as F

from cflow_ad.scoring.anomaly_map import compute_anomaly_map, gaussian_weights

# Part of the canvas that is image, and the size the image came in.
SIZES = [
    ((64, 64), (64, 64)),
    ((64, 96), (200, 300)),
    ((40, 64), (20, 32)),
    ((33, 64), (50, 97)),
    ((64, 1), (640, 3)),
    ((7, 5), (1, 1)),
]
every_size = pytest.mark.parametrize(("valid", "original"), SIZES)
STRIDES = [8, 16, 32]


def make_grids(valid, fill):
    """Normalities: one grid for each stride, over a canvas of whole cells of the largest."""
    canvas = [-(-side // 32) * 32 for side in valid]
    return [fill((canvas[0] // s, canvas[1] // s)).astype(np.float32) for s in STRIDES]


def score(grids, valid, original, smoothing=0.0, strides=STRIDES):
    """The map of the energies that have these normalities."""
    with np.errstate(divide="ignore"):
        energies = [-np.log(grid) for grid in grids]
    cells = [(stride, stride) for stride in strides]
    return compute_anomaly_map(energies, cells, valid=valid, original=original, smoothing=smoothing)


@every_size
@pytest.mark.parametrize("smoothing", [0.0, 4.0, 50.0])
@pytest.mark.parametrize("value", [1.0, 0.25, 1e-6])
def test_constant_levels_give_a_constant_map(valid, original, smoothing, value):
    grids = make_grids(valid, lambda shape: np.full(shape, value))
    values = score(grids, valid, original, smoothing)
    np.testing.assert_allclose(values, -math.log(value), rtol=1e-6, atol=1e-6)


@every_size
def test_levels_are_averaged_before_the_logarithm(valid, original):
    shares = iter([1.0, 0.5, 0.0])
    grids = make_grids(valid, lambda shape: np.full(shape, next(shares)))
    np.testing.assert_allclose(score(grids, valid, original), -math.log(0.5), rtol=1e-6)


@every_size
@pytest.mark.parametrize("smoothing", [0.0, 4.0])
def test_a_map_has_the_images_size_and_stays_on_the_scale(valid, original, smoothing):
    rng = np.random.default_rng(0)
    for fill in (rng.random, np.zeros, np.ones, lambda shape: rng.random(shape) < 0.5):
        values = score(make_grids(valid, fill), valid, original, smoothing)
        assert values.shape == original
        assert values.dtype == np.float32
        assert values.min() >= 0
        assert values.max() <= 69.1


def test_nothing_normal_scores_the_end_of_the_scale():
    values = score(make_grids((64, 64), np.zeros), (64, 64), (64, 64))
    np.testing.assert_allclose(values, -math.log(1e-30), rtol=1e-6)


def test_entirely_normal_scores_0_and_not_minus_0():
    values = score(make_grids((64, 64), np.ones), (64, 64), (64, 64))
    assert str(values.max()) == str(np.float32(0))


# Interpolation


@pytest.mark.parametrize("original", [(64, 96), (200, 300), (50, 97), (24, 20)])
def test_levels_are_upsampled_as_torch_interpolates(original):
    grids = make_grids((64, 96), np.random.default_rng(4).random)
    upsampled = [
        F.interpolate(torch.from_numpy(grid)[None, None], size=original, mode="bilinear")[0, 0]
        for grid in grids
    ]
    expected = -torch.stack(upsampled).mean(0).log()
    np.testing.assert_allclose(score(grids, (64, 96), original), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("smoothing", [1.0, 4.0, 40.0])
@pytest.mark.parametrize("scale", [1, 3])
def test_the_mean_normality_is_smoothed_as_scipy_does(smoothing, scale):
    grids = make_grids((64, 96), np.random.default_rng(5).random)
    original = (64 * scale, 96 * scale)
    plain = np.exp(-score(grids, (64, 96), original).astype(float))
    smooth = gaussian_filter(plain, smoothing * scale, mode="nearest", truncate=3)
    found = score(grids, (64, 96), original, smoothing)
    np.testing.assert_allclose(found, -np.log(smooth), rtol=1e-4, atol=1e-5)


def test_gaussian_weights_are_symmetric_and_sum_to_1():
    for sigma in (0.0, 0.1, 1.0, 7.3):
        weights = gaussian_weights(sigma)
        assert weights.sum() == pytest.approx(1)
        assert len(weights) == 2 * int(3 * sigma + 0.5) + 1
        np.testing.assert_array_equal(weights, weights[::-1])


def test_one_row_by_hand():
    """Cell centres lie at pixels 2 and 6 of 8, pixel centres at 0.5, 1.5, ..., 7.5."""
    grid = np.array([[0.8, 0.4]], np.float32)
    values = score([grid], (4, 8), (1, 8), strides=[4])
    mean = [0.8, 0.8, 0.75, 0.65, 0.55, 0.45, 0.4, 0.4]
    np.testing.assert_allclose(values[0], -np.log(mean), rtol=1e-6)


def test_one_row_by_hand_at_half_the_size():
    grid = np.array([[0.8, 0.4]], np.float32)
    values = score([grid], (4, 8), (1, 4), strides=[4])
    np.testing.assert_allclose(values[0], -np.log([0.8, 0.7, 0.5, 0.4]), rtol=1e-6)


def test_a_map_is_the_product_of_its_axes():
    """Bilinear: the rows by hand, then the columns by hand."""
    grid = np.array([[0.8, 0.4], [0.2, 0.6]], np.float32)
    share = np.clip((np.arange(8) + 0.5) / 4 - 0.5, 0, 1)
    weights = np.stack([1 - share, share], axis=1)
    values = score([grid], (8, 8), (8, 8), strides=[4])
    np.testing.assert_allclose(values, -np.log(weights @ grid @ weights.T), rtol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 2.0, 4.0])
@pytest.mark.parametrize("scale", [0.5, 1, 3])
@pytest.mark.parametrize("stride", [8, 16])
def test_a_linear_ramp_stays_one_away_from_the_ends(smoothing, scale, stride):
    side = 128
    cells = side // stride
    centres = (np.arange(cells) + 0.5) * stride / side
    grid = np.add.outer(0.2 + 0.3 * centres, 0.4 * centres).astype(np.float32)
    pixels = int(side * scale)
    values = score([grid], (side, side), (pixels, pixels), smoothing, strides=[stride])
    place = (np.arange(pixels) + 0.5) / pixels
    expected = np.add.outer(0.2 + 0.3 * place, 0.4 * place)
    # Half a cell at either end stays level, and the Gaussian reaches that much further.
    edge = math.ceil((stride / 2 + 3 * smoothing) * scale) + 2
    inside = np.s_[edge:-edge, edge:-edge]
    assert values[inside].size > 0
    np.testing.assert_allclose(np.exp(-values)[inside], expected[inside], atol=1e-5)


# Order


@every_size
@pytest.mark.parametrize("smoothing", [0.0, 4.0])
def test_less_normality_never_lowers_the_map(valid, original, smoothing):
    rng = np.random.default_rng(1)
    grids = make_grids(valid, rng.random)
    before = score(grids, valid, original, smoothing)
    for _ in range(10):
        level = rng.integers(len(grids))
        place = tuple(int(rng.integers(side)) for side in grids[level].shape)
        grids[level][place] *= rng.random()
        after = score(grids, valid, original, smoothing)
        assert (after >= before - 1e-6).all()
        before = after


@pytest.mark.parametrize("smoothing", [0.0, 4.0])
def test_every_level_counts(smoothing):
    grids = make_grids((64, 64), np.ones)
    for grid in grids:
        grid[0, 0] = 0
        assert score(grids, (64, 64), (64, 64), smoothing).max() > 0.01
        grid[0, 0] = 1


# The canvas


@pytest.mark.parametrize("smoothing", [0.0, 4.0])
@pytest.mark.parametrize("valid", [(64, 70), (33, 47), (42, 64), (5, 90), (1, 1)])
def test_the_canvas_beyond_the_image_does_not_show(valid, smoothing):
    """Cells whose centre lies in the reflection are not trained on, and not used."""
    grids = make_grids(valid, np.random.default_rng(2).random)
    before = score(grids, valid, (50, 60), smoothing)
    for grid, stride in zip(grids, STRIDES, strict=True):
        for axis, side in enumerate(valid):
            centres = (np.arange(grid.shape[axis]) + 0.5) * stride
            beyond = centres > max(side, stride / 2)
            np.moveaxis(grid, axis, 0)[beyond] = 0
    assert sum(int((grid == 0).sum()) for grid in grids) > 0
    assert np.array_equal(score(grids, valid, (50, 60), smoothing), before)


@every_size
def test_a_map_does_not_depend_on_what_was_scored_before(valid, original):
    """Resampling matrices are kept and shared: they must not be written to."""
    grids = make_grids(valid, np.random.default_rng(3).random)
    first = score(grids, valid, original, 4.0)
    first_again = score(grids, valid, original, 4.0)
    assert np.array_equal(first, first_again)
    first[:] = -1
    assert np.array_equal(score(grids, valid, original, 4.0), first_again)
