"""Calibrating again: what changes, what is left alone, and what is promised."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch

from cflow_ad import (
    CalibrationError,
    CalibrationWarning,
    DataError,
    Detector,
    SettingsError,
)
from cflow_ad.cflow.level import Level
from cflow_ad.cflow.model import CflowModel
from cflow_ad.fitting.folds import split_good
from cflow_ad.fitting.scale import LOW
from cflow_ad.scoring.threshold import calibrate_thresholds


@pytest.fixture(scope="module")
def others(images):
    """Good images that no detector here was trained on."""
    return [np.ascontiguousarray(image[::-1, ::-1]) for image in images]


@pytest.fixture(scope="module")
def bare(toy_detector):
    """As an imported model is: without scales and thresholds."""
    levels = [
        Level(
            old.input_layer,
            old.density,
            stride=old.stride,
            means=old.means,
            parts=len(old.location),
        )
        for old in toy_detector.model
    ]
    return Detector(
        CflowModel(toy_detector.model.encoder, levels),
        settings=toy_detector.settings,
        calibration=None,
        training={},
    )


@pytest.fixture(scope="module")
def imported(bare, others):
    """`bare`, with scales and thresholds from `others`; not to be changed."""
    return recalibrated(bare, others)


def scales(detector):
    """Location and scale of each level, part by part."""
    both = [values for level in detector.model for values in (level.location, level.scale)]
    return [value for values in both for value in values.flatten().tolist()]


def recalibrated(detector, images, **kwargs):
    with pytest.warns(CalibrationWarning):
        return detector.calibrate(images, **kwargs)


def scores_of(detector, images):
    return [prediction.score for prediction in detector.stream(images)]


def assert_same_model(ours, theirs):
    """Flows, means and scales bit for bit."""
    theirs_state = theirs.model.state_dict()
    for name, value in ours.model.state_dict().items():
        assert torch.equal(value, theirs_state[name]), name


# A trained model


def test_the_thresholds_are_the_conformal_ones_of_all_the_new_images(toy_detector, others):
    new = recalibrated(toy_detector, others)
    found = list(toy_detector.stream(others))
    scores, peaks = [p.score for p in found], [p.anomaly_map.max() for p in found]
    assert new.calibration == calibrate_thresholds(scores, peaks, 0.01)
    assert new.calibration.n_images == len(others)
    assert new.threshold != toy_detector.threshold
    assert_same_model(new, toy_detector)
    assert scores_of(new, others) == scores


def test_enough_images_give_no_warning(toy_detector, others):
    new = toy_detector.calibrate(others, false_alarm_rate=0.25)  # a warning would be an error
    assert new.calibration.is_as_asked
    assert sum(p.is_anomalous for p in new.stream(others)) <= 0.25 * len(others)


def test_the_detector_itself_is_left_as_it_is(toy_detector, others):
    before = toy_detector.info()
    state = {k: v.clone() for k, v in toy_detector.model.state_dict().items()}
    recalibrated(toy_detector, others, rescale=True, smoothing=1.0, false_alarm_rate=0.05)
    assert toy_detector.info() == before
    assert all(torch.equal(v, state[k]) for k, v in toy_detector.model.state_dict().items())


def test_training_images_set_no_threshold(toy_detector, images, others):
    """Their scores are too low. Those that are among others are left out."""
    with pytest.raises(DataError, match="trained on these images"):
        toy_detector.calibrate(images)
    mixed = recalibrated(toy_detector, [*images[:3], *others])
    assert mixed.calibration == recalibrated(toy_detector, others).calibration


def test_without_images_the_stored_scores_set_the_threshold_for_another_rate(
    toy_detector, tmp_path
):
    toy_detector.save(tmp_path / "m.safetensors")
    loaded = Detector.load(tmp_path / "m.safetensors", device="cpu")
    new = loaded.calibrate(false_alarm_rate=0.25)
    old = toy_detector.calibration
    assert new.calibration == calibrate_thresholds(old.scores, old.peaks, 0.25, folds=old.folds)
    assert new.settings.false_alarm_rate == 0.25
    assert sum(score > new.threshold for score in old.scores) == 2  # of 13 with a new one, 3
    assert recalibrated(new, None, false_alarm_rate=0.01).calibration == old
    assert_same_model(new, toy_detector)


@pytest.mark.parametrize("change", [{"smoothing": 1.0}, {"precision": "bf16"}, {"rescale": True}])
def test_what_changes_the_scores_needs_images(toy_detector, change):
    with pytest.raises(SettingsError, match="give good images"):
        toy_detector.calibrate(**change)


def test_scales_are_not_fitted_again_to_the_images_they_are_fitted_to(imported, others):
    with pytest.raises(DataError, match="trained on these images"):
        imported.calibrate(others, rescale=True)


def test_where_all_images_were_trained_on_nothing_is_promised(images, toy_settings, others):
    settings = dataclasses.replace(toy_settings, folds=0)
    with pytest.warns(CalibrationWarning):
        detector = Detector.fit(images, settings, device="cpu")
    assert detector.calibration.folds == 0
    assert recalibrated(detector, None).calibration.folds == 0
    assert recalibrated(detector, others).calibration.folds == 1
    rescaled = recalibrated(detector, others, rescale=True)
    assert rescaled.calibration.folds == 10
    assert rescaled.calibration.n_images == len(others)


def test_rate_and_smoothing_become_the_models(toy_detector, others):
    """The map's threshold is that of maps that are smoothed as asked; scores do not change."""
    new = toy_detector.calibrate(others, false_alarm_rate=0.3, smoothing=2.5)
    assert (new.settings.false_alarm_rate, new.settings.smoothing) == (0.3, 2.5)
    settings = dataclasses.replace(toy_detector.settings, smoothing=2.5)
    smooth = Detector(
        toy_detector.model, settings=settings, calibration=new.calibration, training={}
    )
    found = list(smooth.stream(others))
    scores, peaks = [p.score for p in found], [p.anomaly_map.max() for p in found]
    assert new.calibration == calibrate_thresholds(scores, peaks, 0.3)
    assert scores_of(new, others) == scores
    before = toy_detector.predict(others[0])
    assert scores[0] == before.score
    assert peaks[0] < before.anomaly_map.max()
    assert_same_model(new, toy_detector)


