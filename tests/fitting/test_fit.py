"""What a run keeps for the next one, and what makes it start again."""

from __future__ import annotations

import copy
import dataclasses
import shutil

import pytest
import torch

from cflow_ad import Detector, DivergenceError, TrainingError
from cflow_ad.cflow.encoder import build_encoder
from cflow_ad.fitting.fit import discard, fit_levels, work_folder
from cflow_ad.scoring.view import View
from cflow_ad.settings import Settings

pytestmark = pytest.mark.filterwarnings("ignore::cflow_ad.CalibrationWarning")


class StoppedError(Exception):
    """Ends a run from its progress callback."""


def first_encoded(images, settings, work):
    """With how many images encoded a run begins."""

    def stop(progress):
        raise StoppedError(progress.done)

    with pytest.raises(StoppedError) as stopped:
        Detector.fit(images, settings, device="cpu", work=work, progress=stop)
    return stopped.value.args[0]


@pytest.fixture(scope="module")
def finished(images, toy_settings, tmp_path_factory):
    """The work folder of a finished run, not to be changed."""
    work = tmp_path_factory.mktemp("finished") / "work"
    Detector.fit(images[:8], toy_settings, device="cpu", work=work)
    return work


@pytest.fixture
def work(finished, tmp_path):
    """A copy of `finished`."""
    return shutil.copytree(finished, tmp_path / "work")


def changed(settings, changes):
    """Settings with some changed; `method.NAME` is one of the method's."""
    values = settings.to_dict()
    for name, value in changes.items():
        outer, _, inner = name.rpartition(".")
        (values[outer] if outer else values)[inner] = value
    return Settings.from_dict(values)


@pytest.mark.parametrize("change", [{}, {"smoothing": 1.0}, {"false_alarm_rate": 0.2}])
def test_a_finished_run_is_used_again_whatever_is_set_after_training(
    images, toy_settings, work, change
):
    assert first_encoded(images[:8], changed(toy_settings, change), work) == 6


@pytest.mark.parametrize(
    "change",
    [
        {"size": "32x32"},
        {"seed": 1},
        {"calibration_fraction": 0.5},
        {"steps": 6},
        {"learning_rate": 1e-4},
        {"feature_budget": 1e-4},
        {"augment_copies": 1},
        {"method.whiten": False},
        {"method.clamp": 1.0},
    ],
)
def test_other_settings_start_again(images, toy_settings, work, change):
    assert first_encoded(images[:8], changed(toy_settings, change), work) == 0


def test_other_images_start_again(images, toy_settings, work):
    assert first_encoded(images[1:9], toy_settings, work) == 0


def test_a_work_folder_that_cannot_be_made_is_named(images, toy_settings, tmp_path):
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    with pytest.raises(TrainingError, match="file"):
        Detector.fit(images, toy_settings, device="cpu", work=in_the_way / "work")


def test_a_work_folder_lies_beside_its_model_and_is_removed_with_its_content(tmp_path):
    work = work_folder(tmp_path / "model.safetensors")
    assert work.parent == tmp_path
    (work / "deep").mkdir(parents=True)
    (work / "deep" / "file").write_text("")
    discard(work)
    assert not work.exists()
    discard(work)  # a missing folder is no error


# The levels


def fit(encoder, images, settings, **changes):
    """Levels, and the progress reported."""
    seen = []
    fitted = fit_levels(
        encoder,
        images,
        settings,
        **{
            "fingerprint": "f",
            "view": View(sizing=settings.sizing),
            "progress": seen.append,
            **changes,
        },
    )
    return fitted.levels, seen


@pytest.fixture(scope="module")
def levels(encoder, images, toy_settings):
    """Fitted without a work folder."""
    return fit(encoder, images[:8], toy_settings)[0]


def assert_equal(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        for name, value in a.state_dict().items():
            assert torch.equal(value, b.state_dict()[name]), name


def test_every_level_is_fitted_to_its_own_channels(encoder, images, toy_settings, levels):
    _, seen = fit(encoder, images[:8], toy_settings)
    assert [level.flow.channels for level in levels] == list(encoder.spec.channels)
    for level in levels:
        assert not any(value.requires_grad for value in level.parameters())
        assert all(value.isfinite().all() for value in level.state_dict().values())
    trained = [(p.stride, p.done, p.total) for p in seen if p.stage == "train"]
    assert trained == [(8, 5, 10), (16, 10, 10)]


def test_a_work_folder_changes_nothing(encoder, images, toy_settings, levels, tmp_path):
    work = tmp_path / "deep" / "work"
    assert_equal(fit(encoder, images[:8], toy_settings, work=work)[0], levels)
    again, seen = fit(encoder, images[:8], toy_settings, work=work)
    assert [p.done for p in seen if p.stage == "train"] == [5, 10]  # each at its end
    assert_equal(again, levels)


def test_a_run_stopped_in_encoding_continues_to_the_same_levels(
    encoder, images, toy_settings, tmp_path
):
    """Also where the budget keeps a share of the vectors; `test_detector` stops in training."""

    def stop(progress):
        if progress.done >= 7:
            raise KeyboardInterrupt

    settings = dataclasses.replace(toy_settings, feature_budget=1e-4)
    with pytest.raises(KeyboardInterrupt):
        fit(encoder, images[:8], settings, work=tmp_path, progress=stop)
    resumed, seen = fit(encoder, images[:8], settings, work=tmp_path)
    assert seen[0].done > 0
    assert_equal(resumed, fit(encoder, images[:8], settings)[0])


def test_another_encoder_starts_again(images, toy_settings, work):
    other = build_encoder(dataclasses.replace(toy_settings, seed=3))
    _, seen = fit(other, images[:8], toy_settings, work=work)
    assert seen[0].done == 0


def test_weights_that_give_no_numbers_are_an_error(encoder, images, toy_settings):
    broken = copy.deepcopy(encoder)
    broken.network.conv_stem.weight.fill_(torch.nan)
    with pytest.raises(DivergenceError, match="not finite"):
        fit(broken, images[:8], toy_settings)
