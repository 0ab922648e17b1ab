"""What a user is promised of the detector, whatever is inside."""

from __future__ import annotations

import dataclasses
import math
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cflow_ad import (
    CalibrationWarning,
    DataError,
    Detector,
    ImageError,
    Settings,
    SettingsError,
)
from cflow_ad.cflow import predicting
from cflow_ad.cflow.device import pick_device
from cflow_ad.cflow.pipeline import run_on_accelerator
from cflow_ad.fitting.folds import split_good
from cflow_ad.method import Method
from cflow_ad.scoring.region import Region
from cflow_ad.scoring.threshold import calibrate_thresholds
from cflow_ad.scoring.view import View


@pytest.fixture(scope="module")
def strangers(images):
    """Images of many sizes and kinds, some good and some not."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (70, 110, 3)).astype(np.uint8)
    return [
        images[0],
        images[1][:40],
        noise,
        images[2][:, :33],
        images[3],
        images[4][..., 0],
        np.asarray(images[5][..., :1], np.uint16) * 257,
        np.dstack([images[6], np.full((96, 96), 200, np.uint8)]),
        images[7].astype(np.float32),
        noise[:1, :1],
        np.asarray(Image.fromarray(images[8]).resize((300, 200))),
        np.zeros((96, 96, 3), np.uint8),
    ]


@pytest.fixture(scope="module")
def predictions(toy_detector, strangers):
    """Of each image alone."""
    return [toy_detector.predict(image) for image in strangers]


def fit(images, settings, **options):
    """Fit to so few images that a warning says so."""
    with pytest.warns(CalibrationWarning):
        return Detector.fit(images, settings, device="cpu", **options)


def largest_difference(ours, theirs):
    """Of scores and maps, relative to a score of at least 1."""
    worst = 0.0
    for a, b in zip(ours, theirs, strict=True):
        assert a.is_anomalous == b.is_anomalous
        unit = max(1.0, a.score)
        worst = max(worst, abs(a.score - b.score) / unit)
        worst = max(worst, float(np.abs(a.anomaly_map - b.anomaly_map).max()) / unit)
    return worst


def assert_same_model(ours, theirs):
    theirs_state = theirs.model.state_dict()
    for name, value in ours.model.state_dict().items():
        assert torch.equal(value, theirs_state[name]), name


# A score belongs to its image


@pytest.mark.parametrize("maps", [True, False])
@pytest.mark.parametrize("image_score", ["levels", "peak"])
def test_results_by_way_of_an_accelerator_are_the_same(
    images, toy_detector, monkeypatch, maps, image_score
):
    """In batches, and with maps made beside the network; here on a CPU in its place."""
    method = dataclasses.replace(toy_detector.settings.method, image_score=image_score)
    settings = dataclasses.replace(toy_detector.settings, method=method)
    inside = np.zeros((96, 96), np.bool_)
    inside[5:60, 10:70] = True
    detector = Detector(
        toy_detector.model,
        settings=settings,
        calibration=toy_detector.calibration,
        training={},
        view=View(sizing=settings.sizing, region=Region(mask=inside)),
    )
    given = [*images[:5], images[5][::2, ::2].copy()]
    expected = list(detector.stream(given, maps=maps))
    monkeypatch.setattr(predicting, "run_over", run_on_accelerator)
    for size in (1, 4):
        found = list(detector.stream(given, maps=maps, batch_size=size))
        assert largest_difference(found, expected) < 1e-5


@pytest.mark.parametrize("batch_size", [1, 7])
def test_an_image_scores_the_same_alone_and_among_any_others(
    toy_detector, strangers, predictions, batch_size
):
    together = toy_detector.stream(strangers, batch_size=batch_size)
    assert largest_difference(predictions, together) < 1e-5
    backwards = list(toy_detector.stream(strangers[::-1], batch_size=batch_size))
    assert largest_difference(predictions, backwards[::-1]) < 1e-5


def test_a_score_is_the_images_own_where_rounding_is_magnified_most(images):
    """Few vectors at the deepest level: its whitening stretches the last bits a thousandfold."""
    settings = Settings(size="128x128", steps=2, method=Method(blocks=2))
    detector = fit(images[:5], settings)
    alone = [detector.predict(image) for image in images[4:8]]
    assert largest_difference(alone, detector.stream(images[4:8], batch_size=4)) < 1e-5


@pytest.mark.parametrize("bundle", [False, True])
def test_an_image_scores_the_same_after_save_and_load(tiny_detector, strangers, tmp_path, bundle):
    tiny_detector.save(tmp_path / "model.safetensors", bundle=bundle)
    loaded = Detector.load(tmp_path / "model.safetensors", device="cpu")
    some = strangers[:4]
    assert largest_difference(tiny_detector.stream(some), loaded.stream(some)) < 1e-5
    assert loaded.info() == tiny_detector.info()


def test_a_file_scores_as_its_pixels_do(toy_detector, images, tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(images[0]).save(path)
    of_file = toy_detector.predict(path)
    for source in (images[0], Image.open(path), str(path)):
        assert toy_detector.predict(source).score == pytest.approx(of_file.score, abs=1e-5)
    assert of_file.source == str(path)
    assert toy_detector.predict(images[0]).source == ""


def test_maps_and_masks_have_the_images_own_size(strangers, predictions):
    for image, prediction in zip(strangers, predictions, strict=True):
        assert prediction.anomaly_map.shape == image.shape[:2]
        assert prediction.mask.shape == image.shape[:2]
        assert prediction.anomaly_map.dtype == np.float32
        assert math.isfinite(prediction.score)


def test_an_image_is_anomalous_exactly_when_its_mask_is_not_empty(
    toy_detector, images, predictions
):
    """Good images have empty masks, also where a good pixel lies above the map's threshold."""
    good = list(toy_detector.stream(images))  # whose out-of-fold scores set the threshold
    assert not any(prediction.is_anomalous for prediction in good)
    assert any(prediction.is_anomalous for prediction in predictions)
    for prediction in [*good, *predictions]:
        assert prediction.mask.any() == prediction.is_anomalous
        assert bool(prediction.regions) == prediction.is_anomalous
    # Whatever the thresholds are: at one below the image's score it has a mask, above it none.
    for prediction in good:
        for factor in (0.99, 1.01):
            moved = dataclasses.replace(
                prediction, threshold=prediction.score * factor, map_threshold=0.0
            )
            assert moved.mask.any() == moved.is_anomalous == (factor < 1)


