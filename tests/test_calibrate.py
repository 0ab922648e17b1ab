"""Calibrating anew: what changes, what is left alone, and what is promised."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from cflow_ad import (
    CalibrationError,
    CalibrationWarning,
    DataError,
    Detector,
    Settings,
    SettingsError,
)
from cflow_ad.cflow.model import CflowNetwork, Level
from cflow_ad.scoring.threshold import conformal_calibration, split_good


@pytest.fixture(scope="module")
def others(images):
    """Good images that no detector here was trained on."""
    return [np.ascontiguousarray(image[::-1, ::-1]) for image in images]


@pytest.fixture(scope="module")
def bare(toy_detector):
    """As an imported model is: without scale and threshold."""
    return Detector(
        strip(toy_detector), settings=toy_detector.settings, calibration=None, training={}
    )


def strip(detector):
    """A network with the same flows and no scale."""
    levels = [
        Level(level.input_layer, level.flow, len(level.reference), level.means)
        for level in detector.network.levels
    ]
    return CflowNetwork(detector.network.encoder, levels)


def scales(detector):
    """Reference and spread of each level, part by part."""
    levels = detector.network.levels
    both = [values for level in levels for values in (level.reference, level.spread)]
    return [value for values in both for value in values.flatten().tolist()]


def recalibrated(detector, images, **kwargs):
    with pytest.warns(CalibrationWarning):
        return detector.calibrate(images, **kwargs)


# A trained model


def test_the_threshold_is_the_conformal_one_of_all_the_new_images(toy_detector, others):
    new = recalibrated(toy_detector, others)
    scores = [prediction.score for prediction in toy_detector.stream(others)]
    assert new.calibration == conformal_calibration(scores, 0.01)
    assert new.calibration.n_images == len(others)
    assert new.threshold != toy_detector.threshold
    assert scales(new) == scales(toy_detector)
    assert [p.score for p in new.stream(others)] == scores


def test_enough_images_give_no_warning(toy_detector, others):
    new = toy_detector.calibrate(others, false_alarm_rate=0.25)  # a warning would be an error
    assert new.calibration.is_as_asked
    assert sum(p.is_anomalous for p in new.stream(others)) <= 0.25 * len(others)


def test_the_detector_itself_is_left_as_it_is(toy_detector, others):
    before = toy_detector.info()
    state = {k: v.clone() for k, v in toy_detector.network.state_dict().items()}
    recalibrated(toy_detector, others, rescale=True, smoothing=0.0, false_alarm_rate=0.2)
    assert toy_detector.info() == before
    assert all(torch.equal(v, state[k]) for k, v in toy_detector.network.state_dict().items())


@pytest.mark.parametrize("rescale", [False, True])
def test_the_images_of_training_give_the_model_of_training(toy_detector, images, rescale):
    """Only those held out then set the threshold: others would promise what they can't."""
    new = recalibrated(toy_detector, images, rescale=rescale)
    assert new.calibration == toy_detector.calibration
    assert scales(new) == pytest.approx(scales(toy_detector), rel=1e-5)


def test_where_all_were_trained_on_nothing_is_promised(images, toy_settings):
    settings = Settings.from_dict({**toy_settings.to_dict(), "calibration_fraction": 0.0})
    with pytest.warns(CalibrationWarning):
        detector = Detector.fit(images, settings, device="cpu")
    assert not recalibrated(detector, images).calibration.held_out
    other = [255 - image for image in images]
    assert recalibrated(detector, other).calibration.held_out
    rescaled = recalibrated(detector, other, rescale=True)
    assert rescaled.calibration.held_out
    assert rescaled.calibration.n_images == 2  # the default's fifth


def test_the_scale_is_of_the_part_that_does_not_set_the_threshold(toy_detector, others):
    settings = dataclasses.replace(toy_detector.settings, local_scale=0.0)
    network = CflowNetwork(
        toy_detector.network.encoder,
        [
            Level(level.input_layer, level.flow, means=level.means)
            for level in toy_detector.network.levels
        ],
    )
    old = Detector(network, settings=settings, calibration=toy_detector.calibration, training={})
    new = recalibrated(old, others, rescale=True)
    assert scales(new) != scales(old)
    fitted, held_out = split_good(len(others), settings.calibration_fraction, settings.seed)
    likelihoods = [toy_detector.log_likelihoods(others[i]) for i in fitted]
    for level in range(2):
        reference, spread = scales(new)[2 * level : 2 * level + 2]
        values = np.concatenate([maps[level].ravel() for maps in likelihoods]).astype(float)
        median, tail = np.quantile(values, [0.5, settings.tail_quantile])
        assert reference == pytest.approx(median, abs=1e-4)
        assert spread == pytest.approx((median - tail) / 3, rel=1e-3)
    scores = [new.predict(others[i]).score for i in held_out]
    assert new.threshold == pytest.approx(max(scores), rel=1e-3)
    assert new.calibration.n_images == len(held_out) == 2


def test_rate_and_smoothing_become_the_models(toy_detector, others):
    new = toy_detector.calibrate(others, false_alarm_rate=0.3, smoothing=0.5)
    assert (new.settings.false_alarm_rate, new.settings.smoothing) == (0.3, 0.5)
    old = recalibrated(toy_detector, others)
    assert new.predict(others[0]).score > old.predict(others[0]).score  # less is smoothed away


@pytest.mark.parametrize("changes", [{"false_alarm_rate": 1.5}, {"smoothing": -1.0}])
def test_values_that_cannot_be_are_named(toy_detector, others, changes):
    with pytest.raises(SettingsError, match=next(iter(changes))):
        toy_detector.calibrate(others, **changes)


def test_no_images_are_an_error(toy_detector):
    with pytest.raises(DataError, match="no good images"):
        toy_detector.calibrate([])


@pytest.mark.parametrize("bundle", [False, True])
def test_it_comes_back_and_stays_bundled_if_it_was(toy_detector, others, tmp_path, bundle):
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


# A model without scale and threshold


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


def test_calibrating_gives_it_the_scale_it_would_have_from_training(
    bare, toy_detector, images, others
):
    known = Detector(
        bare.network, settings=bare.settings, calibration=None, training=toy_detector.training
    )
    new = recalibrated(known, images)
    assert new.is_calibrated
    assert scales(new) == pytest.approx(scales(toy_detector), rel=1e-5)
    assert new.threshold == pytest.approx(toy_detector.threshold, rel=1e-4)
    assert recalibrated(bare, images).is_calibrated  # of which it knows no fingerprint
    again = recalibrated(new, others)
    assert scales(again) == scales(new)  # the scale is kept, once it has one


def test_progress_runs_through_the_stages_to_their_ends(bare, images):
    seen = []
    recalibrated(bare, images, progress=seen.append)
    assert list(dict.fromkeys(progress.stage for progress in seen)) == ["encode", "calibrate"]
    assert seen[-1].done == seen[-1].total == 2
