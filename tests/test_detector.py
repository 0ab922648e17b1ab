"""What a user is promised of the detector, whatever is inside."""

from __future__ import annotations

import dataclasses
import math
import shutil
import time

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
from cflow_ad.cflow.device import pick_device
from cflow_ad.scoring.threshold import split_good


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


def largest_difference(ours, theirs):
    """Of scores and maps, relative to a score of at least 1."""
    worst = 0.0
    for a, b in zip(ours, theirs, strict=True):
        assert a.is_anomalous == b.is_anomalous
        unit = max(1.0, a.score)
        worst = max(worst, abs(a.score - b.score) / unit)
        worst = max(worst, float(np.abs(a.anomaly_map - b.anomaly_map).max()) / unit)
    return worst


# A score belongs to an image


@pytest.mark.parametrize("batch_size", [2, 7, 32])
def test_an_image_scores_the_same_alone_and_in_any_batch(tiny_detector, strangers, batch_size):
    alone = [tiny_detector.predict(image) for image in strangers]
    together = tiny_detector.stream(strangers, batch_size=batch_size)
    assert largest_difference(alone, together) < 1e-5
    backwards = list(tiny_detector.stream(strangers[::-1], batch_size=batch_size))
    assert largest_difference(alone, backwards[::-1]) < 1e-5


def test_a_score_is_the_images_own_where_rounding_is_magnified_most(images):
    """Few vectors at the deepest level: its whitening stretches the last bits a thousandfold."""
    settings = Settings(size="128x128", steps=2, blocks=2)
    with pytest.warns(CalibrationWarning):
        detector = Detector.fit(images[:5], settings, device="cpu")
    alone = [detector.predict(image) for image in images]
    for batch_size in (2, 7, 32):
        together = detector.stream(images, batch_size=batch_size)
        assert largest_difference(alone, together) < 1e-5


@pytest.mark.parametrize("bundle", [False, True])
def test_an_image_scores_the_same_after_save_and_load(tiny_detector, strangers, tmp_path, bundle):
    tiny_detector.save(tmp_path / "model.safetensors", bundle=bundle)
    loaded = Detector.load(tmp_path / "model.safetensors", device="cpu")
    assert largest_difference(tiny_detector.stream(strangers), loaded.stream(strangers)) < 1e-5
    assert loaded.info() == tiny_detector.info()


