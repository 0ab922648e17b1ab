"""Nothing is fitted to an image and then measured on it as if it were new."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from cflow_ad import Detector
from cflow_ad.scoring.threshold import split_good

pytestmark = pytest.mark.filterwarnings("ignore::cflow_ad.CalibrationWarning")


@pytest.fixture(scope="module")
def settings(toy_settings):
    """With everything that is fitted."""
    return dataclasses.replace(toy_settings, size="32x32", steps=2, align="shift", augment_copies=1)


@pytest.fixture(scope="module")
def good(images):
    """Twelve small images, of which two are the calibration set."""
    return [image[:48, :48] for image in images]


@pytest.fixture(scope="module")
def sets(good, settings):
    """Numbers of images in each set."""
    training, calibration = split_good(len(good), settings.calibration_fraction, settings.seed)
    assert (len(training), len(calibration)) == (10, 2)
    return {"training": training[:2], "calibration": calibration}


@pytest.fixture(scope="module")
def fit_spoilt(good, sets, settings):
    """Fit with images of one set replaced: one by noise, and one by the mean of all images, which
    would be the alignment's reference.
    """

    def fit(name):
        images = list(good)
        if name in sets:
            first, second = sets[name]
            shape = good[first].shape
            images[first] = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
            images[second] = np.mean(good, axis=0).astype(np.uint8)
        return Detector.fit(images, settings, device="cpu")

    return fit


@pytest.fixture(scope="module")
def detector(fit_spoilt):
    """Fitted to the images as they are."""
    return fit_spoilt("none")


def differences(ours, theirs):
    """Names of all fitted tensors and pictures that differ."""
    theirs_state = theirs.model.state_dict()
    found = {
        name
        for name, value in ours.model.state_dict().items()
        if not torch.equal(value, theirs_state[name])
    }
    return found | {k for k, v in ours.view.pictures().items() if v != theirs.view.pictures()[k]}


def test_the_calibration_set_changes_the_thresholds_alone(detector, fit_spoilt):
    """Whitening, place means, flows, locations, scales and the alignment's reference are bit for
    bit the same, whatever is in the calibration set.
    """
    other = fit_spoilt("calibration")
    assert differences(detector, other) == set()
    assert detector.calibration.threshold != other.calibration.threshold
    assert detector.calibration.map_threshold != other.calibration.map_threshold


def test_training_images_change_all_that_is_fitted(detector, fit_spoilt):
    """So that the law above is not true of a model that learns nothing."""
    found = differences(detector, fit_spoilt("training"))
    assert "reference" in found
    for number in range(2):
        for part in ("input_layer.", "means.tables", "flow.", ".location", ".scale"):
            assert any(name.startswith(f"levels.{number}.") and part in name for name in found), (
                part
            )
