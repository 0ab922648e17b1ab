"""What a run keeps for the next one, and what makes it start anew."""

from __future__ import annotations

import dataclasses

import pytest

from cflow_ad import CalibrationWarning, Detector, TrainingError
from cflow_ad.settings import Settings
from cflow_ad.training.fit import discard, level_batch_size, work_folder

pytestmark = pytest.mark.filterwarnings("ignore::cflow_ad.CalibrationWarning")


def first_encoded(images, settings, work):
    """With how many images encoded a run begins."""
    seen = []
    Detector.fit(
        images,
        settings,
        device="cpu",
        work=work,
        progress=lambda progress: seen.append(progress.done),
    )
    return seen[0]


def test_a_finished_run_is_taken_up_whole(images, toy_settings, tmp_path):
    assert first_encoded(images, toy_settings, tmp_path) == 0
    assert first_encoded(images, toy_settings, tmp_path) > 0


@pytest.mark.parametrize(
    "change", [{"size": "32x32"}, {"seed": 1}, {"calibration_fraction": 0.5}, {"steps": 6}]
)
def test_other_settings_start_anew(images, toy_settings, tmp_path, change):
    first_encoded(images, toy_settings, tmp_path)
    assert first_encoded(images, dataclasses.replace(toy_settings, **change), tmp_path) == 0


def test_other_images_start_anew(images, toy_settings, tmp_path):
    first_encoded(images[:8], toy_settings, tmp_path)
    assert first_encoded(images[1:9], toy_settings, tmp_path) == 0


@pytest.mark.parametrize("change", [{"smoothing": 1.0}, {"false_alarm_rate": 0.2}])
def test_what_comes_after_training_does_not(images, toy_settings, tmp_path, change):
    first_encoded(images, toy_settings, tmp_path)
    assert first_encoded(images, dataclasses.replace(toy_settings, **change), tmp_path) > 0


def test_a_work_folder_that_cannot_be_made_is_named(images, toy_settings, tmp_path):
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    with pytest.raises(TrainingError, match="file"):
        Detector.fit(images, toy_settings, device="cpu", work=in_the_way / "work")


def test_a_work_folder_lies_beside_its_model_and_goes_with_all_that_is_in_it(tmp_path):
    work = work_folder(tmp_path / "model.safetensors")
    assert work.parent == tmp_path
    (work / "deep").mkdir(parents=True)
    (work / "deep" / "file").write_text("")
    discard(work)
    assert not work.exists()
    discard(work)  # nothing there is no fault


def test_every_level_sees_the_same_number_of_images_worth_of_vectors():
    settings = Settings(strides=(8, 16, 32), batch_size=1024)
    assert [level_batch_size(settings, stride) for stride in settings.strides] == [1024, 256, 64]
    small = dataclasses.replace(settings, batch_size=1)
    assert level_batch_size(small, 32) == 1


def test_the_warning_is_of_its_own_kind(images, toy_settings):
    with pytest.warns(CalibrationWarning, match="too few"):
        Detector.fit(images, toy_settings, device="cpu")
