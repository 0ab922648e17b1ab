"""`export`, and the commands that take what it writes."""

from __future__ import annotations

import json
import shutil

import onnx
import pytest
from PIL import Image

from cflow_ad import Detector
from cflow_ad.data.listing import list_images
from tests.cli.commands import refused, run
from tests.golden.images import MODEL, golden_images, good_images


@pytest.fixture(scope="module")
def golden(tmp_path_factory):
    """A copy of the golden model, beside which its exports are written."""
    return shutil.copy(MODEL, tmp_path_factory.mktemp("model") / "model.safetensors")


@pytest.fixture(scope="module")
def exported(golden):
    result = run("export", golden)
    assert result.exit_code == 0, result.output
    return golden.with_suffix(".onnx")


@pytest.fixture(scope="module")
def stripes(tmp_path_factory):
    """A data set in the MVTec layout, without masks."""
    folder = tmp_path_factory.mktemp("stripes")
    images = {f"train/good/{n}": image for n, image in enumerate(good_images(20))}
    images |= {f"test/good/{n}": image for n, image in enumerate(good_images(3, seed=9))}
    golden = golden_images()
    images |= {f"test/torn/{n}": golden[n] for n in ("hole", "corner")}
    for name, image in images.items():
        path = folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return folder


def test_it_says_what_it_wrote_and_how_it_compares(golden, exported, stripes, tmp_path):
    result = run("export", golden, "-o", tmp_path / "m.onnx", "--size", "64x64", "--data", stripes)
    assert result.exit_code == 0, result.output
    first, second = result.stdout.splitlines()
    assert "m.onnx: onnx, fp32, 64x64" in first
    assert "0 judged differently" in second
    assert list(tmp_path.iterdir()) == [tmp_path / "m.onnx"]


def test_predict_says_the_same_with_either(golden, exported, stripes):
    said = []
    for model in (golden, exported):
        result = run("predict", model, stripes / "test", "-r", "--exit-zero")
        assert result.exit_code == 0, result.output
        said.append([(line.split()[0], line.split()[2:]) for line in result.stdout.splitlines()])
    assert said[0] == said[1]
    assert len(said[0]) == 5


@pytest.mark.parametrize("option", [["--compile"], ["--precision", "bf16"]])
def test_its_precision_is_its_own(exported, stripes, option):
    image = next((stripes / "test").rglob("*.png"))
    assert "has a precision of its own" in refused("predict", exported, image, *option)


def test_evaluate_and_info_take_it_too(exported, stripes, tmp_path):
    result = run("evaluate", exported, stripes, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["image"]["auroc"] == 1.0
    assert metrics["detector"]["export"]["format"] == "onnx"
    shown = json.loads(run("info", exported, "--json").stdout)
    assert shown["export"]["opset"] == 18
    assert shown["calibration"] == Detector.load(MODEL).info()["calibration"]


def test_the_file_names_its_dynamic_dimensions(exported):
    graph = onnx.load(exported).graph
    dims = [dim.dim_param or dim.dim_value for dim in graph.input[0].type.tensor_type.shape.dim]
    assert dims == ["batch", "height", "width", 3]


def test_a_quantised_model_gets_its_own_threshold(golden, stripes, tmp_path):
    path = tmp_path / "int8.onnx"
    result = run("export", golden, "-o", path, "--precision", "int8", "--data", stripes, "--force")
    assert result.exit_code == 0, result.output
    assert "image AUROC: 100.00 trained, 100.00 exported" in result.stdout
    assert "threshold set anew" in result.stdout
    about = json.loads(run("info", path, "--json").stdout)
    assert about["calibration"]["n_images"] == 4  # a fifth of the twenty
    assert about["calibration"]["threshold"] != Detector.load(MODEL).threshold


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
def test_what_does_not_go_together_is_said(golden, options, said):
    assert said in refused("export", golden, *options)


def test_images_that_do_not_fit_the_one_size_are_said(golden, stripes):
    line = refused("export", golden, "--size", "32x64", "--data", stripes)
    assert "--size dynamic" in line


def test_weights_are_no_matter_of_an_exported_model(exported, stripes):
    line = refused("predict", exported, stripes, "-r", "--weights", "w.pth")
    assert "weights inside" in line


def test_an_exported_model_is_not_exported_again(exported):
    assert "model.onnx" in refused("export", exported)


def test_a_damaged_export_is_said(exported, stripes, tmp_path):
    path = tmp_path / "cut.onnx"
    path.write_bytes(exported.read_bytes()[:5000])
    assert "damaged" in refused("predict", path, *list_images(stripes / "test" / "good"))
