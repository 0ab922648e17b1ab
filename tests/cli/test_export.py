"""`export`, and the commands that take the exported file."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil

import pytest

from cflow_ad import Detector
from cflow_ad.export.check import Change
from cflow_ad.export.export import ExportReport
from cflow_ad.export.timing import Times
from tests.cli.commands import refused, run


@pytest.fixture(scope="module")
def trained(model, tmp_path_factory):
    """A copy of the model, beside which its exports are written."""
    return shutil.copy(model, tmp_path_factory.mktemp("exports") / "model.safetensors")


@pytest.fixture(scope="module")
def done(trained, carpet):
    return run("export", trained, "--size", "64x64", "--data", carpet)


@pytest.fixture(scope="module")
def exported(trained, done):
    assert done.exit_code == 0, done.output
    return trained.with_suffix(".onnx")


def test_it_prints_what_it_wrote_and_how_it_compares(exported, done):
    first, second, third = done.stdout.splitlines()
    assert f"{exported}: onnx, fp32, 64x64" in first
    assert "0 change between good and anomalous" in second
    assert re.fullmatch(r"one image: \d+\.\d ms, the trained model \d+\.\d ms", third)
    assert sorted(path.name for path in exported.parent.iterdir()) == [
        "model.onnx",
        "model.safetensors",
    ]


def test_predict_prints_the_same_with_either(trained, exported, carpet):
    shown = []
    for model in (trained, exported):
        result = run("predict", model, carpet / "test", "--exit-zero")
        assert result.exit_code == 0, result.output
        shown.append([(line.split()[0], line.split()[2:]) for line in result.stdout.splitlines()])
    assert shown[0] == shown[1]
    assert len(shown[0]) == 14


def test_evaluate_and_info_take_it_too(trained, exported, carpet, tmp_path):
    result = run("evaluate", exported, carpet, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["detector"]["export"]["format"] == "onnx"
    shown = json.loads(run("info", exported, "--json").stdout)
    assert shown["export"]["opset"] == 18
    assert shown["calibration"] == Detector.load(trained).info()["calibration"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--precision", "bf16"], "has a precision of its own"),
        (["--weights", "w.pth"], "weights inside"),
    ],
)
def test_options_of_a_trained_model_are_refused(exported, carpet, options, said):
    assert said in refused("predict", exported, carpet / "test" / "good", *options)


def test_a_new_threshold_and_areas_are_printed(trained, monkeypatch):
    path = trained.with_suffix(".xml")
    change = Change(
        n_images=3, generated=False, largest=0.1, mean=0.01, flipped=1, auroc=(("image", 1, 0.995),)
    )
    calibration = Detector.load(trained).calibration
    other = dataclasses.replace(calibration, threshold=1.25)
    times = Times(3.04, 5.0, 0.6, "fp32")
    report = ExportReport(path, "openvino", "int8", (64, 96), 2**20, change, other, times)
    monkeypatch.setattr("cflow_ad.export.export.export_model", lambda *_, **__: report)
    lines = run("export", trained, "-f", "openvino").stdout.splitlines()
    assert lines[0] == f"{path}: openvino, int8, 64x96, 1.0 MiB"
    assert "1 change between good and anomalous" in lines[1]
    assert lines[2] == "one image: 3.0 ms, fp32 5.0 ms"
    assert lines[3] == "image AUROC: 100.00 trained, 99.50 exported"
    assert lines[4] == f"new threshold: {calibration.threshold:.3f} trained, 1.250 exported"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--format", "tflite"], "onnx, openvino, torch"),
        (["--precision", "int4"], "fp32, fp16, bf16, int8"),
        (["--precision", "int8"], "--data"),
        (["--format", "torch", "--precision", "fp16"], "fp32"),
        (["--size", "100x100"], "multiples of 32"),
        (["--size", "128x64"], "up to 64x64"),
        (["--size", "big"], "size"),
        (["-o", "model.xml"], ".onnx"),
    ],
)
def test_options_that_do_not_go_together_are_named(trained, options, said):
    assert said in refused("export", trained, *options)


def test_images_that_do_not_fit_the_one_size_are_named(trained, carpet):
    line = refused("export", trained, "--size", "32x64", "--data", carpet)
    assert "--size dynamic" in line


def test_an_exported_model_is_not_exported_again(exported):
    assert "model.onnx" in refused("export", exported)


def test_a_damaged_export_is_named(exported, carpet, tmp_path):
    path = tmp_path / "cut.onnx"
    path.write_bytes(exported.read_bytes()[:5000])
    assert "damaged" in refused("predict", path, carpet / "test" / "good")


def test_a_name_of_another_format_is_refused_with_the_way_out(trained, tmp_path):
    said = refused("export", trained, "-o", tmp_path / "m.xml")
    assert f"{tmp_path / 'm.xml'}: the name of a file of the format onnx ends in .onnx" in said
    assert said.endswith("change the name or the format")
