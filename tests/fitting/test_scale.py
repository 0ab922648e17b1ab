"""Each part of an image has a scale of its own, as far as it was seen."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from cflow_ad.cflow.position import FRAME
from cflow_ad.errors import SettingsError
from cflow_ad.fitting.cache import LevelFeatures
from cflow_ad.fitting.likelihood import new_level
from cflow_ad.fitting.scale import fit_scale
from cflow_ad.settings import Settings

SETTINGS = Settings(strides=(128,), blocks=2, position_channels=0)  # 2 x 2 parts
LEFT, RIGHT = FRAME // 4, 3 * FRAME // 4


def features(left=2000, right=2000):
    """The right half varies more as the left."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(left + right, 4)).astype(np.float32)
    vectors[left:] *= 1.4
    column = np.repeat([LEFT, RIGHT], [left, right])
    row = rng.choice([LEFT, RIGHT], left + right)
    return LevelFeatures(vectors, np.stack([row, column], 1).astype(np.int16))


def fit(features, **changes):
    settings = dataclasses.replace(SETTINGS, **changes)
    level = new_level(features, settings, 0)
    fit_scale(level, features, settings, 0)
    return level


def alarms(level, features):
    """Of either half, the share of vectors that score more than 1."""
    z, rows, columns = features.take(np.arange(len(features)))
    scores = -level.normality(level(z, rows, columns), rows, columns).log()
    return [float((scores[columns == side] > 1).float().mean()) for side in (LEFT, RIGHT)]


def test_a_part_where_good_images_vary_raises_fewer_alarms_by_its_own_scale():
    data = features()
    shares = [alarms(fit(data, local_scale=share), data) for share in (0.0, 0.5, 1.0)]
    left, right = zip(*shares, strict=True)
    assert left[0] < left[1] < left[2]
    assert right[0] > right[1] > right[2]
    assert right[0] > 3 * left[0]
    assert 0.5 < right[2] / left[2] < 2


def test_one_scale_is_a_scalar_and_a_local_one_a_grid():
    assert fit(features(), local_scale=0.0).reference.shape == ()
    assert fit(features()).reference.shape == (2, 2)
    with pytest.raises(SettingsError, match=r"local_scale is .* 0 with positions=absolute"):
        dataclasses.replace(SETTINGS, positions="absolute")
    with pytest.raises(SettingsError, match=r"local_mean is .* false with positions=absolute"):
        dataclasses.replace(SETTINGS, positions="absolute", local_scale=0.0)


def test_a_part_that_was_hardly_seen_keeps_the_scale_of_the_image():
    whole = fit(features(right=0), local_scale=0.0)
    few, many = (fit(features(right=n), local_scale=1.0) for n in (2, 500))
    unseen = fit(features(right=0), local_scale=1.0)
    torch.testing.assert_close(unseen.reference[:, 1], whole.reference.expand(2))
    torch.testing.assert_close(unseen.spread[:, 1], whole.spread.expand(2))
    assert few.reference[0, 1] - whole.reference > (many.reference[0, 1] - whole.reference) / 3
    assert many.reference[0, 1] < many.reference[0, 0]


def test_vectors_that_do_not_vary_have_a_finite_scale():
    data = LevelFeatures(np.ones((50, 4), np.float32), np.zeros((50, 2), np.int16))
    level = fit(data)
    assert level.spread.isfinite().all()
    assert (level.spread > 0).all()
