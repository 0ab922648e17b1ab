"""The examples of docs/deploy.md, built and run: they print the detector's results."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from tests.golden.exported import exported_file, golden_detector
from tests.golden.images import golden_images

DOCS = Path(__file__).parents[2] / "docs"
SQUARE = ("good", "hole", "stain", "corner")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Golden images of the model's own size as PPM, and the model in both formats."""
    folder = tmp_path_factory.mktemp("deploy")
    for name in SQUARE:
        Image.fromarray(golden_images()[name]).save(folder / f"{name}.ppm")
    for format in ("onnx", "openvino"):
        for part in exported_file(format, size="64x64").parent.iterdir():
            shutil.copy(part, folder)
    return folder


def thresholds():
    return [str(golden_detector().threshold), str(golden_detector().calibration.map_threshold)]


def check(output):
    """Decision, score and anomalous pixels of each line, and where the map is highest."""
    lines = output.splitlines()
    assert len(lines) == len(SQUARE)
    for line, name in zip(lines, SQUARE, strict=True):
        decision, score, pixels, *rest = line.split()
        expected = golden_detector().predict(golden_images()[name])
        assert decision == ("anomalous" if expected.is_anomalous else "good")
        assert float(score) == pytest.approx(expected.score, rel=1e-3)
        assert int(pixels) == expected.mask.sum()
        if len(rest) == 2:
            x, y = map(int, rest[0].split(","))
            assert expected.anomaly_map[y, x] == pytest.approx(expected.anomaly_map.max(), rel=1e-3)


def test_the_cpp_example_builds_and_prints_the_same(files):
    """With the headers and libraries that the `openvino` wheel carries."""
    compiler = shutil.which("g++")
    openvino = pytest.importorskip("openvino")
    root = Path(openvino.__file__).parent
    libraries = sorted((root / "libs").glob("libopenvino.so*"))
    if compiler is None or not libraries or not (root / "include").is_dir():
        pytest.skip("no g++, or a wheel without headers")
    program = files / "score"
    subprocess.run(
        [compiler, "-std=c++17", DOCS / "deploy" / "openvino.cpp", f"-I{root / 'include'}",
         libraries[0], f"-Wl,-rpath,{root / 'libs'}", "-o", program],
        check=True,
    )  # fmt: skip
    images = [files / f"{name}.ppm" for name in SQUARE]
    arguments = [program, files / "model.xml", *thresholds()]
    done = subprocess.run([*arguments, *images], capture_output=True, text=True, check=True)
    check(done.stdout)
    wrong = files / "wrong.ppm"
    Image.fromarray(np.zeros((32, 64, 3), np.uint8)).save(wrong)
    for bad in (files / "none.ppm", files / "model.xml", wrong):
        failed = subprocess.run([*arguments, bad], capture_output=True, text=True)
        assert failed.returncode == 1
        assert failed.stderr.startswith("error: ")


def test_the_node_example_prints_the_same(files):
    """With `onnxruntime-node` from the npm registry."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("no node")
    # Its install script would download the libraries for GPUs, which CPUs do without.
    install = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "onnxruntime-node"]
    try:
        done = subprocess.run(install, cwd=files, capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        pytest.skip("the npm registry cannot be reached")
    if done.returncode:
        pytest.skip("the npm registry cannot be reached")
    shutil.copy(DOCS / "deploy" / "node.mjs", files)
    images = [files / f"{name}.ppm" for name in SQUARE]
    done = subprocess.run(
        ["node", "node.mjs", "model.onnx", *thresholds(), *images],
        cwd=files, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    check(done.stdout)


def test_the_manual_shows_the_examples_as_they_are():
    text = (DOCS / "deploy.md").read_text(encoding="utf-8")
    for name in ("openvino.cpp", "node.mjs"):
        assert (DOCS / "deploy" / name).read_text(encoding="utf-8").strip() in text


def test_tritons_configuration_has_the_names_of_the_graph(files):
    graph = onnx.load(files / "model.onnx").graph
    text = (DOCS / "deploy.md").read_text(encoding="utf-8")
    for value in [*graph.input, *graph.output]:
        if value.name in ("image", "anomaly_map", "score"):
            assert f'name: "{value.name}"' in text
