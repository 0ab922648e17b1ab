"""Every choice is checked where it is made, and goes through JSON unchanged."""

from __future__ import annotations

import dataclasses
import json

import pytest

from cflow_ad import Settings, SettingsError
from cflow_ad.cli.settings_help import describe_settings

BAD = [
    ("blocks", 0),
    ("blocks", 2.5),
    ("blocks", True),
    ("steps", -1),
    ("batch_size", 0),
    ("learning_rate", 0.0),
    ("learning_rate", float("nan")),
    ("learning_rate", float("inf")),
    ("feature_budget", 0),
    ("position_channels", 3),
    ("position_channels", -4),
    ("clamp", 0.0),
    ("smoothing", -1.0),
    ("neighbourhood", 2),
    ("neighbourhood", 0),
    ("neighbourhood_from", -1),
    ("false_alarm_rate", 0.0),
    ("false_alarm_rate", 1.0),
    ("calibration_fraction", 1.5),
    ("strides", ()),
    ("strides", (16, 8)),
    ("strides", (8, 8)),
    ("strides", [8, 16]),
    ("loss", "mse"),
    ("input_layer", "pca"),
    ("permutation", "hard"),
    ("resize", "crop"),
    ("size", "0x0"),
    ("size", "big"),
    ("size", 256),
    ("backbone", 5),
    ("weights", 5),
    ("seed", -1),
    ("schedule", "slow"),
    ("padding", "mirror"),
    ("interpolation", "cubic"),
    ("epochs", 0),
    ("passes_per_epoch", 0),
    ("images_per_batch", 0),
    ("rotation", -1.0),
    ("rotation", 181.0),
    ("zero_fill", 1),
    ("calibration_fraction", -0.1),
    ("calibration_fraction", 1.0),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_bad_value_is_named_with_its_field(name, value):
    with pytest.raises(SettingsError, match=name):
        Settings(**{name: value})


def test_settings_go_through_json_unchanged():
    settings = Settings(strides=(4, 8), size="320x640", smoothing=1.5, weights="w.pth")
    assert Settings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings


def test_an_unknown_field_is_named():
    with pytest.raises(SettingsError, match="colour"):
        Settings.from_dict({"colour": "red"})


@pytest.mark.parametrize("field", dataclasses.fields(Settings), ids=lambda field: field.name)
def test_every_default_can_be_written_on_a_command_line(field):
    described = {item.name: item for item in describe_settings()}[field.name]
    assert described.meaning
    if field.default is not None:
        assert Settings.parse(field.name, described.default) == field.default


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("blocks", "many"),
        ("blocks", "2.5"),
        ("strides", "8,x"),
        ("clamp", "?"),
        ("zero_fill", "si"),
    ],
)
def test_text_that_is_no_value_is_named(name, text):
    with pytest.raises(SettingsError, match=name):
        Settings.parse(name, text)
    with pytest.raises(SettingsError, match="colour"):
        Settings.parse("colour", "red")


@pytest.mark.parametrize(
    ("strides", "multiple"), [((8, 16), 32), ((8, 16, 32), 32), ((16, 64), 64)]
)
def test_a_canvas_is_whole_cells_of_the_largest_stride(strides, multiple):
    assert Settings(strides=strides).sizing.multiple == multiple


def test_coarse_levels_have_strides_of_their_own():
    settings = Settings(coarse=3, coarse_weight=0.5)
    assert settings.levels == (8, 16, 32, 48, 96)
    assert settings.level_weights == (1, 1, 1, 0.5, 0.5)
    assert Settings(coarse=3, coarse_from=0).levels == (8, 16, 32, 24, 48, 96)
    assert Settings(coarse=0).levels == Settings().strides
    for taken in (1, 2):
        with pytest.raises(SettingsError, match="no two levels have one stride, as 3"):
            Settings(coarse=taken)


def test_a_canvas_has_larger_steps_where_it_is_said():
    assert Settings(canvas_multiple=192).sizing.multiple == 192


def test_a_canvas_is_not_less_than_a_cell_of_the_largest_stride():
    with pytest.raises(SettingsError, match="canvas_multiple is 48: it must be a multiple of 32"):
        Settings(canvas_multiple=48)


def test_an_older_file_has_the_canvas_that_it_had():
    older = {k: v for k, v in Settings(coarse=3).to_dict().items() if k != "canvas_multiple"}
    assert Settings.restored(older).sizing.multiple == 96
    del older["coarse_from"], older["image_score"]
    assert Settings.restored(older).levels == (8, 16, 32, 24, 48, 96)
    assert Settings.restored(older).image_score == "peak"
    assert Settings.restored(Settings().to_dict()) == Settings()


def test_the_papers_schedule_is_in_single_precision():
    with pytest.raises(SettingsError, match="precision is 'bf16': it must be fp32 with schedule"):
        Settings.preset("paper", precision="bf16")


def test_the_paper_preset_is_the_papers():
    paper = Settings.preset("paper")
    assert (paper.backbone, paper.padding) == ("wide_resnet50_2.tv_in1k", "reflect")
    assert (paper.strides, paper.size, paper.resize) == ((8, 16, 32), "512x512", "stretch")
    assert (paper.position_channels, paper.blocks, paper.clamp) == (128, 8, 1.9)
    assert (paper.permutation, paper.input_layer, paper.loss) == ("soft", "raw", "logsigmoid")
    assert (paper.schedule, paper.epochs, paper.passes_per_epoch) == ("paper", 25, 8)
    assert (paper.batch_size, paper.images_per_batch, paper.rotation) == (256, 32, 5.0)
    assert (paper.learning_rate, paper.smoothing, paper.calibration_fraction) == (2e-4, 0.0, 0.0)


def test_a_preset_can_be_changed_and_checks_what_it_is_given():
    assert Settings.preset("default") == Settings()
    assert Settings.preset("paper", epochs=3).epochs == 3
    with pytest.raises(SettingsError, match="preset 'papre'"):
        Settings.preset("papre")
    with pytest.raises(SettingsError, match="unknown setting colour"):
        Settings.preset("paper", colour="red")
    with pytest.raises(SettingsError, match="epochs"):
        Settings.preset("paper", epochs=0)