def test_the_precision_becomes_the_models(toy_detector, others, tmp_path):
    """Thresholds are set in the precision that later predictions have, also after loading."""
    new = recalibrated(toy_detector, others, precision="bf16")
    assert new.settings.precision == "bf16"
    scores = scores_of(new, others)
    assert scores != scores_of(toy_detector, others)
    assert new.threshold == pytest.approx(max(scores), rel=1e-3)
    assert_same_model(new, toy_detector)
    new.save(tmp_path / "m.safetensors")
    again = Detector.load(tmp_path / "m.safetensors", device="cpu")
    assert scores_of(again, others) == scores


def test_a_precision_chosen_in_loading_is_kept(toy_detector, others, tmp_path):
    toy_detector.save(tmp_path / "m.safetensors")
    loaded = Detector.load(tmp_path / "m.safetensors", device="cpu", precision="bf16")
    new = recalibrated(loaded, others)
    assert new.settings.precision == "bf16"
    assert scores_of(new, others) == scores_of(loaded, others)


@pytest.mark.parametrize(
    "changes", [{"false_alarm_rate": 1.5}, {"smoothing": -1.0}, {"precision": "fp8"}]
)
def test_bad_values_are_named(toy_detector, others, changes):
    with pytest.raises(SettingsError, match=next(iter(changes))):
        toy_detector.calibrate(others, **changes)


def test_no_images_are_an_error(toy_detector):
    with pytest.raises(DataError, match="no good images"):
        toy_detector.calibrate([])