def test_scores_need_no_maps(toy_detector, strangers, predictions, monkeypatch):
    """Without maps the scores are the same, and no map of an image's size is made for them."""
    made = []

    def count(frame, values):
        made.append(values.shape)
        return settle(frame, values)

    from cflow_ad.scoring import prediction as module

    settle = module.settle
    monkeypatch.setattr(module, "settle", count)
    without = list(toy_detector.stream(strangers, maps=False))
    scores = [(p.score, p.is_anomalous) for p in without]
    assert scores == [(p.score, p.is_anomalous) for p in predictions]
    assert not made
    assert largest_difference(without[:2], predictions[:2]) == 0  # made when it is first used
    assert len(made) == 2


def test_noise_scores_higher_than_good_images(tiny_detector, images, strangers):
    good = max(prediction.score for prediction in tiny_detector.stream(images))
    assert tiny_detector.predict(strangers[2]).score > 2 * good


# Fitting


def test_a_folder_a_data_set_and_its_images_give_one_model(
    carpet_folder, images, toy_settings, toy_detector
):
    for data in (carpet_folder, carpet_folder / "train" / "good"):
        other = fit(data, toy_settings)
        assert_same_model(toy_detector, other)
        assert other.threshold == toy_detector.threshold


@pytest.mark.parametrize("n", [1, 2, 4])
def test_few_images_are_enough_and_a_warning_states_what_that_loses(images, toy_settings, n):
    with pytest.warns(CalibrationWarning) as caught:
        detector = Detector.fit(images[:n], toy_settings, device="cpu")
    expected = "promises no false-alarm rate" if n == 1 else "too few"
    assert expected in str(caught[0].message)
    assert detector.calibration.n_images == n
    assert detector.calibration.folds == (0 if n == 1 else min(n, 3))
    assert (detector.predict(images[0]).p_value is None) == (n == 1)
    assert math.isfinite(detector.predict(images[6]).score)


def test_enough_images_give_no_warning(images, toy_settings):
    settings = dataclasses.replace(toy_settings, false_alarm_rate=0.1, folds=2)
    detector = Detector.fit(images, settings, device="cpu")  # a warning would be an error
    assert detector.calibration.is_as_asked


