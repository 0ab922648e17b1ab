"""One threshold serves image, mask and regions, and regions are what they say."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from cflow_ad.scoring.prediction import Prediction


def predict(rows, threshold=0.5):
    return Prediction(np.array(rows, np.float32), threshold)


def random_map(seed, shape=(40, 30)):
    return np.random.default_rng(seed).gamma(0.5, size=shape).astype(np.float32)


@pytest.mark.parametrize("seed", range(20))
def test_an_image_is_anomalous_exactly_when_its_mask_is_not_empty(seed):
    values = random_map(seed)
    highest = float(values.max())
    drawn = np.random.default_rng(seed).uniform(0, 1.2 * highest, 50)
    # Doubles on either side of the highest score, which single precision cannot tell from it.
    close = [highest, np.nextafter(highest, -np.inf), np.nextafter(highest, np.inf)]
    verdicts = set()
    for threshold in map(float, [*drawn, *close]):
        prediction = Prediction(values, threshold)
        assert prediction.score == highest
        assert prediction.is_anomalous == prediction.mask.any() == bool(prediction.regions)
        verdicts.add(prediction.is_anomalous)
    assert verdicts == {True, False}


def test_a_score_at_the_threshold_is_still_good():
    assert not predict([[0.5]], 0.5).is_anomalous
    assert predict([[0.5]], float(np.nextafter(0.5, 0))).is_anomalous


@pytest.mark.parametrize("seed", range(10))
def test_regions_partition_the_mask(seed):
    values = random_map(seed)
    prediction = Prediction(values, float(np.quantile(values, 0.85)))
    regions = prediction.regions
    assert len(regions) > 5
    assert sum(region.area for region in regions) == prediction.mask.sum()
    covered = np.zeros_like(prediction.mask)
    for region in regions:
        left, top, right, bottom = region.box
        inside = prediction.mask[top:bottom, left:right]
        covered[top:bottom, left:right] = True
        # The box is as small as it can be: each of its sides touches the mask.
        assert inside[0].any()
        assert inside[-1].any()
        assert inside[:, 0].any()
        assert inside[:, -1].any()
        assert 1 <= region.area <= inside.sum()
        assert left <= region.centroid[0] < right
        assert top <= region.centroid[1] < bottom
        assert prediction.threshold < region.peak <= prediction.score
    assert covered[prediction.mask].all()
    peaks = [region.peak for region in regions]
    assert peaks == sorted(peaks, reverse=True)
    assert peaks[0] == prediction.score


def test_hand_made_regions():
    low, high = predict(
        [
            [0, 0, 0, 0, 0, 9],
            [0, 2, 3, 0, 0, 8],
            [0, 2, 0, 0, 0, 7],
            [0, 0, 0, 0, 0, 0],
        ]
    ).regions[::-1]
    assert low.box == (1, 1, 3, 3)
    assert low.area == 3
    assert low.peak == 3
    assert low.centroid == pytest.approx((4 / 3, 4 / 3))
    assert high.box == (5, 0, 6, 3)
    assert high.area == 3
    assert high.peak == 9
    assert high.centroid == (5, 1)


def test_pixels_that_touch_at_a_corner_are_one_region():
    assert [r.area for r in predict(np.eye(5)).regions] == [5]
    assert [r.area for r in predict(np.fliplr(np.eye(5))).regions] == [5]
    assert len(predict([[1, 0, 1]]).regions) == 2


def test_a_regions_peak_is_its_own_and_not_of_another_in_its_box():
    corner = [[1, 1, 1, 1], [1, 0, 0, 0], [1, 0, 9, 0], [1, 0, 0, 0]]
    inner, outer = predict(corner).regions
    assert (inner.peak, inner.area) == (9, 1)
    assert (outer.peak, outer.area) == (1, 7)


def test_nothing_and_everything():
    assert predict(np.zeros((3, 4))).regions == ()
    (whole,) = predict(np.ones((3, 4))).regions
    assert whole.box == (0, 0, 4, 3)
    assert whole.area == 12
    assert whole.centroid == (1.5, 1)


def test_a_region_is_plain_json():
    (region,) = predict([[0, 2]]).regions
    said = json.loads(json.dumps(region.to_dict()))
    assert said == {"box": [1, 0, 2, 1], "area": 1, "peak": 2.0, "centroid": [1.0, 0.0]}


def test_a_prediction_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        predict([[1]]).threshold = 2.0
