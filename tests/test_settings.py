"""Every choice is checked where it is made, and goes through JSON unchanged."""

from __future__ import annotations

import dataclasses
import json

import pytest

from cflow_ad import Settings, SettingsError
from cflow_ad.settings import describe_settings

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
    ("name", "text"), [("blocks", "many"), ("blocks", "2.5"), ("strides", "8,x"), ("clamp", "?")]
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
