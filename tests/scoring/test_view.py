"""Laws of a view: regions, foreground and alignment, up to a detector's result."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image

from cflow_ad import CalibrationWarning, Detector, SettingsError
from cflow_ad.data.layouts import Dataset, Sample, open_dataset
from cflow_ad.evaluation.evaluate import evaluate
from cflow_ad.evaluation.metrics import PixelMetrics, image_metrics
from cflow_ad.export.export import export_model
from cflow_ad.runtime import Detector as RuntimeDetector
from cflow_ad.scoring.motion import Motion
from tests.data.parts import draw_part, hole_of


def fit(images, settings, **given):
    with pytest.warns(CalibrationWarning):
        return Detector.fit(images, settings, device="cpu", **given)


@pytest.fixture(scope="module")
def left_half():
    mask = np.zeros((96, 96), np.bool_)
    mask[:, :48] = True
    return mask


@pytest.fixture(scope="module")
def half_detector(images, toy_settings, left_half):
    return fit(images, toy_settings, roi=left_half)


def test_outside_the_region_nothing_is_scored(half_detector, images, left_half, tmp_path):
    half_detector.save(tmp_path / "half.safetensors")
    spoilt = images[0].copy()
    spoilt[10:40, 84:] = 0
    for detector in (half_detector, Detector.load(tmp_path / "half.safetensors")):
        found = detector.predict(spoilt)
        assert not found.anomaly_map[~left_half].any()
        assert np.array_equal(found.inside, left_half)
        assert found.score == half_detector.predict(spoilt).score


def test_pixels_outside_do_not_count():
    scores = np.array([[0.0, 0.1, 0.2, 0.9]])
    defect = np.array([[1, 0, 0, 1]], np.bool_)
    metrics = PixelMetrics()
    metrics.update(scores, defect, np.array([[0, 1, 1, 1]], np.bool_))
    result = metrics.compute()
    assert (result.n_pixels, result.n_defect_pixels, result.n_regions) == (3, 1, 1)
    assert result.auroc == 1.0


def test_an_export_looks_where_the_model_looks(half_detector, images, tmp_path):
    export_model(half_detector, tmp_path / "half.onnx", size="64x64")
    exported = RuntimeDetector.load(tmp_path / "half.onnx")
    ours, theirs = half_detector.predict(images[1]), exported.predict(images[1])
    assert np.allclose(ours.anomaly_map, theirs.anomaly_map, atol=1e-4)
    assert np.array_equal(ours.inside, theirs.inside)
    assert "pictures" not in exported.info()


def test_a_model_with_a_mask_for_each_image_asks_for_them(
    carpet_folder, toy_settings, tmp_path, left_half
):
    masks = tmp_path / "masks"
    masks.mkdir()
    for path in (carpet_folder / "train" / "good").iterdir():
        Image.fromarray(left_half).save(masks / path.name)
    image = next((carpet_folder / "train" / "good").iterdir())
    fit(carpet_folder, toy_settings, roi=masks).save(tmp_path / "each.safetensors")
    detector = Detector.load(tmp_path / "each.safetensors")
    with pytest.raises(SettingsError, match="--roi FOLDER"):
        detector.predict(image)
    assert np.array_equal(detector.look_in(masks).predict(image).inside, left_half)
    with pytest.raises(SettingsError, match="folder"):
        detector.look_in(tmp_path / "nowhere")


def moved_parts(count, rng, *, hole=True):
    parts = []
    for _ in range(count):
        motion = Motion(*rng.uniform(-9, 9, 2), rng.uniform(-20, 20))
        parts.append(draw_part(rng, motion, 96, hole=hole))
    return parts


def test_alignment_tells_a_missing_hole_and_shows_it_in_its_place(tiny_settings):
    rng = np.random.default_rng(0)
    good, fine, bad = moved_parts(20, rng), moved_parts(8, rng), moved_parts(8, rng, hole=False)
    auroc = {}
    for align in ("none", "rigid"):
        settings = dataclasses.replace(
            tiny_settings,
            align=align,
            size="96x96",
            smoothing=2.0,
            # Three cells of stride 16 are half of the part.
            method=dataclasses.replace(tiny_settings.method, average=(), place_scales=0.0),
        )
        detector = fit(good, settings)
        scores = [p.score for p in detector.stream(fine + bad)]
        auroc[align] = image_metrics(scores, [False] * 8 + [True] * 8).auroc
    assert auroc["rigid"] > auroc["none"]
    motion = Motion(6.0, -5.0, 15.0)
    found = detector.predict(draw_part(rng, motion, 96, hole=False))
    expected = motion.give_back(hole_of(96))
    assert found.anomaly_map[expected].mean() > 1.5 * found.anomaly_map[found.inside].mean()
    assert found.anomaly_map.shape == (96, 96)


def test_evaluation_leaves_the_outside_out(half_detector, images, left_half, tmp_path):
    Image.fromarray(images[0]).save(tmp_path / "a.png")
    Image.fromarray(images[1]).save(tmp_path / "b.png")
    mask = np.zeros((96, 96), np.uint8)
    mask[20:30, 40:60] = 255  # partly outside
    Image.fromarray(mask).save(tmp_path / "b_mask.png")
    test = (Sample(tmp_path / "a.png", "good"),)
    test += (Sample(tmp_path / "b.png", "spot", tmp_path / "b_mask.png"),)
    result = evaluate(half_detector, Dataset(tmp_path, "x", (), test, "manifest")).pixel
    assert result.n_pixels == 2 * left_half.sum()
    assert result.n_defect_pixels == 80


def test_the_papers_scores_of_a_part_are_refused_before_the_work(half_detector, carpet_folder):
    with pytest.raises(SettingsError, match="whole images"):
        evaluate(half_detector, open_dataset(carpet_folder), reference=True, progress=pytest.fail)


def test_a_detector_is_left_as_it_is_though_a_data_set_says_where_to_look(
    toy_detector, carpet_folder, left_half, tmp_path
):
    dataset = open_dataset(carpet_folder)
    Image.fromarray(left_half).save(tmp_path / "left.png")
    test = tuple(dataclasses.replace(s, roi=tmp_path / "left.png") for s in dataset.test)
    result = evaluate(toy_detector, dataclasses.replace(dataset, test=test))
    assert result.pixel.n_pixels == len(test) * left_half.sum()
    assert toy_detector.view.is_whole
    whole = evaluate(toy_detector, dataset)
    assert whole.pixel.n_pixels == 2 * result.pixel.n_pixels
    assert all(
        part.score <= all_of_it.score
        for part, all_of_it in zip(result.images, whole.images, strict=True)
    )
