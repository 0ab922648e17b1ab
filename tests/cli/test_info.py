"""`info`: a model file, the backbones, the settings."""

from __future__ import annotations

import json

from cflow_ad import Settings
from tests.cli.commands import run


def test_info_shows_what_made_a_model(model):
    shown = run("info", model).stdout
    for text in ("test_efficientnet", "64x64", "threshold", "fingerprint", "sha256"):
        assert text in shown
    told = json.loads(run("info", model, "--json").stdout)
    assert Settings.from_dict(told["settings"]).size == "64x64"


def test_info_groups_the_backbones():
    listed = json.loads(run("info", "backbones", "--json").stdout)
    group = {item["name"]: item["group"] for item in listed}
    assert len(group) == len(listed)
    assert group["tf_efficientnet_lite0"] == "usable"
    for name in ("wide_resnet50_2.tv_in1k", "vit_small_patch14_dinov2.lvd142m"):
        assert group[name] in ("usable", "recommended")  # it may have been downloaded
    assert group["vit_tiny_patch16_224"] == "tried"
    order = ["usable", "recommended", "tried"]
    assert [item["group"] for item in listed] == sorted(group.values(), key=order.index)
    assert "tf_efficientnet_lite0" in run("info", "backbones").stdout


def test_info_lists_every_setting():
    told = json.loads(run("info", "settings", "--json").stdout)
    names = {item["name"] for item in told}
    assert {name for name in names if "." not in name} == set(Settings().to_dict()) - {
        "method",
        "paper",
    }
    for item in told:  # each can be given to --set
        if item["default"]:
            Settings.parse(item["name"], item["default"])
    assert "false_alarm_rate" in run("info", "settings").stdout
