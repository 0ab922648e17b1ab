"""Good images are judged by the others: a stranger stands out, and none vouches for itself."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from cflow_ad import CalibrationWarning, DataError, Detector, open_dataset
from cflow_ad.cflow.encoder import build_encoder
from cflow_ad.data.images import image_shape
from cflow_ad.fitting.cache import build_cache
from cflow_ad.fitting.screening import FEWEST, Encoded, limit_of, screen
from cflow_ad.scoring.view import View
from cflow_ad.settings import Settings

pytestmark = pytest.mark.filterwarnings("ignore::cflow_ad.CalibrationWarning")


@pytest.fixture(scope="module")
def encoder():
    return build_encoder("test_efficientnet", (8, 16), weights="random")


@pytest.fixture(scope="module")
def with_stranger(images):
    """The good images, and last one with a hole in it."""
    bad = images[0].copy()
    bad[20:60, 20:60] = 0
    return [*images[1:], bad]


def encoded(encoder, images, settings):
    features = build_cache(
        encoder,
        images,
        View(sizing=settings.sizing),
        budget=1.0,
        seed=0,
        frame=settings.positions,
    )
    return Encoded(features, [image_shape(image) for image in images])


@pytest.mark.parametrize("at", [12, 5])
def test_a_stranger_stands_out_wherever_it_is_kept(encoder, with_stranger, toy_settings, at):
    """In one cache, or in another than those that it is compared with."""
    parts = [with_stranger[:at], with_stranger[at:]]
    screening = screen(
        [encoded(encoder, part, toy_settings) for part in parts if part], toy_settings
    )
    worst = screening.suspects[0]
    assert worst.index == int(np.argmax(screening.scores)) == 11
    assert screening.flagged[0] == 11
    assert worst.stands_out
    assert worst.score == pytest.approx(worst.anomaly_map.max())
    row, column = np.unravel_index(worst.anomaly_map.argmax(), worst.anomaly_map.shape)
    assert 20 / 96 < (row + 0.5) / worst.anomaly_map.shape[0] < 60 / 96
    assert 20 / 96 < (column + 0.5) / worst.anomaly_map.shape[1] < 60 / 96


def test_images_of_many_sizes_are_screened(encoder, images, toy_settings):
    mixed = [image[:, : 96 - 7 * (n % 4)] for n, image in enumerate(images)]
    screening = screen([encoded(encoder, mixed, toy_settings)], toy_settings)
    assert np.isfinite(screening.scores).all()
    shapes = {suspect.index: suspect.anomaly_map.shape for suspect in screening.suspects}
    for index, shape in shapes.items():
        assert shape == toy_settings.sizing.valid_shape(mixed[index].shape[:2])


def test_a_small_budget_screens_what_is_kept(encoder, with_stranger, toy_settings):
    features = build_cache(
        encoder,
        with_stranger,
        View(sizing=toy_settings.sizing),
        budget=2e-4,
        seed=0,
        frame=toy_settings.positions,
    )
    shapes = [image_shape(image) for image in with_stranger]
    assert np.argmax(screen([Encoded(features, shapes)], toy_settings).scores) == 11


@pytest.mark.parametrize("n", [1, 2, FEWEST - 1])
def test_few_images_are_not_said_to_stand_out(with_stranger, toy_settings, n):
    detector = Detector.fit(with_stranger[-n:], toy_settings, device="cpu")
    assert detector.training["screening"] == {"n_images": n, "limit": None, "flagged": {}}
    assert "too few to say" in detector.screening.note


def test_the_limit_is_not_moved_by_a_few_strangers():
    scores = np.random.default_rng(0).lognormal(0, 0.3, 200)
    strange = np.concatenate([scores, np.full(10, 50.0)])
    assert limit_of(strange) == pytest.approx(limit_of(scores), rel=0.15)
    assert (scores > limit_of(scores)).mean() < 0.02


def test_images_that_are_all_the_same_are_not_told_apart():
    assert not (np.full(20, 1.0) > limit_of(np.full(20, 1.0))).any()
    assert math.isfinite(limit_of(np.zeros(20)))


def test_training_and_held_out_images_are_both_screened(carpet_folder, with_stranger, toy_settings):
    for seed in range(4):
        detector = Detector.fit(
            with_stranger, dataclasses.replace(toy_settings, seed=seed), device="cpu"
        )
        assert len(detector.screening.names) == 12
        assert next(iter(detector.training["screening"]["flagged"])) == "image 12"
    assert (
        Detector.fit(carpet_folder, toy_settings, device="cpu")
        .screening.names[0]
        .startswith("train/good/")
    )


# Leaving images out


def test_what_is_excluded_is_not_there(carpet_folder, toy_settings):
    with_all = Detector.fit(carpet_folder, toy_settings, device="cpu")
    without = Detector.fit(
        carpet_folder, toy_settings, device="cpu", exclude=["003.png", "train/good/005.png"]
    )
    assert without.training["excluded"] == ["train/good/003.png", "train/good/005.png"]
    assert len(without.screening.names) == 10
    assert without.training["fingerprint"] != with_all.training["fingerprint"]
    dataset = open_dataset(carpet_folder)
    kept = [s for s in dataset.train if s.path.name not in ("003.png", "005.png")]
    removed = Detector.fit(
        dataclasses.replace(dataset, train=tuple(kept)), toy_settings, device="cpu"
    )
    assert removed.threshold == without.threshold


def test_the_folder_of_training_is_known_without_what_was_excluded(carpet_folder, toy_settings):
    """Else all its images, those trained on too, would set the threshold."""
    detector = Detector.fit(carpet_folder, toy_settings, device="cpu", exclude=["003.png"])
    with pytest.warns(CalibrationWarning):
        again = detector.calibrate(carpet_folder)
    assert again.calibration == detector.calibration


def test_leaving_nothing_is_an_error(carpet_folder, toy_settings):
    names = [path.name for path in (carpet_folder / "train" / "good").iterdir()]
    with pytest.raises(DataError, match="every good image is excluded"):
        Detector.fit(carpet_folder, toy_settings, device="cpu", exclude=names)


# Variants


@pytest.mark.parametrize("n", [1, 4])
def test_variants_are_not_counted_as_images(images, toy_settings, n):
    settings = Settings.from_dict(toy_settings.to_dict() | {"augment_copies": 3})
    detector = Detector.fit(images[:n], settings, device="cpu")
    assert detector.calibration.n_images == 1
    assert detector.calibration.held_out == (n == 4)
    assert detector.training["n_images"] == max(1, n - 1)
    assert len(detector.screening.names) == n


def test_variants_change_the_model_and_are_drawn_by_the_seed(images, toy_settings):
    settings = Settings.from_dict(toy_settings.to_dict() | {"augment_copies": 2})
    one, same = (Detector.fit(images[:4], settings, device="cpu") for _ in range(2))
    plain = Detector.fit(images[:4], toy_settings, device="cpu")
    assert one.threshold == same.threshold != plain.threshold
