"""Laws of a model's depth and of its images: one picture has one score, whatever form it has."""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from cflow_ad import (
    CalibrationWarning,
    DataError,
    DepthWarning,
    Detector,
    ImageError,
    SettingsError,
)
from cflow_ad.cflow.model import CflowModel
from cflow_ad.data.decoding import raster
from cflow_ad.runtime import Detector as RuntimeDetector
from cflow_ad.scoring.view import View
from tests.golden.exported import exported_file
from tests.golden.images import good_images


def deepen(image, bits):
    """The same picture with more bits, in 16."""
    return np.rint(image.astype(np.float64) * ((2**bits - 1) / 255)).astype(np.uint16)


@pytest.fixture(autouse=True)
def nothing_was_named(monkeypatch):
    monkeypatch.setattr(raster, "_NAMED", {})


@pytest.fixture(scope="module")
def settings(toy_settings):
    """With a depth that is to be found."""
    return dataclasses.replace(toy_settings, bits=None)


@pytest.fixture(scope="module")
def deep(images):
    """The good images in 12 bits, the first of them all white in a corner."""
    found = [deepen(image, 12) for image in images]
    found[0][0, 0] = 4095
    return found


@pytest.fixture(scope="module")
def deep_detector(deep, settings):
    with pytest.warns(CalibrationWarning):
        return Detector.fit(deep, settings, device="cpu")


def test_the_depth_is_found_kept_and_saved(deep_detector, tmp_path):
    assert deep_detector.settings.bits == 12
    assert deep_detector.training["depth"].startswith("12 bits in 16, from the largest value")
    deep_detector.save(tmp_path / "a.safetensors")
    loaded = Detector.load(tmp_path / "a.safetensors", device="cpu")
    assert loaded.reading.bits == loaded.info()["settings"]["bits"] == 12