def test_a_file_scores_as_its_pixels_do(tiny_detector, images, tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(images[0]).save(path)
    of_file = tiny_detector.predict(path)
    for source in (images[0], Image.open(path), str(path)):
        assert tiny_detector.predict(source).score == of_file.score
    assert of_file.source == str(path)
    assert tiny_detector.predict(images[0]).source == ""


def test_maps_and_masks_have_the_images_own_size(tiny_detector, strangers):
    for image, prediction in zip(strangers, tiny_detector.stream(strangers), strict=True):
        assert prediction.anomaly_map.shape == image.shape[:2]
        assert prediction.mask.shape == image.shape[:2]
        assert prediction.anomaly_map.dtype == np.float32
        assert prediction.mask.any() == prediction.is_anomalous
        assert math.isfinite(prediction.score)


def test_what_is_unlike_the_good_images_scores_higher(tiny_detector, images, strangers):
    good = max(prediction.score for prediction in tiny_detector.stream(images))
    noise = strangers[2]
    assert tiny_detector.predict(noise).score > 2 * good


# Learning


def test_a_folder_a_data_set_and_its_images_give_one_model(
    carpet_folder, images, tiny_settings, tiny_detector
):
    with pytest.warns(CalibrationWarning):
        of_folder = Detector.fit(carpet_folder / "train" / "good", tiny_settings, device="cpu")
    with pytest.warns(CalibrationWarning):
        of_arrays = Detector.fit(images, tiny_settings, device="cpu")
    for other in (of_folder, of_arrays):
        ours, theirs = tiny_detector.network.state_dict(), other.network.state_dict()
        assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
        assert other.threshold == tiny_detector.threshold


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_few_images_are_enough_and_what_that_loses_is_said(images, toy_settings, n):
    with pytest.warns(CalibrationWarning) as said:
        detector = Detector.fit(images[:n], toy_settings, device="cpu")
    expected = "promises no false-alarm rate" if n < 4 else "too few"
    assert expected in str(said[0].message)
    assert detector.calibration.held_out == (n >= 4)
    assert math.isfinite(detector.predict(images[6]).score)


def test_enough_images_give_no_warning(images, toy_settings):
    settings = dataclasses.replace(toy_settings, false_alarm_rate=0.4, calibration_fraction=0.5)
    detector = Detector.fit(images, settings, device="cpu")  # a warning would be an error
    assert detector.calibration.is_as_asked


@pytest.mark.parametrize("batch_size", [1, 2])
def test_the_highest_score_held_out_sets_the_threshold_and_never_exceeds_it(
    toy_detector, toy_settings, images, batch_size
):
    fraction, seed = toy_settings.calibration_fraction, toy_settings.seed
    training, held_out = split_good(len(images), fraction, seed)
    assert toy_detector.calibration.n_images == len(held_out) == 2
    assert toy_detector.training["n_images"] == len(training) == 10
    judged = [images[i] for i in held_out]
    scores = [p.score for p in toy_detector.stream(judged, batch_size=batch_size)]
    assert max(scores) <= toy_detector.threshold == pytest.approx(max(scores), rel=1e-3)


def test_images_held_out_leave_no_trace_in_the_network(toy_detector, toy_settings, images):
    _, held_out = split_good(len(images), toy_settings.calibration_fraction, toy_settings.seed)
    other = [255 - image if i in held_out else image for i, image in enumerate(images)]
    with pytest.warns(CalibrationWarning):
        detector = Detector.fit(other, toy_settings, device="cpu")
    ours, theirs = toy_detector.network.state_dict(), detector.network.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert detector.threshold > toy_detector.threshold


def test_the_setting_smooths_the_map(toy_detector, images):
    settings = dataclasses.replace(toy_detector.settings, smoothing=0.0)
    rough = Detector(
        toy_detector.network,
        settings=settings,
        calibration=toy_detector.calibration,
        training=toy_detector.training,
    )
    spotted = images[0].copy()
    spotted[40:44, 40:44] = 255
    steepness = [
        np.abs(np.diff(np.exp(-detector.predict(spotted).anomaly_map), axis=0)).max()
        for detector in (toy_detector, rough)
    ]
    assert steepness[0] < 0.9 * steepness[1]


def test_a_stopped_fit_goes_on_to_the_same_model(images, toy_settings, toy_detector, tmp_path):
    def stop(progress):
        if progress.stage == "train" and progress.done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Detector.fit(images, toy_settings, device="cpu", work=tmp_path / "work", progress=stop)
    stages = []
    with pytest.warns(CalibrationWarning):
        resumed = Detector.fit(
            images,
            toy_settings,
            device="cpu",
            work=tmp_path / "work",
            progress=lambda progress: stages.append((progress.stage, progress.done)),
        )
    assert stages[0][0] == "encode"
    assert stages[0][1] > 0  # the features were kept
    ours, theirs = toy_detector.network.state_dict(), resumed.network.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_progress_runs_through_the_stages_to_their_ends(images, toy_settings):
    seen = []
    with pytest.warns(CalibrationWarning):
        Detector.fit(images, toy_settings, device="cpu", progress=seen.append)
    stages = list(dict.fromkeys(progress.stage for progress in seen))
    assert stages == ["encode", "screen", "train", "calibrate"]
    for stage in stages:
        last = [progress for progress in seen if progress.stage == stage][-1]
        assert last.done == last.total


# Bad input


def test_no_images_are_an_error(toy_settings):
    with pytest.raises(DataError, match="no good images"):
        Detector.fit([], toy_settings)


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


def test_a_device_that_is_not_there_is_named():
    with pytest.raises(SettingsError, match="nonsense"):
        pick_device("nonsense")


# The flow as a model of good vectors


def test_samples_are_likelier_than_noise(tiny_detector):
    level = tiny_detector.network.levels[0]
    rows, columns = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    generator = torch.Generator().manual_seed(0)
    drawn = level.sample(rows, columns, generator)
    noise = level.input_layer.inverse(3 * torch.randn(drawn.shape, generator=generator))
    ours, theirs = (level.log_prob(z, rows, columns) for z in (drawn, noise))
    assert ours.isfinite().all()
    assert ours.mean() > theirs.mean()
    # The exact density and the per-dimension likelihood differ by the input layer's constant.
    per_dimension = level(drawn, rows, columns)
    expected = (ours - level.input_layer.log_det) / drawn.shape[-1]
    torch.testing.assert_close(per_dimension, expected, rtol=1e-4, atol=1e-4)


def test_optimised_scores_are_near_and_can_be_taken_back(toy_detector, images, tmp_path):
    toy_detector.save(tmp_path / "m.safetensors", bundle=True)
    detector = Detector.load(tmp_path / "m.safetensors", device="cpu")
    exact = [detector.predict(image).score for image in images]
    near = [detector.optimize(precision="bf16").predict(image).score for image in images]
    assert near != exact
    assert near == pytest.approx(exact, rel=0.1, abs=0.1)
    assert [detector.optimize().predict(image).score for image in images] == exact


def test_a_model_scores_in_the_precision_it_was_trained_in(images, toy_settings, tmp_path):
    settings = dataclasses.replace(toy_settings, precision="bf16")
    with pytest.warns(CalibrationWarning):
        detector = Detector.fit(images, settings, device="cpu")
    with pytest.warns(CalibrationWarning):
        exact = Detector.fit(images, toy_settings, device="cpu")
    scores = [detector.predict(image).score for image in images]
    # A threshold set in the other precision would be off by more.
    assert max(scores) == pytest.approx(detector.threshold, rel=1e-3)
    assert scores == pytest.approx([exact.predict(image).score for image in images], abs=0.3)
    detector.save(tmp_path / "m.safetensors")
    again = Detector.load(tmp_path / "m.safetensors", device="cpu")
    assert [again.optimize().predict(image).score for image in images] == scores
    with pytest.warns(CalibrationWarning):
        other = again.calibrate(images, precision="fp32")
    anew = [other.predict(image).score for image in images]
    assert other.settings.precision == "fp32"
    assert anew != scores
    assert max(anew) == pytest.approx(other.threshold, rel=1e-3)


def test_a_detector_is_done_in_its_time(images, toy_settings):
    settings = dataclasses.replace(toy_settings, steps=10**6)
    began = time.monotonic()
    with pytest.warns(CalibrationWarning):
        detector = Detector.fit(images, settings, device="cpu", max_seconds=2.0)
    assert time.monotonic() - began < 20
    assert detector.training["ended_by"] == ["time", "time"]
    assert all(steps < 10**6 for steps in detector.training["steps"])


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
def test_compiled_scores_are_the_same(toy_detector, images, tmp_path):
    toy_detector.save(tmp_path / "m.safetensors", bundle=True)
    detector = Detector.load(tmp_path / "m.safetensors", device="cpu")
    threads = torch.get_num_threads()
    plain = [detector.predict(image).score for image in images]
    compiled = [detector.optimize(compiled=True).predict(image).score for image in images[:1]]
    compiled += [prediction.score for prediction in detector.stream(images[1:])]
    assert compiled == pytest.approx(plain, abs=1e-4)
    assert torch.get_num_threads() == threads


def test_without_a_compiler_compiling_says_so(toy_detector, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("no C++ compiler\nand a long story")

    detector = Detector(
        toy_detector.network,
        settings=toy_detector.settings,
        calibration=toy_detector.calibration,
        training={},
    )
    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(SettingsError, match=r"does not work here \(no C\+\+ compiler\); leave"):
        detector.optimize(compiled=True)


# Images of any size


def test_native_images_are_scored_at_their_own_size_whatever_it_is(images, toy_settings, tmp_path):
    native = dataclasses.replace(
        toy_settings, backbone="test_resnet", size="native", positions="relative", tile="2048"
    )
    various = [images[0], images[1][:50], images[2][:, :33], np.tile(images[3], (2, 3, 1))]
    with pytest.warns(CalibrationWarning):
        detector = Detector.fit(various * 2, native, device="cpu")
    detector.save(tmp_path / "native.safetensors")
    again = Detector.load(tmp_path / "native.safetensors", device="cpu")
    assert again.settings == native
    for shape in ((1, 1), (500, 1250), (64, 4000), (3, 700)):
        image = np.resize(images[0], (*shape, 3))
        prediction = again.predict(image)
        assert prediction.anomaly_map.shape == shape
        np.testing.assert_array_equal(prediction.anomaly_map, detector.predict(image).anomaly_map)
    assert [level.shape for level in again.log_likelihoods(various[1])] == [(6, 12), (3, 6)]


@pytest.mark.parametrize("size", ["96x96", "native"])
def test_a_model_with_coarse_levels_is_stored_and_scores_alike(
    images, toy_settings, tmp_path, size
):
    settings = dataclasses.replace(
        toy_settings, size=size, coarse=3, coarse_from=0, coarse_weight=0.25
    )
    with pytest.warns(CalibrationWarning):
        detector = Detector.fit(images, settings, device="cpu", work=tmp_path / "work")
    detector.save(tmp_path / "m.safetensors")
    again = Detector.load(tmp_path / "m.safetensors", device="cpu")
    assert again.settings.levels == (8, 16, 24, 48)
    for image in (images[0], images[1][:50], np.tile(images[2], (2, 1, 1))):
        ours, theirs = detector.predict(image), again.predict(image)
        assert ours.score == theirs.score
        assert ours.anomaly_map.shape == image.shape[:2]
    fine = dataclasses.replace(again.settings, coarse_weight=1e-6)
    without = Detector(again.network, settings=fine, calibration=again.calibration, training={})
    assert without.predict(images[0]).score != again.predict(images[0]).score
    assert [level.shape for level in again.log_likelihoods(images[0])] == [
        (12, 12),
        (6, 6),
        (4, 4),
        (2, 2),
    ]


def test_relative_and_absolute_positions_are_one_in_images_of_256_pixels(images, toy_settings):
    square = [np.tile(image, (3, 3, 1))[:256, :256] for image in images[:6]]
    of = {}
    for positions in ("absolute", "relative"):
        settings = dataclasses.replace(
            toy_settings, size="native", positions=positions, local_scale=0.0, local_mean=False
        )
        with pytest.warns(CalibrationWarning):
            of[positions] = Detector.fit(square, settings, device="cpu")
    maps = [detector.predict(square[0]).anomaly_map for detector in of.values()]
    np.testing.assert_allclose(*maps, rtol=1e-3, atol=1e-4)
    wider = np.tile(square[0], (1, 2, 1))
    maps = [detector.predict(wider).anomaly_map for detector in of.values()]
    assert np.abs(maps[0] - maps[1]).max() > 1e-3


@pytest.mark.parametrize("tile", ["x", "0x5", "-3", "1.5"])
def test_bad_tiles(tile):
    with pytest.raises(SettingsError, match=r"tile is .* HEIGHTxWIDTH, or 0 for none"):
        Settings(tile=tile)
