"""Decision, mask and regions agree, and no map is computed that is not used."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
from scipy import ndimage

from cflow_ad.method import Method
from cflow_ad.scoring import prediction as module
from cflow_ad.scoring.canvas import Canvas
from cflow_ad.scoring.cells import cell_of
from cflow_ad.scoring.prediction import Prediction, build_prediction
from cflow_ad.scoring.score import compute_image_score, weigh_levels
from cflow_ad.scoring.threshold import calibrate_thresholds
from cflow_ad.scoring.view import MapInFrame
from cflow_ad.settings import Settings


def predict(rows, map_threshold=0.5, *, score=1.0, threshold=0.5):
    values = np.array(rows, np.float32)
    return Prediction(score, threshold, map_threshold, lambda: MapInFrame(values, None))


def random_map(seed, shape=(40, 30)):
    return np.random.default_rng(seed).gamma(0.5, size=shape).astype(np.float32)


# The decision


@pytest.mark.parametrize("seed", range(20))
def test_an_image_is_anomalous_exactly_when_its_mask_is_not_empty(seed):
    values, rng = random_map(seed), np.random.default_rng(seed)
    highest = float(values.max())
    # Doubles on either side of the maximum, which single precision cannot separate from it.
    close = [highest, np.nextafter(highest, -np.inf), np.nextafter(highest, np.inf)]
    decisions = set()
    for map_threshold in map(float, [*rng.uniform(0, 1.2 * highest, 20), *close, math.inf]):
        score, threshold = rng.uniform(0, 1, 2)
        prediction = predict(values, map_threshold, score=score, threshold=threshold)
        assert prediction.is_anomalous == (score > threshold)
        assert prediction.is_anomalous == prediction.mask.any() == bool(prediction.regions)
        decisions.add(prediction.is_anomalous)
    assert decisions == {True, False}


def test_a_score_at_the_threshold_is_good():
    assert not predict([[1]], score=0.5, threshold=0.5).is_anomalous
    assert predict([[1]], score=0.5, threshold=float(np.nextafter(0.5, 0))).is_anomalous


@pytest.mark.parametrize("seed", range(5))
def test_the_mask_of_an_anomalous_image_is_what_exceeds_the_maps_threshold(seed):
    values = random_map(seed)
    threshold = float(np.quantile(values, 0.9))
    assert np.array_equal(predict(values, threshold).mask, values > threshold)


@pytest.mark.parametrize("seed", range(10))
def test_where_nothing_exceeds_it_the_mask_is_the_region_around_the_maximum(seed):
    values = ndimage.gaussian_filter(random_map(seed), 2).astype(np.float32)
    place = np.unravel_index(values.argmax(), values.shape)
    parts, _ = ndimage.label(values > values.max() / 2, np.ones((3, 3)))
    mask = predict(values, float(values.max())).mask
    assert np.array_equal(mask, parts == parts[place])


def test_a_map_of_zeros_still_has_a_mask_where_the_image_is_anomalous():
    assert predict(np.zeros((3, 4))).mask.sum() == 1
    assert not predict(np.zeros((3, 4)), score=0.0).mask.any()


# The regions


@pytest.mark.parametrize("seed", range(10))
def test_regions_partition_the_mask(seed):
    values = random_map(seed)
    prediction = predict(values, float(np.quantile(values, 0.85)))
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
        assert prediction.map_threshold < region.peak <= values.max()
    assert covered[prediction.mask].all()
    peaks = [region.peak for region in regions]
    assert peaks == sorted(peaks, reverse=True)
    assert peaks[0] == values.max()


def test_hand_made_regions():
    low, high = predict(
        [[0, 0, 0, 0, 0, 9], [0, 2, 3, 0, 0, 8], [0, 2, 0, 0, 0, 7], [0, 0, 0, 0, 0, 0]]
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
    assert predict(np.zeros((3, 4)), score=0.0).regions == ()
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


# From energies


def canvas_of(inside=None):
    """An image of 50 x 100 pixels on a canvas of 32 x 64."""
    return Canvas(np.zeros((32, 64, 3), np.uint8), (32, 64), (50, 100), inside)


@pytest.fixture
def energies():
    rng = np.random.default_rng(0)
    return [rng.exponential(size=shape).astype(np.float32) for shape in ((4, 8), (2, 4))]


def settings_of(image_score, smoothing=4.0):
    return Settings(smoothing=smoothing, method=Method(image_score=image_score))


@pytest.fixture
def counted(monkeypatch):
    """The sizes of the maps computed so far."""
    sizes = []
    compute = module.compute_anomaly_map

    def count(*arguments, original, **options):
        sizes.append(original)
        return compute(*arguments, original=original, **options)

    monkeypatch.setattr(module, "compute_anomaly_map", count)
    return sizes


def test_no_map_is_computed_where_only_the_score_is_used(energies, counted):
    prediction = build_prediction(
        energies,
        canvas_of(),
        settings_of("levels"),
        calibration=calibrate_thresholds([100.0], [100.0], 0.01),
        with_map=False,
    )
    cells = [cell_of(canvas_of().shape, grid.shape) for grid in energies]
    weights = weigh_levels(len(energies), Method())
    expected = compute_image_score(energies, cells, canvas_of(), weights)
    assert prediction.score == expected
    assert not prediction.is_anomalous
    assert prediction.regions == ()
    assert counted == []
    assert prediction.anomaly_map.shape == prediction.mask.shape == (50, 100)
    assert counted == [(50, 100)]


@pytest.mark.parametrize("image_score", ["levels", "peak"])
def test_a_map_is_the_same_now_or_when_it_is_first_used(energies, counted, image_score):
    now, later = (
        build_prediction(energies, canvas_of(), settings_of(image_score), with_map=with_map)
        for with_map in (True, False)
    )
    assert len(counted) == (2 if image_score == "peak" else 1)
    assert now.score == later.score
    assert np.array_equal(now.anomaly_map, later.anomaly_map)
    if image_score == "peak":
        assert now.score == now.anomaly_map.max()


def test_a_map_is_0_outside_the_region_of_interest(energies):
    inside = np.zeros((50, 100), np.bool_)
    inside[10:30, 20:50] = True
    for image_score in ("levels", "peak"):
        prediction = build_prediction(
            energies,
            canvas_of(inside),
            settings_of(image_score, smoothing=0.0),
            calibration=calibrate_thresholds([0.0], [0.0], 0.01),
        )
        assert np.array_equal(prediction.inside, inside)
        assert not prediction.anomaly_map[~inside].any()
        assert not prediction.mask[~inside].any()
        assert prediction.mask.any()
    assert build_prediction(energies, canvas_of(), settings_of("peak")).inside is None


def test_the_mask_lies_in_the_region_of_interest_also_where_the_map_is_zero():
    inside = np.zeros((4, 5), np.bool_)
    inside[2, 3] = True
    prediction = Prediction(1.0, 0.5, 0.5, lambda: MapInFrame(np.zeros((4, 5), np.float32), inside))
    assert np.array_equal(prediction.mask, inside)