def test_more_bits_of_a_picture_hardly_change_its_score(deep, deep_detector, images, toy_detector):
    """Scores are those of 8 bits but for their rounding, and not those of a picture so dark."""
    for image, array in zip(images[1:3], deep[1:3], strict=True):
        score = toy_detector.predict(image).score
        assert deep_detector.predict(array).score == pytest.approx(score, abs=0.05)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DepthWarning)
            dark = deep_detector.predict(array // 16).score
        assert abs(dark - score) > 0.5


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_every_form_of_a_picture_has_one_score(toy_detector, images, tmp_path, bits):
    cv2 = pytest.importorskip("cv2")
    rgb = images[1] if bits == 8 else deepen(images[1], bits)
    settings = dataclasses.replace(toy_detector.settings, bits=bits)
    detector = Detector(
        toy_detector.model,
        settings=settings,
        calibration=toy_detector.calibration,
        training=toy_detector.training,
    )
    white = float(2**bits - 1)
    bgr = np.ascontiguousarray(rgb[..., ::-1])
    scores = []
    for suffix in ("png", "tif", "ppm"):
        path = tmp_path / f"a.{suffix}"
        assert cv2.imwrite(str(path), bgr)
        scores.append(detector.predict(path).score)
    tensor = torch.from_numpy((rgb / white).astype(np.float32)).permute(2, 0, 1)
    frozen = rgb.copy()
    frozen.setflags(write=False)
    padded = np.zeros((2 * len(rgb), rgb.shape[1] + 7, 3), rgb.dtype)
    padded[::2, 3:-4] = rgb
    scores += [
        detector.predict(rgb).score,
        detector.predict(frozen).score,
        detector.predict(padded[::2, 3:-4]).score,
        detector.predict(bgr, color="bgr").score,
        detector.predict(np.moveaxis(bgr, 2, 0), color="bgr", layout="chw").score,
        detector.predict((rgb / white), scale=1.0).score,
        detector.predict(rgb.astype(np.float32), scale=white).score,
        detector.predict(tensor, layout="chw", scale=1.0).score,
        *(p.score for p in detector.stream([tensor] * 2, layout="chw", scale=1.0)),
    ]
    assert max(scores) - min(scores) < 1e-5


def test_the_wrong_order_of_colours_is_another_picture(toy_detector, images):
    picture = images[1][:, ::-1]  # new to the model
    other = toy_detector.predict(picture, color="bgr").score
    assert abs(other - toy_detector.predict(picture).score) > 0.01


def test_an_image_above_the_depth_is_named_and_may_be_skipped(deep, deep_detector, tmp_path):
    path = tmp_path / "over.png"
    Image.fromarray(np.full((96, 96), 5000, np.uint16)).save(path)
    with pytest.raises(ImageError, match=r"over\.png: its largest value is 5000, .*4095"):
        deep_detector.predict(path)
    skipped = []
    found = deep_detector.stream([path, deep[0]], on_error=lambda s, e: skipped.append(s))
    assert len(list(found)) == 1
    assert skipped == [path]


def test_a_depth_can_be_given_for_other_images(deep, deep_detector, tmp_path):
    deep_detector.save(tmp_path / "a.safetensors")
    other = Detector.load(tmp_path / "a.safetensors", device="cpu").read_as(bits=16)
    of_16 = other.predict(deep[1] * 16 + deep[1] // 256)
    assert of_16.score == pytest.approx(deep_detector.predict(deep[1]).score, abs=1e-3)
    with pytest.warns(DepthWarning, match="seems to hold 12"):
        pixels = other.pixels_of(deep[1])
    np.testing.assert_allclose(pixels, deep[1] / 257, rtol=1e-6)
    with pytest.raises(SettingsError, match="bits is 17"):
        other.read_as(bits=17)


def test_an_image_of_fewer_bits_is_named_once_by_a_loaded_model(deep, deep_detector, tmp_path):
    """All values below 1024, and a quarter as bright: 10 bits, where the model has 12."""
    deep_detector.save(tmp_path / "a.safetensors")
    path = tmp_path / "few.png"
    Image.fromarray((deep[1] >> 2)[..., 1]).save(path)
    loaded = Detector.load(tmp_path / "a.safetensors", device="cpu")
    assert loaded.reading == deep_detector.reading
    with pytest.warns(DepthWarning, match=r"few\.png: .* 12 bits and seems to hold 10") as warned:
        dark, _ = loaded.stream([path, path])
    assert len(warned) == 1
    loaded.read_as(bits=10)
    assert abs(loaded.predict(path).score - dark.score) > 0.1
    about = loaded.view.metadata()
    assert View.restore(loaded.settings, about, {}).reading == deep_detector.reading


def test_bits_at_the_top_of_16_are_read_where_that_is_said(deep, deep_detector, tmp_path):
    """As some cameras give them: white is 65520 in place of 4095."""
    score = deep_detector.predict(deep[0]).score
    shifted = deep[0] << 4
    said = r"12 bits, and here they seem to lie at the top of 16; .*--bits 16.* scale=65520"
    with pytest.raises(ImageError, match=said):
        deep_detector.predict(shifted)
    assert deep_detector.predict(shifted, scale=65520).score == pytest.approx(score, abs=1e-5)
    deep_detector.save(tmp_path / "a.safetensors")
    other = Detector.load(tmp_path / "a.safetensors", device="cpu").read_as(bits=16)
    assert other.predict(shifted).score == pytest.approx(score, abs=5e-3)


def test_calibration_keeps_how_its_images_were_read(deep, deep_detector, tmp_path):
    """The threshold and later images belong together, so the depth of the model changes."""
    deep_detector.save(tmp_path / "a.safetensors")
    other = Detector.load(tmp_path / "a.safetensors", device="cpu").read_as(bits=16)
    with pytest.raises(SettingsError, match="give good images"):
        other.calibrate()
    rng = np.random.default_rng(0)
    new = [image[:, ::-1] for image in deep[1:4]]
    good = [16 * image + rng.integers(0, 16, image.shape, np.uint16) for image in new]
    with pytest.warns(CalibrationWarning):
        calibrated = other.calibrate(good)
    assert calibrated.settings.bits == calibrated.reading.bits == 16
    assert calibrated.predict(good[0]).score == pytest.approx(
        deep_detector.predict(new[0]).score, abs=1e-2
    )
    highest = max(calibrated.predict(each).score for each in good)
    assert calibrated.threshold == pytest.approx(highest, rel=1e-3)


def test_an_update_has_one_depth(deep, deep_detector, tmp_path):
    deep_detector.save(tmp_path / "a.safetensors")
    other = Detector.load(tmp_path / "a.safetensors", device="cpu").read_as(bits=16)
    with pytest.raises(SettingsError, match=r"12 bits.*convert the new images.*calibrate"):
        other.update(deep)


def test_training_images_of_two_depths_are_refused(deep, images, settings):
    with pytest.raises(DataError, match="states 8 bits, but other images hold 12 bits"):
        Detector.fit([*deep, images[0]], settings, device="cpu")
    given = dataclasses.replace(settings, bits=12, steps=0)
    with pytest.warns(CalibrationWarning):
        assert Detector.fit([*deep, images[0]], given, device="cpu").settings.bits == 12


def test_an_imported_model_takes_its_depth_from_the_images_that_calibrate_it(
    deep, toy_detector, settings
):
    model = CflowModel(toy_detector.model.encoder, list(toy_detector.model))
    imported = Detector(model, settings=settings, calibration=None, training={})
    with pytest.warns(CalibrationWarning):
        assert imported.calibrate(deep).reading.bits == 12


def test_pages_and_mosaics_are_settings_of_a_model(images, toy_settings, tmp_path):
    pytest.importorskip("cv2")
    paths = []
    for number, image in enumerate(images[:5]):
        mosaic = np.empty(image.shape[:2], np.uint8)
        for (row, column), channel in {(0, 0): 0, (0, 1): 1, (1, 0): 1, (1, 1): 2}.items():
            mosaic[row::2, column::2] = image[row::2, column::2, channel]
        paths.append(tmp_path / f"{number}.tif")
        blank = Image.new("L", (8, 8))
        blank.save(paths[-1], save_all=True, append_images=[Image.fromarray(mosaic)])
    with pytest.raises(ImageError, match="holds 2 images"):
        Detector.fit(paths, toy_settings, device="cpu")
    settings = dataclasses.replace(toy_settings, page=2, bayer="rggb", steps=0)
    with pytest.warns(CalibrationWarning):
        detector = Detector.fit(paths, settings, device="cpu")
    difference = detector.pixels_of(paths[0]).astype(int) - images[0]
    assert np.abs(difference).mean() < 8
    assert detector.predict(paths[0]).anomaly_map.shape == images[0].shape[:2]


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_an_exported_model_reads_as_the_trained_one_does(format):
    detector = RuntimeDetector.load(exported_file(format, size="64x64")).read_as(bits=8)
    image = good_images(1, seed=5)[0]
    score = detector.predict(image).score
    assert detector.predict(image[..., ::-1], color="bgr").score == score
    assert detector.predict(image / 255, scale=1.0).score == pytest.approx(score, abs=1e-5)
    assert detector.predict(image.astype(np.uint16)).score == score
    with pytest.raises(ImageError, match="above white, which is 255"):
        detector.predict(deepen(image, 12))
    detector.read_as(bits=12)
    assert detector.predict(deepen(image, 12)).score == pytest.approx(score, abs=0.05)
