"""The examples of docs/deploy.md, built and run: they say what the detector says."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from cflow_ad import Detector
from cflow_ad.export.export import export_model
from tests.golden.images import MODEL, golden_images

DOCS = Path(__file__).parents[2] / "docs"
SQUARE = ("good", "hole", "stain", "corner")


@pytest.fixture(scope="module")
def trained():
    return Detector.load(MODEL, device="cpu")


@pytest.fixture(scope="module")
def files(trained, tmp_path_factory):
    """Golden images of the model's own size as PPM, and the model in both formats."""
    folder = tmp_path_factory.mktemp("deploy")
    for name in SQUARE:
        Image.fromarray(golden_images()[name]).save(folder / f"{name}.ppm")
    export_model(trained, folder / "model.xml", format="openvino", size="64x64")
    export_model(trained, folder / "model.onnx", size="64x64")
    return folder


def check(output, trained):
    """Verdict and score of each line, and where the map is highest if it says so."""
    lines = output.splitlines()
    assert len(lines) == len(SQUARE)
    for line, name in zip(lines, SQUARE, strict=True):
        verdict, score, *rest = line.split()
        expected = trained.predict(golden_images()[name])
        assert verdict == ("anomalous" if expected.is_anomalous else "good")
        assert float(score) == pytest.approx(expected.score, rel=1e-3)
        if len(rest) == 2:
            x, y = map(int, rest[0].split(","))
            assert expected.anomaly_map[y, x] == pytest.approx(expected.score, rel=1e-3)


def test_the_cpp_example_builds_and_says_the_same(trained, files):
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
    arguments = [program, files / "model.xml", str(trained.threshold)]
    done = subprocess.run([*arguments, *images], capture_output=True, text=True, check=True)
    check(done.stdout, trained)
    wrong = files / "wrong.ppm"
    Image.fromarray(np.zeros((32, 64, 3), np.uint8)).save(wrong)
    for bad in (files / "none.ppm", files / "model.xml", wrong):
        failed = subprocess.run([*arguments, bad], capture_output=True, text=True)
        assert failed.returncode == 1
        assert failed.stderr.startswith("error: ")


def test_the_node_example_says_the_same(trained, files):
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
        ["node", "node.mjs", "model.onnx", str(trained.threshold), *images],
        cwd=files, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    check(done.stdout, trained)


def test_the_manual_shows_the_examples_as_they_are():
    text = (DOCS / "deploy.md").read_text(encoding="utf-8")
    for name in ("openvino.cpp", "node.mjs"):
        assert (DOCS / "deploy" / name).read_text(encoding="utf-8").strip() in text


def test_triton_is_told_the_names_and_shapes_of_the_graph(files):
    graph = onnx.load(files / "model.onnx").graph
    text = (DOCS / "deploy.md").read_text(encoding="utf-8")
    for value in [*graph.input, *graph.output]:
        if value.name in ("image", "anomaly_map", "score"):
            assert f'name: "{value.name}"' in text