@pytest.mark.parametrize("bundle", [False, True])
def test_it_is_stored_and_stays_bundled_if_it_was(toy_detector, others, tmp_path, bundle):
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    toy_detector.save(first, bundle=bundle)
    loaded = Detector.load(first, device="cpu")
    new = recalibrated(loaded, others)
    new.save(second)
    back = Detector.load(second, device="cpu")
    assert back.info() == new.info()
    assert back.training["calibrated_on"] == "images from memory"
    assert back.training["fingerprint"] == toy_detector.training["fingerprint"]
    assert abs(second.stat().st_size - first.stat().st_size) < 1000


# A model without scales and thresholds


def test_without_a_threshold_nothing_is_predicted(bare, images, tmp_path):
    assert not bare.is_calibrated
    bare.save(tmp_path / "bare.safetensors")
    loaded = Detector.load(tmp_path / "bare.safetensors", device="cpu")
    assert loaded.info() == bare.info()
    assert loaded.info()["calibration"] is None
    for detector, name in ((bare, "the model"), (loaded, "bare.safetensors")):
        for use in (
            lambda d=detector: d.predict(images[0]),
            lambda d=detector: d.stream(images),
            lambda d=detector: d.threshold,
        ):
            with pytest.raises(CalibrationError, match=f"{name}: .*cflow-ad calibrate"):
                use()


def test_the_scales_are_of_all_images_and_each_is_scored_by_scales_of_the_others(
    bare, toy_detector, others
):
    settings = dataclasses.replace(
        bare.settings, method=dataclasses.replace(bare.settings.method, place_scales=0.0)
    )
    old = Detector(bare.model, settings=settings, calibration=None, training={})
    new = recalibrated(old, others)

    def fitted(numbers):
        """Location and scale of each level."""
        likelihoods = [toy_detector.log_likelihoods(others[i]) for i in numbers]
        found = []
        for number in range(len(likelihoods[0])):
            values = np.concatenate([maps[number].ravel() for maps in likelihoods]).astype(float)
            median, low = np.quantile(values, [0.5, LOW])
            found += [median, median - low]
        return found

    both = [float(of) for level in new.model for of in (level.location, level.scale)]
    assert both == pytest.approx(fitted(range(len(others))), rel=1e-3, abs=1e-4)
    scores = []
    for split in split_good(len(others), settings.folds, settings.seed):
        model = copy.deepcopy(new.model)
        values = iter(fitted(split.fitted_to))
        for level in model:
            level.location, level.scale = (torch.tensor(next(values)).float() for _ in range(2))
        scaled = Detector(model, settings=settings, calibration=new.calibration, training={})
        scores += scores_of(scaled, [others[i] for i in split.unseen])
    assert new.calibration.scores == pytest.approx(sorted(scores), rel=1e-3)
    assert new.calibration.folds == 3


def test_the_images_of_the_scales_are_recognised(imported, others, images, tmp_path):
    """A threshold on images that the scales were fitted to would be too low."""
    imported.save(tmp_path / "m.safetensors")
    loaded = Detector.load(tmp_path / "m.safetensors", device="cpu")
    split = loaded.split([*others, *images])
    assert split.trained_on == list(range(len(others)))
    assert split.unseen == list(range(len(others), len(others) + len(images)))
    new = recalibrated(loaded, images)
    assert scales(new) == scales(imported)


def test_an_imported_model_that_one_image_calibrates_promises_nothing(bare, others):
    new = recalibrated(bare, others[:1])
    assert new.calibration.folds == 0
    assert new.is_calibrated


def test_the_progress_of_fitting_scales_runs_to_its_end(bare, others):
    seen = []
    recalibrated(bare, others, progress=seen.append)
    assert list(dict.fromkeys(progress.stage for progress in seen)) == ["encode", "calibrate"]
    assert seen[-1].done == seen[-1].total == len(others)
