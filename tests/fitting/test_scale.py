"""Each part of an image has a location and scale of its own, as far as it has vectors."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from cflow_ad.cflow.position import FRAME
from cflow_ad.errors import SettingsError
from cflow_ad.fitting.features import LevelFeatures
from cflow_ad.fitting.likelihood import build_level
from cflow_ad.fitting.scale import LOW, fit_scale
from cflow_ad.method import Method
from cflow_ad.settings import Settings

SETTINGS = Settings(strides=(128,), method=Method(blocks=2, position_channels=0))  # 2 x 2 parts
LEFT, RIGHT = FRAME // 4, 3 * FRAME // 4


def halves(left=2000, right=2000):
    """The right half varies more than the left."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(left + right, 4)).astype(np.float32)
    vectors[left:] *= 1.4
    column = np.repeat([LEFT, RIGHT], [left, right])
    row = rng.choice([LEFT, RIGHT], left + right)
    return LevelFeatures(vectors, np.stack([row, column], 1).astype(np.int16))


def fit(features, **method):
    settings = dataclasses.replace(SETTINGS, method=dataclasses.replace(SETTINGS.method, **method))
    level = build_level(features, settings, 0)
    fit_scale(level, features, settings, 0)
    return level


def alarms(level, features):
    """Of either half, the share of vectors whose energy is above 1."""
    z, rows, columns = features.take(np.arange(len(features)))
    energies = level.energy(level(z, rows, columns), rows, columns)
    return [float((energies[columns == side] > 1).float().mean()) for side in (LEFT, RIGHT)]


def test_the_median_has_energy_0_and_the_low_quantile_energy_1():
    features = halves()
    level = fit(features, place_scales=0.0)
    z, rows, columns = features.take(np.arange(len(features)))
    marks = torch.tensor([0.5, LOW], dtype=torch.float64)
    likelihoods = level(z, rows, columns).double().quantile(marks).float()
    energies = level.energy(likelihoods, rows[:1], columns[:1])
    torch.testing.assert_close(energies, torch.tensor([0.0, 1.0]), atol=1e-4, rtol=1e-4)


def test_a_part_where_good_images_vary_raises_fewer_alarms_by_its_own_scale():
    data = halves()
    shares = [alarms(fit(data, place_scales=share), data) for share in (0.0, 0.5, 1.0)]
    left, right = zip(*shares, strict=True)
    assert left[0] < left[1] < left[2]
    assert right[0] > right[1] > right[2]
    assert right[0] > 3 * left[0]
    assert 0.5 < right[2] / left[2] < 2


def test_one_scale_is_a_scalar_and_a_scale_for_each_part_a_grid():
    assert fit(halves(), place_scales=0.0).location.shape == ()
    assert fit(halves()).location.shape == (2, 2)


@pytest.mark.parametrize("changes", [{}, {"place_scales": 0.0}])
def test_absolute_positions_have_no_parts(changes):
    with pytest.raises(SettingsError, match="place_means must be false and place_scales 0"):
        Method(positions="absolute", **changes)


def test_a_part_with_few_vectors_keeps_the_scale_of_the_image():
    whole = fit(halves(right=0), place_scales=0.0)
    few, many = (fit(halves(right=n), place_scales=1.0) for n in (2, 500))
    unseen = fit(halves(right=0), place_scales=1.0)
    torch.testing.assert_close(unseen.location[:, 1], whole.location.expand(2))
    torch.testing.assert_close(unseen.scale[:, 1], whole.scale.expand(2))
    assert few.location[0, 1] - whole.location > (many.location[0, 1] - whole.location) / 3
    assert many.location[0, 1] < many.location[0, 0]


def test_vectors_that_do_not_vary_have_a_finite_scale():
    level = fit(LevelFeatures(np.ones((50, 4), np.float32), np.zeros((50, 2), np.int16)))
    assert level.scale.isfinite().all()
    assert (level.scale > 0).all()
