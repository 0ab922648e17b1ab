"""Nothing is fitted to an image and then measured on it as if it were new."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from cflow_ad import Detector
from cflow_ad.fitting.fit import fit_model
from cflow_ad.fitting.folds import split_good
from cflow_ad.fitting.good_images import find_good_images

pytestmark = pytest.mark.filterwarnings("ignore::cflow_ad.CalibrationWarning")


FOLDS = 3


@pytest.fixture(scope="module")
def settings(toy_settings):
    """With all that is fitted to vectors, and with copies."""
    return dataclasses.replace(toy_settings, size="32x32", steps=2, augment_copies=1, folds=FOLDS)


@pytest.fixture(scope="module")
def good(images):
    """Nine small images, three to a fold."""
    return [image[:48, :48] for image in images[:9]]


@pytest.fixture(scope="module")
def fit_spoilt(encoder, good, settings):
    """Fit with some images replaced by noise."""

    def fit(*spoilt, **changes):
        images = list(good)
        for number in spoilt:
            rng = np.random.default_rng(number)
            images[number] = rng.integers(0, 256, good[0].shape, dtype=np.uint8)
        changed = dataclasses.replace(settings, **changes)
        return fit_model(encoder, find_good_images(images), changed)

    return fit


@pytest.fixture(scope="module")
def fitted(fit_spoilt):
    """Fitted to the images as they are."""
    return fit_spoilt()


def scores_of(fitted):
    """Score and peak of each image, by number."""
    found = fitted.scores
    both = zip(found.scores, found.peaks, strict=True)
    return dict(zip(found.numbers, both, strict=True))


def differences(ours, theirs):
    """Names of all fitted tensors that differ."""
    state = theirs.model.state_dict()
    return {
        name
        for name, value in ours.model.state_dict().items()
        if not torch.equal(value, state[name])
    }


@pytest.mark.parametrize("number", [0, 4])
def test_an_image_changes_the_scores_of_the_other_folds_and_its_own_alone(
    fitted, fit_spoilt, good, settings, number
):
    """Bit for bit: no whitening, mean, flow, location or scale of the model that scores an image,
    or any other of its fold, was fitted to it.
    """
    before, after = scores_of(fitted), scores_of(fit_spoilt(number))
    (fold,) = (
        split.unseen
        for split in split_good(len(good), FOLDS, settings.seed)
        if number in split.unseen
    )
    assert len(fold) == 3
    for other in range(len(good)):
        is_same = before[other] == after[other]
        assert is_same == (other in fold and other != number), other


def test_the_calibration_set_changes_the_thresholds_alone(fit_spoilt, good, settings):
    (split,) = split_good(len(good), 1, settings.seed)
    plain, spoilt = fit_spoilt(folds=1), fit_spoilt(*split.unseen, folds=1)
    assert differences(plain, spoilt) == set()
    assert scores_of(plain) != scores_of(spoilt)


def test_the_alignments_reference_is_none_of_the_calibration_set(good, settings):
    """The mean of all images would be the most central."""
    aligned = dataclasses.replace(settings, folds=1, align="shift")
    (split,) = split_good(len(good), 1, settings.seed)
    images = list(good)
    images[split.unseen[0]] = np.mean(good, axis=0).astype(np.uint8)
    detector = Detector.fit(images, aligned, device="cpu")
    number = int(detector.training["aligned_to"].removeprefix("image ")) - 1
    assert number in split.fitted_to
    pictures = Detector.fit(good, aligned, device="cpu").view.pictures()
    assert detector.view.pictures() == pictures


def test_all_images_change_all_that_is_fitted(fitted, fit_spoilt):
    """So that the laws above are not true of a model that learns nothing."""
    found = differences(fitted, fit_spoilt(0))
    for number in range(2):
        for part in ("input_layer.", "means.tables", "density.", ".location", ".scale"):
            assert any(name.startswith(f"levels.{number}.") and part in name for name in found), (
                part
            )
