"""What a run keeps for the next one, and what makes it start anew."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from cflow_ad import CalibrationWarning, Detector, DivergenceError, TrainingError
from cflow_ad.cflow.encoder import build_encoder
from cflow_ad.fitting.fit import discard, fit_levels, level_batch_size, work_folder
from cflow_ad.settings import Settings

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
    "change",
    [
        {"size": "32x32"},
        {"seed": 1},
        {"calibration_fraction": 0.5},
        {"steps": 6},
        {"input_layer": "standardise"},
        {"clamp": 1.0},
        {"learning_rate": 1e-4},
        {"batch_size": 32},
        {"permutation": "soft"},
        {"tail_quantile": 0.01},
        {"feature_budget": 1e-4},
    ],
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


# The levels


@pytest.fixture(scope="module")
def encoder():
    return build_encoder("test_efficientnet", (8, 16), weights="random")


def fit(encoder, images, settings, **changes):
    """Levels, and what was told of the progress."""
    told = []
    levels, *_ = fit_levels(
        encoder, images, settings, **{"fingerprint": "f", "progress": told.append, **changes}
    )
    return levels, told


def same(ours, theirs):
    return all(
        torch.equal(value, other)
        for a, b in zip(ours, theirs, strict=True)
        for value, other in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


def test_every_level_is_fitted_in_turn_to_its_own_channels(encoder, images, toy_settings):
    levels, told = fit(encoder, images, toy_settings)
    assert [level.flow.channels for level in levels] == list(encoder.spec.channels)
    for level in levels:
        assert not any(value.requires_grad for value in level.parameters())
        assert all(value.isfinite().all() for value in level.state_dict().values())
    trained = [(p.stride, p.done, p.total) for p in told if p.stage == "train"]
    assert trained == [(8 if n <= 5 else 16, n, 10) for n in range(1, 11)]


def test_a_work_folder_changes_nothing(encoder, images, toy_settings, tmp_path):
    kept, _ = fit(encoder, images, toy_settings, work=tmp_path / "deep" / "work")
    assert same(kept, fit(encoder, images, toy_settings)[0])
    again, told = fit(encoder, images, toy_settings, work=tmp_path / "deep" / "work")
    assert [p.done for p in told if p.stage == "train"] == [5, 10]  # each at its end
    assert same(kept, again)


@pytest.mark.parametrize("stage", ["encode", "train"])
@pytest.mark.parametrize("budget", [2.0, 1e-4])
def test_a_run_stopped_anywhere_goes_on_to_the_same_levels(
    encoder, images, toy_settings, tmp_path, stage, budget
):
    def stop(progress):
        if progress.stage == stage and progress.done >= 7:
            raise KeyboardInterrupt

    settings = dataclasses.replace(toy_settings, feature_budget=budget)
    with pytest.raises(KeyboardInterrupt):
        fit(encoder, images, settings, work=tmp_path, progress=stop)
    resumed, told = fit(encoder, images, settings, work=tmp_path)
    assert told[0].done > 0
    assert same(resumed, fit(encoder, images, settings)[0])


def test_another_encoder_starts_anew(encoder, images, toy_settings, tmp_path):
    fit(encoder, images, toy_settings, work=tmp_path)
    other = build_encoder("test_efficientnet", (8, 16), weights="random", seed=3)
    assert fit(other, images, toy_settings, work=tmp_path)[1][0].done == 0


def test_weights_that_give_no_numbers_are_said_to(images, toy_settings):
    broken = build_encoder("test_efficientnet", (8, 16), weights="random")
    broken.network.conv_stem.weight.fill_(torch.nan)
    with pytest.raises(DivergenceError, match="not finite"):
        fit(broken, images, toy_settings)