@pytest.mark.parametrize("batch_size", [1, 2])
def test_the_highest_score_of_the_calibration_set_sets_the_threshold_and_does_not_exceed_it(
    toy_settings, images, batch_size
):
    detector = fit(images, dataclasses.replace(toy_settings, folds=1))
    (split,) = split_good(len(images), 1, toy_settings.seed)
    assert detector.calibration.n_images == len(split.unseen) == 2
    assert detector.training["n_images"] == len(split.fitted_to) == 10
    good = list(detector.stream([images[i] for i in split.unseen], batch_size=batch_size))
    scores, peaks = zip(*((p.score, p.anomaly_map.max()) for p in good), strict=True)
    assert max(scores) <= detector.threshold == pytest.approx(max(scores), rel=1e-3)
    map_threshold = detector.calibration.map_threshold
    assert max(peaks) <= map_threshold == pytest.approx(max(peaks), rel=1e-3)
    assert sorted(p.p_value for p in good) == pytest.approx([2 / 3, 1])


def test_with_folds_all_images_train_and_each_is_scored_by_a_model_that_was_not_fitted_to_it(
    toy_detector, toy_settings, images
):
    """The thresholds are conformal quantiles of what models of the other folds' images give."""
    without = dataclasses.replace(toy_settings, folds=0)
    scores, peaks = [], []
    for split in split_good(len(images), toy_settings.folds, toy_settings.seed):
        model = fit([images[i] for i in split.fitted_to], without)
        for prediction in model.stream([images[i] for i in split.unseen]):
            scores.append(prediction.score)
            peaks.append(prediction.anomaly_map.max())
    expected = calibrate_thresholds(scores, peaks, 0.01, folds=3)
    assert toy_detector.calibration.scores == pytest.approx(expected.scores, rel=1e-4)
    assert toy_detector.calibration.peaks == pytest.approx(expected.peaks, rel=1e-4)
    assert toy_detector.threshold == pytest.approx(expected.threshold, rel=1e-4)
    assert toy_detector.calibration.achieved_rate == 1 / 13
    assert_same_model(toy_detector, fit(images, without))


def test_the_setting_smooths_the_map(toy_detector, images):
    spotted = images[0].copy()
    spotted[40:44, 40:44] = 255
    steepness = []
    for smoothing in (0.0, 4.0, 16.0):
        detector = Detector(
            toy_detector.model,
            settings=dataclasses.replace(toy_detector.settings, smoothing=smoothing),
            calibration=toy_detector.calibration,
            training=toy_detector.training,
        )
        values = np.exp(-detector.predict(spotted).anomaly_map)
        steepness.append(np.abs(np.diff(values, axis=0)).max())
    assert steepness[0] > 1.1 * steepness[1] > 1.2 * steepness[2]


