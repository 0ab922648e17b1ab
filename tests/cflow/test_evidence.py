import dataclasses
import json
import math

import numpy as np
import pytest

from cflow_ad import CalibrationWarning, Detector, Settings
from cflow_ad.cflow.evidence import CERTAIN, FEWEST, Evidence, peaks_of, seen_map
from cflow_ad.scoring.canvas import Canvas

SETTINGS = Settings(coarse=0, strides=(8, 16), smoothing=0.0)


def canvas_of(shape=(32, 64), inside=None, valid=None):
    return Canvas(np.zeros((*shape, 3), np.uint8), valid or shape, valid or shape, inside)


def normal_grids(shape=(32, 64)):
    return [np.ones((shape[0] // s, shape[1] // s), np.float32) for s in (8, 16)]


def some_evidence(n=100):
    rng = np.random.default_rng(0)
    return Evidence.of(rng.lognormal(0, 0.3, (n, 3)))


def test_the_peaks_are_the_least_normalities_wherever_they_lie_and_the_maps_highest_value():
    grids = normal_grids()
    grids[0][1, 2], grids[1][1, 3] = math.exp(-2), math.exp(-3)
    canvas = canvas_of()
    seen = seen_map(grids, canvas, SETTINGS, None)
    assert peaks_of(grids, canvas, seen) == pytest.approx([2, 3, seen.values.max()])


def test_what_lies_outside_the_region_or_the_image_has_no_peak():
    inside = np.zeros((32, 40), np.bool_)
    inside[:, :8] = True
    for canvas in (canvas_of(inside=inside, valid=(32, 40)), canvas_of(valid=(32, 40))):
        grids = normal_grids()
        for grid in grids:
            grid[:, -1] = 0
        seen = seen_map(grids, canvas, SETTINGS, None)
        assert peaks_of(grids, canvas, seen) == [0, 0, 0]


def test_a_level_without_any_normality_has_a_finite_peak():
    grids = normal_grids()
    grids[0][0, 0] = 0
    canvas = canvas_of()
    peaks = peaks_of(grids, canvas, seen_map(grids, canvas, SETTINGS, None))
    assert 60 < peaks[0] < 70


def test_an_image_as_good_ones_mostly_are_is_left_as_it_is():
    evidence = some_evidence(99)
    assert evidence.factor(evidence.middle) == pytest.approx(
        math.exp(-evidence.relative * evidence.joint_middle / evidence.joint_deviation), abs=0.02
    )


def test_peaks_that_the_map_does_not_show_raise_it_and_a_peak_of_its_own_lowers_it():
    evidence = some_evidence()
    middle, deviation = map(np.array, (evidence.middle, evidence.deviation))
    assert evidence.factor(middle + deviation * [4, 4, 0]) > 1.3
    assert evidence.factor(middle + deviation * [0, 0, 1.5]) < 1
    factors = [evidence.factor(middle + deviation * [x, 0, 0]) for x in (0, 1, 2, 4)]
    assert factors == sorted(factors)


def test_the_more_anomalous_a_level_the_higher_the_score():
    evidence = some_evidence()
    canvas = canvas_of()
    scores = []
    for peak in (0.5, 1, 2, 4, 8, 16, 32):
        grids = normal_grids()
        grids[0][1, 2] = math.exp(-peak)
        scores.append(seen_map(grids, canvas, SETTINGS, evidence).values.max())
    assert scores == sorted(scores)


def test_what_is_certain_either_way_is_left_as_it_is():
    evidence = some_evidence()
    far = np.array(evidence.middle) + 50 * CERTAIN * np.array(evidence.deviation)
    assert evidence.factor(far) == pytest.approx(1, abs=1e-6)


def test_a_map_keeps_the_order_of_its_pixels():
    rng = np.random.default_rng(1)
    grids = [rng.uniform(0.1, 1, grid.shape).astype(np.float32) for grid in normal_grids()]
    plain, brought = (
        seen_map(grids, canvas_of(), SETTINGS, evidence).values
        for evidence in (None, some_evidence())
    )
    assert (np.argsort(plain, axis=None) == np.argsort(brought, axis=None)).all()


def test_a_few_defective_images_among_the_good_ones_change_little():
    rng = np.random.default_rng(2)
    good = rng.lognormal(0, 0.3, (60, 3))
    clean, stained = Evidence.of(good), Evidence.of([*good, [30, 40, 20], [50, 30, 20]])
    for peaks in good[:10]:
        assert stained.factor(peaks) == pytest.approx(clean.factor(peaks), rel=0.1)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_good_images_without_any_difference_leave_a_finite_scale(value):
    evidence = Evidence.of(np.full((10, 3), value))
    assert evidence.factor([value] * 3) == 1
    assert math.isfinite(evidence.factor([9.0, 0.0, 5.0]))


def test_it_is_stored_and_what_does_not_fit_together_is_refused():
    evidence = some_evidence()
    values = json.loads(json.dumps(evidence.to_dict()))
    assert Evidence.from_dict(values) == evidence
    for wrong in ({"middle": [1.0]}, {"deviation": [1.0, 0.0, 1.0]}, {"joint_deviation": -1}):
        with pytest.raises(ValueError, match="do not go together"):
            Evidence.from_dict({**values, **wrong})


@pytest.fixture(scope="module")
def many_images():
    rng = np.random.default_rng(3)
    return [rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(10 * FEWEST + 25)]


@pytest.fixture(scope="module")
def settings(toy_settings):
    return dataclasses.replace(toy_settings, false_alarm_rate=0.1)


@pytest.fixture(scope="module")
def detector(many_images, settings):
    return Detector.fit(many_images, settings, device="cpu")


def test_a_detector_has_evidence_and_keeps_it(detector, many_images, tmp_path):
    assert detector.evidence is not None
    assert len(detector.evidence.middle) == len(detector.settings.levels) + 1
    detector.save(tmp_path / "model.safetensors")
    again = Detector.load(tmp_path / "model.safetensors", device="cpu")
    assert again.evidence == detector.evidence
    ours, theirs = detector.predict(many_images[0]), again.predict(many_images[0])
    assert (ours.anomaly_map == theirs.anomaly_map).all()


def test_the_score_is_the_maps_peak_times_the_factor(detector, many_images):
    plain = Detector(
        detector.network,
        settings=detector.settings,
        calibration=detector.calibration,
        training={},
    )
    ours, theirs = detector.predict(many_images[0]), plain.predict(many_images[0])
    factor = ours.score / theirs.score
    assert factor != pytest.approx(1)
    np.testing.assert_allclose(ours.anomaly_map, factor * theirs.anomaly_map, rtol=1e-5)


def test_scales_that_are_set_anew_have_new_evidence(detector, many_images):
    held = many_images[:40]
    assert detector.calibrate(held).evidence == detector.evidence
    with pytest.warns(CalibrationWarning):  # a fifth of 40 are few
        anew = detector.calibrate(held, rescale=True).evidence
    assert anew is not None
    assert anew != detector.evidence


@pytest.mark.parametrize(("n", "image_score"), [(90, "levels"), (105, "peak")])
def test_without_enough_images_or_by_choice_the_score_is_the_peak(
    many_images, settings, n, image_score
):
    settings = dataclasses.replace(settings, image_score=image_score)
    assert Detector.fit(many_images[:n], settings, device="cpu").evidence is None
