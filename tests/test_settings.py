"""Every choice is checked where it is made, and goes through JSON unchanged."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest

from cflow_ad import Settings, SettingsError
from cflow_ad.cli.settings_help import describe_settings
from cflow_ad.method import Method, PaperSchedule
from cflow_ad.presets import PRESETS

BAD = {
    Settings: {
        "size": ["0x0", "big", 256, None],
        "resize": ["crop", None],
        "foreground": ["dark", True],
        "align": ["affine", None],
        "precision": ["fp16", 32],
        "bits": [7, 17, 12.0, True],
        "page": [0, -1, 1.5],
        "bayer": ["rgb", None],
        "backbone": [5, None],
        "weights": [5],
        "strides": [(), (16, 8), (8, 8), (0, 8), [8, 16], (8.0,), 8],
        "transformer_blocks": [(1, 0), (1, 1), (-1, 2), [1], (1.0,), 1],
        "steps": [-1, 2.5, True, "5"],
        "least_gain": [-0.1, math.nan],
        "batch_size": [0, 1.0],
        "learning_rate": [0.0, math.nan, math.inf, "fast"],
        "augment_copies": [-1],
        "augment_rotation": [-1.0, 181.0],
        "augment_shift": [-0.1, 1.0],
        "augment_brightness": [-0.1, 1.0],
        "seed": [-1, 2**32, 0.5],
        "feature_budget": [0, -1.0],
        "paper": [True, {"epochs": 3}],
        "smoothing": [-1.0, 1001.0, math.inf, 10**400],
        "false_alarm_rate": [0.0, 1.0, None],
        "folds": [-1, 101, 2.5, "3"],
        "method": [None, {"blocks": 3}],
    },
    Method: {
        "join": [1, None],
        "average": [3, (3.0,), [32]],
        "padding": ["mirror"],
        "interpolation": ["cubic"],
        "whiten": ["yes"],
        "components": [1, 2.5, None],
        "memory": [-1, 2.5, None],
        "place_means": [0],
        "memory_radii": [-0.1, 1.1],
        "place_scales": [-0.1, 1.1],
        "blocks": [0, 2.5, True],
        "wide_subnets": [1],
        "permutation": ["hard"],
        "clamp": [0.0, -1.9],
        "position_channels": [3, -4],
        "positions": ["polar", "absolute"],  # absolute ones have no means of places
        "image_score": ["maximum"],
    },
    PaperSchedule: {
        "epochs": [0],
        "passes_per_epoch": [0],
        "images_per_batch": [0, 1.5],
        "rotation": [-1.0, 181.0],
        "zero_fill": [1, "no"],
    },
}


@pytest.mark.parametrize(
    ("owner", "name"),
    [(owner, field.name) for owner in BAD for field in dataclasses.fields(owner)],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_a_bad_value_is_named_with_its_field(owner, name):
    for value in BAD[owner][name]:
        with pytest.raises(SettingsError, match=name):
            owner(**{name: value})


def test_the_user_chooses_from_a_limited_number_of_fields():
    assert len(dataclasses.fields(Settings)) <= 26


@pytest.mark.parametrize("preset", PRESETS)
def test_settings_go_through_json_unchanged(preset):
    settings = Settings.preset(
        preset, strides=(4, 8), size="320x640", smoothing=1.5, weights="w.pth"
    )
    assert Settings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings
    assert Settings.from_dict({}) == Settings()


@pytest.mark.parametrize("values", [{"colour": 1}, {"method": {"colour": 1}}, {"paper": {"lr": 1}}])
def test_an_unknown_field_is_named(values):
    with pytest.raises(SettingsError, match=r"unknown setting (colour|lr)"):
        Settings.from_dict(values)


@pytest.mark.parametrize("setting", describe_settings(), ids=lambda setting: setting.name)
def test_every_default_can_be_written_on_a_command_line(setting):
    assert setting.meaning
    owner, _, own = setting.name.rpartition(".")
    default = getattr(PaperSchedule() if owner else Settings(), own)
    if default is not None:
        assert Settings.parse(setting.name, setting.default) == default


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("strides", "8,16", (8, 16)),
        ("folds", "5", 5),
        ("strides", "8", (8,)),
        ("steps", "12", 12),
        ("learning_rate", "1e-3", 1e-3),
        ("weights", "random", "random"),
        ("size", "longest=800", "longest=800"),
        ("paper.epochs", "3", 3),
        ("paper.rotation", "0", 0.0),
        ("paper.zero_fill", "True", True),
    ],
)
def test_text_is_read_as_the_value_it_is(name, text, value):
    found = Settings.parse(name, text)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("steps", "many"),
        ("steps", "2.5"),
        ("strides", "8,x"),
        ("learning_rate", "?"),
        ("paper.epochs", "few"),
        ("paper.zero_fill", "si"),
    ],
)
def test_text_that_is_not_a_value_is_named(name, text):
    with pytest.raises(SettingsError, match=f"{name} is {text!r}".replace("?", r"\?")):
        Settings.parse(name, text)


@pytest.mark.parametrize("name", ["colour", "method", "paper", "blocks", "paper.steps", "paper."])
def test_a_name_that_is_not_a_setting_is_named(name):
    with pytest.raises(SettingsError, match=f"unknown setting {name};"):
        Settings.parse(name, "1")


@pytest.mark.parametrize(
    ("strides", "multiple"), [((8, 16), 32), ((8, 16, 32), 32), ((16, 64), 64)]
)
def test_a_canvas_is_whole_positions_of_the_largest_stride(strides, multiple):
    assert Settings(strides=strides).sizing.multiple == multiple


def test_images_are_resized_by_the_methods_kernel():
    for preset in ("default", "paper"):
        settings = Settings.preset(preset)
        assert settings.sizing.interpolation == settings.method.interpolation


# Presets


def test_the_default_preset_is_the_defaults():
    assert Settings.preset("default") == Settings()


def test_the_paper_preset_is_the_papers():
    paper, method = Settings.preset("paper"), Settings.preset("paper").method
    assert (paper.backbone, paper.strides) == ("wide_resnet50_2.tv_in1k", (8, 16, 32))
    assert (paper.size, paper.resize) == ("512x512", "stretch")
    assert (paper.batch_size, paper.learning_rate) == (256, 2e-4)
    assert (paper.smoothing, paper.folds) == (0, 0)
    assert paper.paper == PaperSchedule()
    assert method == Method(
        join=False,
        memory=0,
        average=(),
        padding="reflect",
        interpolation="lanczos",
        whiten=False,
        place_means=False,
        place_scales=0.0,
        blocks=8,
        wide_subnets=True,
        permutation="soft",
        clamp=1.9,
        position_channels=128,
        positions="absolute",
        image_score="peak",
    )
    schedule = PaperSchedule()
    assert (schedule.epochs, schedule.passes_per_epoch) == (25, 8)
    assert (schedule.images_per_batch, schedule.rotation) == (32, 5)


def test_a_flow_takes_steps_for_copies_of_images_too():
    assert Settings(augment_copies=2).steps_for(50) == Settings().steps_for(150)
    assert Settings(augment_copies=2, steps=7).steps_for(50) == 7


def test_the_accurate_preset_has_the_papers_flow():
    paper, accurate = (Settings.preset(name).method for name in ("paper", "accurate"))
    for field in ("blocks", "wide_subnets", "permutation", "clamp", "position_channels"):
        assert getattr(paper, field) == getattr(accurate, field)


def test_changes_of_a_preset_leave_the_rest_as_it_is():
    paper = Settings.preset("paper")
    changed = Settings.preset(
        "paper", steps=3, method={"blocks": 2}, paper={"rotation": 0.0}, **{"paper.epochs": 3}
    )
    assert changed == dataclasses.replace(
        paper,
        steps=3,
        method=dataclasses.replace(paper.method, blocks=2),
        paper=dataclasses.replace(paper.paper, rotation=0.0, epochs=3),
    )
    assert Settings.preset("paper") == paper
    assert Settings.preset("fast", method={"blocks": 3}).method.average == (16, 32)
    assert Settings.preset("paper", paper=None).paper is None
    assert Settings.preset("default", method=Method(blocks=1)).method == Method(blocks=1)


@pytest.mark.parametrize(
    ("preset", "changes", "message"),
    [
        ("papre", {}, "preset 'papre' is unknown; give fast or default or"),
        ("paper", {"colour": "red"}, "unknown setting colour"),
        ("paper", {"paper.epochs": 0}, "epochs is 0"),
        ("paper", {"method": {"blocks": 0}}, "blocks is 0"),
        ("default", {"paper.epochs": 3}, "paper.epochs needs --preset paper"),
        ("paper", {"precision": "bf16"}, "precision is 'bf16': it must be fp32 with the paper's"),
        ("paper", {"augment_copies": 1}, "augment_copies is 1: it must be 0 with the paper's"),
        ("paper", {"method": {"memory": 9}}, "method.memory must be 0 with the paper's"),
    ],
)
def test_a_wrong_preset_or_change_is_named(preset, changes, message):
    with pytest.raises(SettingsError, match=message):
        Settings.preset(preset, **changes)
