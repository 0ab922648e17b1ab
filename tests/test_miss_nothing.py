"""A threshold by a few defective images: none is missed, and what it costs is said."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from cflow_ad import CalibrationError, DataError, Detector
from cflow_ad.fitting.defective_images import find_defective_images
from cflow_ad.scoring.threshold import Calibration, calibrate_thresholds, lower_to_find
from tests.cli.commands import refused, run


@pytest.fixture
def before():
    rng = np.random.default_rng(1)
    return calibrate_thresholds(rng.normal(1, 0.2, 150), rng.normal(2, 0.3, 150), 0.01, folds=3)


@pytest.mark.parametrize("lowest", [-5.0, 0.7, 1.0, 1.3])
def test_no_given_defect_is_missed_and_the_rate_is_that_of_the_good_scores(before, lowest):
    after = lower_to_find(before, [3.0, lowest, 2.0])
    assert after.threshold < lowest
    assert after.defects == (lowest, 2.0, 3.0)
    scores = np.array(after.scores)
    above = (scores > after.threshold).sum()
    assert after.achieved_rate == pytest.approx((1 + above) / 151, abs=1 / 151)
    assert (np.array(after.peaks) > after.map_threshold).sum() <= above
    assert "3 defective images" in after.note
    assert f"up to {1 - 0.025 ** (1 / 3):.2g} of such defects" in after.note
    assert Calibration.from_dict(json.loads(json.dumps(after.to_dict()))) == after
    for score in np.linspace(0, 2, 50):
        is_above = score > after.threshold
        assert (after.compute_p_value(score) <= after.achieved_rate) == is_above


def test_a_threshold_is_never_raised(before):
    after = lower_to_find(before, [before.threshold + 50])
    assert (after.threshold, after.map_threshold) == (before.threshold, before.map_threshold)
    assert after.defects


@pytest.mark.parametrize("scores", [[], [float("nan")]])
def test_scores_that_say_nothing_are_refused(before, scores):
    with pytest.raises(CalibrationError, match="at least one defective image"):
        lower_to_find(before, scores)


def test_a_detector_finds_the_defects_that_it_was_given(toy_detector, images):
    dark = [image // 3 for image in images[:3]]
    low = toy_detector.calibrate(miss_nothing=[*images[:2], *dark])
    assert all(prediction.is_anomalous for prediction in low.stream([*images[:2], *dark]))
    assert all(prediction.mask.any() for prediction in low.stream(images[:2]))
    assert toy_detector.calibration.defects == ()
    assert low.calibrate(false_alarm_rate=0.5).calibration.defects == ()


def test_where_defective_images_are_found(carpet_folder, tmp_path):
    of_set = find_defective_images(carpet_folder)
    assert of_set
    assert all("good" not in path.parts for path in of_set)
    for name in ("hole", "cut"):
        shutil.copytree(carpet_folder / "test" / name, tmp_path / "NG" / name)
    assert len(find_defective_images(tmp_path / "NG")) == 2
    assert len(find_defective_images(tmp_path / "NG" / "hole")) == 1
    assert find_defective_images(of_set[0]) == [of_set[0]]
    with pytest.raises(DataError, match="the sequence is empty"):
        find_defective_images([])
    with pytest.raises(DataError, match="no such folder"):
        find_defective_images(tmp_path / "none")


def test_the_command_sets_says_and_stores_it(toy_detector, carpet_folder, tmp_path):
    path, new = tmp_path / "m.safetensors", tmp_path / "n.safetensors"
    toy_detector.save(path, bundle=True)
    defects = carpet_folder / "test" / "hole"
    result = run("calibrate", path, "--miss-nothing", defects, "-o", new)
    assert result.exit_code == 0, result.output
    assert "below the scores of 1 defective image." in result.stdout
    assert Detector.load(new).calibration.defects
    assert all(run("predict", new, defects).exit_code == 1 for _ in range(1))
    shown = run("info", new).stdout
    assert "defective" in shown
    said = refused("calibrate", path, "--miss-nothing", tmp_path / "none")
    assert str(tmp_path / "none") in said


def test_an_evaluation_states_the_lowest_defect_and_the_trade_off(
    toy_detector, carpet_folder, tmp_path
):
    path, out = tmp_path / "m.safetensors", tmp_path / "e"
    toy_detector.save(path, bundle=True)
    result = run("evaluate", path, carpet_folder, "-o", out)
    assert result.exit_code == 0, result.output
    assert "The lowest score of a defective image is" in " ".join(result.stdout.split())
    assert "Other thresholds on these test images" in result.stdout
    tradeoff = json.loads((out / "metrics.json").read_text("utf-8"))["tradeoff"]
    assert tradeoff["thresholds"][0]["found"] == tradeoff["defective_images"] == 5
    report = (out / "report.html").read_text("utf-8")
    assert "Other thresholds" in report
    assert "with 95% intervals" in report
