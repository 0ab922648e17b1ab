"""`info`, `data` and `demo`."""

from __future__ import annotations

import functools
import json

import pytest

from cflow_ad import Settings, open_dataset
from cflow_ad.data import carpet as weaving
from tests.cli.commands import refused, run


def test_info_shows_what_made_a_model(model):
    shown = run("info", model).stdout
    for text in ("tf_efficientnet_lite1", "64x64", "threshold", "fingerprint", "sha256"):
        assert text in shown
    told = json.loads(run("info", model, "--json").stdout)
    assert Settings.from_dict(told["settings"]).blocks == 2


def test_info_lists_the_backbones_at_hand():
    told = {item["name"]: item for item in json.loads(run("info", "backbones", "--json").stdout)}
    assert told["tf_efficientnet_lite1"]["is_usable"]
    assert "wide_resnet50_2" in told
    assert "tf_efficientnet_lite1" in run("info", "backbones").stdout


def test_info_lists_every_setting():
    told = json.loads(run("info", "settings", "--json").stdout)
    assert {item["name"] for item in told} == set(Settings().to_dict())
    assert "false_alarm_rate" in run("info", "settings").stdout


def test_data_sample_weaves_a_carpet_in_the_mvtec_layout(tmp_path):
    out = tmp_path / "carpet"
    arguments = ("data", "sample", "carpet", out, "--train", 2, "--good", 1, "--per-defect", 1)
    assert run(*arguments, "--size", 64).exit_code == 0
    dataset = open_dataset(out)
    assert len(dataset.train) == 2
    assert len(dataset.test) == 6
    assert dataset.has_masks
    assert str(out) in refused(*arguments)


@pytest.fixture
def small(monkeypatch):
    """A demo of seconds."""
    write = functools.partial(weaving.write_carpet, train=6, good=2, per_defect=1, size=64)
    monkeypatch.setattr(weaving, "write_carpet", write)
    settings = functools.partial(Settings, size="64x64", steps=2, blocks=2, strides=(8, 16))
    monkeypatch.setattr("cflow_ad.settings.Settings", settings)


@pytest.mark.usefixtures("small")
def test_the_demo_goes_the_whole_way_and_says_where_things_are(tmp_path):
    result = run("demo", tmp_path / "demo")
    assert result.exit_code == 0, result.output
    paths = [line for line in result.stdout.splitlines() if line.startswith(str(tmp_path))]
    assert [path.rsplit("/", 1)[-1] for path in paths] == [
        "carpet",
        "carpet.safetensors",
        "metrics.json",
        "scores.csv",
        "picture.png",
        "picture.svg",
        "report.html",
    ]
    woven = (tmp_path / "demo" / "carpet" / "train" / "good" / "000.png").stat().st_mtime_ns
    assert run("demo", tmp_path / "demo").exit_code == 0
    again = (tmp_path / "demo" / "carpet" / "train" / "good" / "000.png").stat().st_mtime_ns
    assert again == woven


@pytest.mark.usefixtures("small")
def test_a_demo_that_was_stopped_is_said_plainly(tmp_path):
    (tmp_path / "demo" / "carpet").mkdir(parents=True)
    assert "stopped there; remove it" in refused("demo", tmp_path / "demo")
