"""`demo`: the whole way, and what is said when it was stopped."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest

from cflow_ad import Detector, Settings
from cflow_ad.data import carpet as weaving
from tests.cli.commands import refused, run

TOY = {"backbone": "test_efficientnet", "weights": "random"}


@pytest.fixture
def small(monkeypatch):
    """A demo of seconds."""
    write = functools.partial(weaving.write_carpet, train=6, good=2, per_defect=1, size=64)
    monkeypatch.setattr(weaving, "write_carpet", write)
    settings = functools.partial(Settings, size="64x64", steps=2, strides=(8, 16), **TOY)
    monkeypatch.setattr("cflow_ad.settings.Settings", settings)


@pytest.mark.usefixtures("small")
def test_the_demo_writes_its_files_and_again_gives_the_same_numbers(tmp_path):
    def read_images():
        metrics = tmp_path / "demo" / "evaluation" / "metrics.json"
        return json.loads(metrics.read_text(encoding="utf-8"))["images"]

    result = run("demo", tmp_path / "demo")
    assert result.exit_code == 0, result.output
    paths = [line for line in result.stdout.splitlines() if line.startswith(str(tmp_path))]
    names = ["metrics.json", "scores.csv", "picture.png", "picture.svg", "report.html"]
    assert [path.rsplit("/", 1)[-1] for path in paths] == ["carpet", "carpet.safetensors", *names]
    assert all(Path(path).exists() for path in paths)
    image = tmp_path / "demo" / "carpet" / "train" / "good" / "000.png"
    written, first = image.stat().st_mtime_ns, read_images()
    assert run("demo", tmp_path / "demo").exit_code == 0
    assert image.stat().st_mtime_ns == written
    assert read_images() == first


@pytest.mark.usefixtures("small")
def test_a_demo_that_is_stopped_says_how_to_begin_again(tmp_path, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Detector, "fit", stop)
        result = run("demo", tmp_path / "demo")
    assert (result.exit_code, result.stderr) == (130, "stopped\n")
    line = refused("demo", tmp_path / "demo")
    assert f"{tmp_path / 'demo'}: an interrupted demo; delete it" in line


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "demo").write_text("")
    assert str(tmp_path / "demo") in refused("demo", tmp_path / "demo")
