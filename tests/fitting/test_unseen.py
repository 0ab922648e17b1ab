"""Nothing is fitted to an image and then measured on it as if it were new."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from cflow_ad import Detector
from cflow_ad.fitting.fit import validation_set
from cflow_ad.scoring.threshold import split_good

pytestmark = pytest.mark.filterwarnings("ignore::cflow_ad.CalibrationWarning")


@pytest.fixture(scope="module")
def settings(toy_settings):
    """A fixed number of steps, fewer than early stopping needs; with everything that is fitted."""
    return dataclasses.replace(toy_settings, size="32x32", steps=2, align="shift", augment_copies=1)


@pytest.fixture(scope="module")
def good(images):
    """30 images: 22 that are trained on, 2 for validation, 6 for calibration."""
    small = [image[:48, :48] for image in images]
    flipped = [image[::-1] for image in small]
    return [*small, *flipped, *(image[:, ::-1] for image in small[:6])]


@pytest.fixture(scope="module")
def sets(good, settings):
    """Numbers of the images in each set."""
    training, calibration = split_good(len(good), settings.calibration_fraction, settings.seed)
    validation = [training[n] for n in sorted(validation_set(len(training), settings))]
    assert (len(training), len(validation), len(calibration)) == (24, 2, 6)
    fitted = [i for i in training if i not in validation]
    return {"fitted": fitted[:2], "validation": validation, "calibration": calibration}


@pytest.fixture(scope="module")
def fit_spoilt(good, sets, settings):
    """Fit with the images of one set replaced: by noise, and the last by the mean of all images,
    which would be the alignment's reference.
    """

    def fit(name):
        rng = np.random.default_rng(0)
        images = list(good)
        for n in sets.get(name, ()):
            images[n] = rng.integers(0, 256, good[n].shape, dtype=np.uint8)
            if n == sets[name][-1]:
                images[n] = np.mean(good, axis=0).astype(np.uint8)
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


@pytest.mark.parametrize("name", ["validation", "calibration"])
def test_images_that_the_model_is_measured_on_change_nothing_that_is_fitted(
    detector, fit_spoilt, name
):
    """Whitening, place means, flows, locations, scales and the alignment's reference are bit for
    bit the same, whatever is in the validation or the calibration set.
    """
    other = fit_spoilt(name)
    assert differences(detector, other) == set()
    thresholds = [(d.calibration.threshold, d.calibration.map_threshold) for d in (detector, other)]
    assert (thresholds[0] == thresholds[1]) == (name == "validation")


def test_images_that_the_model_is_fitted_to_change_all_of_it(detector, fit_spoilt):
    """So that the law above is not true of a model that learns nothing."""
    parts = ("input_layer.", "means.tables", "flow.", ".location", ".scale")
    found = differences(detector, fit_spoilt("fitted"))
    for number in range(2):
        for part in parts:
            assert any(name.startswith(f"levels.{number}.") and part in name for name in found), (
                part
            )