@pytest.mark.parametrize("step", [5, 10, 15])  # of 4 models with 5 steps each
def test_a_stopped_fit_continues_to_the_same_model(
    images, toy_settings, toy_detector, tmp_path, step
):
    def stop(progress):
        if progress.stage == "train" and progress.done >= step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Detector.fit(images, toy_settings, device="cpu", work=tmp_path / "work", progress=stop)
    seen = []
    resumed = fit(images, toy_settings, work=tmp_path / "work", progress=seen.append)
    assert seen[0].stage == "encode"
    assert seen[0].done > 0  # the features were kept
    # Each of the 4 flows reports its end, and before that its beginning unless it was kept.
    assert len([p for p in seen if p.stage == "train"]) == 4 + (4 - step // 5)
    assert_same_model(toy_detector, resumed)
    assert resumed.calibration == toy_detector.calibration
    assert resumed.screening.to_dict() == toy_detector.screening.to_dict()
    for ours, theirs in zip(
        resumed.screening.suspects, toy_detector.screening.suspects, strict=True
    ):
        assert np.array_equal(ours.compute_map(), theirs.compute_map())


def test_a_resumed_fit_scores_again_with_another_smoothing(images, toy_settings, tmp_path):
    fit(images[:6], toy_settings, work=tmp_path / "work")
    smooth = dataclasses.replace(toy_settings, smoothing=2.0)
    again, new = fit(images[:6], smooth, work=tmp_path / "work"), fit(images[:6], smooth)
    assert again.calibration == new.calibration


def test_progress_runs_through_the_stages_to_their_ends(images, toy_settings):
    seen = []
    fit(images[:5], toy_settings, progress=seen.append)
    stages = list(dict.fromkeys(progress.stage for progress in seen))
    assert stages == ["encode", "train", "calibrate"]
    for stage in stages:
        last = [progress for progress in seen if progress.stage == stage][-1]
        assert last.done == last.total


def test_the_time_limit_is_kept(images, toy_settings):
    settings = dataclasses.replace(toy_settings, steps=10**6)
    began = time.monotonic()
    detector = fit(images[:5], settings, max_seconds=0.4)
    assert time.monotonic() - began < 20
    assert detector.training["ended_by"] == ["time", "steps"]  # a memory takes no steps
    assert all(steps < 10**6 for steps in detector.training["steps"])


def test_new_threads_keep_their_number_of_cores(images, toy_settings):
    """Fitting and scoring compute on one core a thread, but leave torch's number elsewhere."""

    def in_new_thread(work, *arguments):
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(work, *arguments).result()

    before = in_new_thread(torch.get_num_threads)
    in_new_thread(torch.set_num_threads, 2)  # of later threads; this one's stays as it is
    try:
        detector = fit(images[:4], toy_settings)
        assert in_new_thread(torch.get_num_threads) == 2
        detector.predict(images[0])
        assert in_new_thread(torch.get_num_threads) == 2
    finally:
        in_new_thread(torch.set_num_threads, before)


# Which images a model was fitted to


def test_training_images_are_recognised_wherever_they_are(carpet_folder, toy_settings, tmp_path):
    """Also some of them, among others, and under other names; those excluded set no threshold."""
    good = carpet_folder / "train" / "good"
    detector = fit(carpet_folder, toy_settings, exclude=["003.png"])
    split = detector.split(carpet_folder)
    assert len(split.images.sources) == 12
    assert split.trained_on == [0, 1, 2, *range(4, 12)]
    assert split.unseen == []
    for name, source in (("a", good / "003.png"), ("b", good / "004.png")):
        shutil.copy(source, tmp_path / f"{name}.png")
    shutil.copy(carpet_folder / "test" / "good" / "000.png", tmp_path / "c.png")
    split = detector.split(tmp_path)
    assert (split.trained_on, split.unseen) == ([1], [2])
    with pytest.warns(CalibrationWarning):
        assert detector.calibrate(tmp_path).calibration.n_images == 1


def test_of_many_images_those_held_out_are_unseen(images, toy_settings):
    detector = fit(images, dataclasses.replace(toy_settings, folds=1))
    (split,) = split_good(len(images), 1, toy_settings.seed)
    found = detector.split(images)
    assert (found.trained_on, found.unseen) == (split.fitted_to, split.unseen)
    with pytest.warns(CalibrationWarning):
        again = detector.calibrate(images)
    assert again.calibration == detector.calibration


def test_other_images_are_all_unseen(toy_detector, carpet_folder, images):
    split = toy_detector.split(carpet_folder / "test" / "good")
    assert (split.trained_on, split.unseen) == ([], list(range(4)))
    assert toy_detector.split(images[:5]).trained_on == list(range(5))


def test_the_image_that_others_are_aligned_to_sets_no_threshold(images, toy_settings):
    settings = dataclasses.replace(toy_settings, align="shift")
    detector = fit(images[:6], settings)
    assert detector.calibration.n_images == 5
    assert detector.training["n_images"] == 6
    assert detector.training["aligned_to"] not in detector.screening.names


# Bad input


def test_no_images_are_an_error(toy_settings):
    with pytest.raises(DataError, match="no good images"):
        Detector.fit([], toy_settings)


@pytest.mark.parametrize("one", ["a.png", Path("a.png")])
def test_one_path_is_no_sequence_of_images(toy_detector, one):
    """Its letters are not."""
    with pytest.raises(SettingsError, match=r"sources is a\.png: give a list of images"):
        toy_detector.stream(one)


def test_batches_without_an_image_are_an_error(toy_detector, images):
    with pytest.raises(SettingsError, match="batch_size is 0: it must be at least 1"):
        toy_detector.stream(images, batch_size=0)


def test_an_unusable_image_is_raised_or_left_out_as_asked(toy_detector, images, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"not an image")
    with pytest.raises(ImageError, match=r"broken\.png"):
        list(toy_detector.stream([images[0], broken, images[1]]))
    skipped = []
    done = list(
        toy_detector.stream(
            [images[0], broken, images[1], tmp_path / "missing.png"],
            on_error=lambda source, error: skipped.append((source, str(error))),
        )
    )
    assert largest_difference(done, [toy_detector.predict(i) for i in images[:2]]) < 1e-5
    assert [source.name for source, _ in skipped] == ["broken.png", "missing.png"]
    assert all(str(source) in text for source, text in skipped)


def test_an_unknown_device_is_named():
    with pytest.raises(SettingsError, match="nonsense"):
        pick_device("nonsense")


# The flow as a model of good vectors


def test_samples_are_likelier_than_noise(toy_detector):
    level = toy_detector.model.levels[0]
    rows, columns = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(8, 8, level.density.channels, generator=generator)
    layer = level.input_layer

    def vectors(x):
        """Of the input layer's values `x`."""
        return x @ torch.linalg.inv(layer.matrix).T + layer.mean

    drawn, noise = vectors(level.density.inverse(u, level.condition(rows, columns))), vectors(3 * u)
    ours, theirs = (level.log_prob(z, rows, columns) for z in (drawn, noise))
    assert ours.isfinite().all()
    assert ours.mean() > theirs.mean()
    # The exact density and the per-dimension likelihood differ by the input layer's constant.
    expected = (ours - layer.log_det) / drawn.shape[-1]
    torch.testing.assert_close(level(drawn, rows, columns), expected, rtol=1e-4, atol=1e-4)


# The precision


def test_a_model_is_loaded_in_another_precision_and_keeps_its_own(toy_detector, images, tmp_path):
    """The precision asked for is that of every later prediction; the settings saved are as they
    were.
    """
    path = tmp_path / "m.safetensors"
    toy_detector.save(path, bundle=True)
    exact = [p.score for p in toy_detector.stream(images)]
    detector = Detector.load(path, device="cpu", precision="bf16")
    near = [p.score for p in detector.stream(images)]
    assert near != exact
    assert near == pytest.approx(exact, rel=0.1, abs=0.1)
    assert [detector.predict(image).score for image in images] == near
    assert detector.settings == toy_detector.settings
    detector.save(path)
    again = Detector.load(path, device="cpu")
    assert again.info() == toy_detector.info()
    assert [p.score for p in again.stream(images)] == exact


def test_an_unknown_precision_is_an_error(toy_detector, tmp_path):
    toy_detector.save(tmp_path / "m.safetensors")
    with pytest.raises(SettingsError, match="precision is 'fp8'"):
        Detector.load(tmp_path / "m.safetensors", device="cpu", precision="fp8")


def test_a_model_scores_in_the_precision_it_was_trained_in(images, toy_settings, tmp_path):
    settings = dataclasses.replace(toy_settings, folds=1)
    detector = fit(images, dataclasses.replace(settings, precision="bf16"))
    scores = [p.score for p in detector.stream(images)]
    (split,) = split_good(len(images), 1, toy_settings.seed)
    # A threshold set in the other precision would be off by more.
    assert max(scores[i] for i in split.unseen) == pytest.approx(detector.threshold, rel=1e-3)
    single = [p.score for p in fit(images, settings).stream(images)]
    assert scores == pytest.approx(single, abs=0.3)
    detector.save(tmp_path / "m.safetensors")
    again = Detector.load(tmp_path / "m.safetensors", device="cpu")
    assert [p.score for p in again.stream(images)] == scores


# Images of any size


def test_native_images_are_scored_at_their_own_size(images, toy_settings, tmp_path):
    native = dataclasses.replace(toy_settings, backbone="test_resnet", size="native")
    various = [images[0], images[1][:50], images[2][:, :33], np.tile(images[3], (2, 3, 1))]
    detector = fit(various * 2, native)
    detector.save(tmp_path / "native.safetensors")
    again = Detector.load(tmp_path / "native.safetensors", device="cpu")
    assert again.settings == native
    for shape in ((1, 1), (250, 130), (3, 700)):
        image = np.resize(images[0], (*shape, 3))
        prediction = again.predict(image)
        assert prediction.anomaly_map.shape == shape
        assert largest_difference([prediction], [detector.predict(image)]) < 1e-5
    assert [level.shape for level in again.log_likelihoods(various[1])] == [(6, 12), (3, 6)]


def test_relative_and_absolute_positions_are_equal_in_images_of_256_pixels(images, toy_settings):
    square = [np.tile(image, (3, 3, 1))[:256, :256] for image in images[:2]]
    detectors = []
    for positions in ("absolute", "relative"):
        method = dataclasses.replace(
            toy_settings.method, positions=positions, place_scales=0.0, place_means=False
        )
        settings = dataclasses.replace(toy_settings, size="native", steps=1, method=method)
        detectors.append(fit(square, settings))
    maps = [detector.predict(square[0]).anomaly_map for detector in detectors]
    np.testing.assert_allclose(*maps, rtol=1e-3, atol=1e-4)
    wider = np.tile(square[0], (1, 2, 1))
    maps = [detector.predict(wider).anomaly_map for detector in detectors]
    assert np.abs(maps[0] - maps[1]).max() > 1e-3
