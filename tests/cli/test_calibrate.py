"""`calibrate`: a new threshold, in the model's file or in another."""

from __future__ import annotations

import shutil

import pytest
import torch

from cflow_ad import CalibrationWarning, Detector
from cflow_ad.store.model_file import read_metadata, read_model, write_model
from tests.cli.commands import refused, run


@pytest.fixture
def copy(model, tmp_path):
    return shutil.copy(model, tmp_path / "copy.safetensors")


@pytest.fixture
def bare(model, tmp_path):
    """As an imported model's file."""
    metadata, tensors = read_model(model)
    write_model(tmp_path / "bare.safetensors", tensors, {**metadata, "calibration": None})
    return tmp_path / "bare.safetensors"


def test_the_file_is_changed_in_place_or_another_is_written(model, copy, carpet, tmp_path):
    good, other = carpet / "test" / "good", tmp_path / "new" / "other.safetensors"
    before = copy.read_bytes()
    result = run("calibrate", copy, good, "-o", other)
    assert result.exit_code == 0
    assert copy.read_bytes() == before
    assert str(other) in result.stdout
    assert "set on 4 good images" in result.stdout
    assert result.stderr.startswith("warning: 4 good images are too few")
    assert run("calibrate", copy, good).exit_code == 0
    with pytest.warns(CalibrationWarning):
        expected = Detector.load(model, device="cpu").calibrate(good)
    for path in (copy, other):
        assert Detector.load(path, device="cpu").calibration == expected.calibration


def test_the_rate_asked_for_is_the_models(copy, carpet):
    result = run("calibrate", copy, carpet / "test" / "good", "--false-alarm-rate", 0.4)
    assert result.stderr == ""
    assert "At most 0.4 of good images" in result.stdout
    assert read_metadata(copy)["settings"]["false_alarm_rate"] == 0.4
    said = refused("calibrate", copy, carpet / "test" / "good", "--false-alarm-rate", 4)
    assert "false_alarm_rate is 4.0" in said


def test_without_images_the_stored_scores_give_the_threshold_for_another_rate(model, copy):
    result = run("calibrate", copy, "--false-alarm-rate", 0.4)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "set on 10 good images" in result.stdout
    assert (
        Detector.load(copy, device="cpu").threshold < Detector.load(model, device="cpu").threshold
    )
    assert "give good images" in refused("calibrate", copy, "--smoothing", 1)


def test_training_images_are_refused(copy, carpet):
    assert "trained on these images" in refused("calibrate", copy, carpet)


def test_scale_and_smoothing_change_when_asked(model, copy, carpet):
    run("calibrate", copy, carpet / "test" / "good", "--rescale", "--smoothing", 1)
    old, new = (Detector.load(path, device="cpu") for path in (model, copy))
    assert new.settings.smoothing == 1
    assert not torch.equal(new.model.levels[0].location, old.model.levels[0].location)


def test_a_model_that_is_not_calibrated_says_so(bare, carpet):
    image = carpet / "test" / "good" / "000.png"
    assert "not calibrated yet" in run("info", bare).stdout
    for command in (
        ["predict", bare, image],
        ["predict", bare, image, "--threshold", 1],
        ["evaluate", bare, carpet],
    ):
        said = refused(*command)
        assert f"{bare}: not calibrated yet" in said
        assert "cflow-ad calibrate" in said
    assert run("calibrate", bare, carpet / "test" / "good").exit_code == 0
    assert run("predict", bare, image, "--exit-zero").exit_code == 0


def test_nothing_is_written_for_a_model_that_is_not_calibrated(bare, carpet, tmp_path):
    table = tmp_path / "out" / "t.csv"
    refused("predict", bare, carpet / "test" / "good", "--table", table)
    assert not table.parent.exists()


def test_what_cannot_be_used_is_named(copy, carpet, tmp_path):
    before = copy.read_bytes()
    missing = tmp_path / "missing"
    assert str(missing) in refused("calibrate", copy, missing)
    assert str(missing) in refused("calibrate", missing, carpet)
    assert str(tmp_path) in refused("calibrate", copy, carpet, "-o", tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "broken.png").write_bytes(b"no image")
    assert "broken.png" in refused("calibrate", copy, tmp_path / "data")
    assert copy.read_bytes() == before
