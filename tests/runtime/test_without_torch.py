"""An environment that has no torch: `pip install 'cflow-ad[runtime]'`, and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.golden.exported import exported_file, golden_detector
from tests.golden.images import MODEL, golden_images

ROOT = Path(__file__).parents[2]

CODE = """
import json, sys, time
from pathlib import Path
began = time.perf_counter()
from cflow_ad.runtime import Detector
imported = time.perf_counter()
images = sorted(Path(sys.argv[2]).iterdir())
detector = Detector.load(sys.argv[1])
first = detector.predict(images[0])
done = time.perf_counter()
heavy = [m for m in ("torch", "timm", "scipy", "matplotlib", "safetensors") if m in sys.modules]
print(json.dumps({
    "scores": {Path(p.source).name: p.score for p in detector.stream(images)},
    "decisions": {Path(p.source).name: p.is_anomalous for p in detector.stream(images)},
    "heavy": heavy,
    "import": imported - began,
    "first": done - imported,
}))
"""


def run(python, *arguments):
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [python, *map(str, arguments)], capture_output=True, text=True, env=environment
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """The interpreter of an environment with the runtime's dependencies alone."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    status, _, said = run(
        python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
        f"{ROOT}[runtime]",
    )  # fmt: skip
    if status:
        pytest.skip(f"the index cannot be reached: {said.strip().splitlines()[-1]}")
    return python


def square_images():
    return {
        name: image for name, image in golden_images().items() if image.shape[0] == image.shape[1]
    }


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The golden model as ONNX, and square golden images as files."""
    folder = tmp_path_factory.mktemp("files")
    shutil.copy(exported_file(size="64x64"), folder / "model.onnx")
    (folder / "images").mkdir()
    for name, image in square_images().items():
        Image.fromarray(image).save(folder / "images" / f"{name}.png")
    return folder


def test_a_model_scores_the_same_where_there_is_no_torch(python, files):
    status, output, said = run(python, "-c", CODE, files / "model.onnx", files / "images")
    assert status == 0, said
    found = json.loads(output)
    assert found["heavy"] == []
    assert run(python, "-c", "import torch")[0] != 0
    for prediction in golden_detector().stream(sorted((files / "images").iterdir())):
        name = Path(prediction.source).name
        assert found["scores"][name] == pytest.approx(prediction.score, rel=1e-4, abs=1e-4)
        assert found["decisions"][name] == prediction.is_anomalous


def test_the_command_predicts_there(python, files):
    table = files / "scores.csv"
    status, output, said = run(
        python, "-m", "cflow_ad", "predict", files / "model.onnx", files / "images",
        "--table", table, "-o", files / "out", "--masks", "--maps", "png",
    )  # fmt: skip
    assert status == 1, said  # some are anomalous
    assert len(output.splitlines()) == len(square_images())
    assert len(table.read_text().splitlines()) == len(square_images()) + 1
    assert run(python, "-m", "cflow_ad", "info", files / "model.onnx")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (["predict", "MODEL", "IMAGES"], "train"),
        (["train", "IMAGES", "-o", "OUT"], "train"),
        (["evaluate", "ONNX", "IMAGES"], "train"),
        (["export", "MODEL"], "train"),
        (["predict", "XML", "IMAGES"], "openvino"),
        (["predict", "ONNX", "IMAGES", "--picture", "OUT"], "train"),
    ],
)
def test_what_needs_more_says_how_to_get_it(python, files, tmp_path, arguments, extra):
    places = {
        "MODEL": MODEL,
        "IMAGES": files / "images",
        "ONNX": files / "model.onnx",
        "XML": tmp_path / "model.xml",
        "OUT": tmp_path / "out.png",
    }
    places["XML"].write_text("<net/>")
    status, _, said = run(python, "-m", "cflow_ad", *(places.get(a, a) for a in arguments))
    last = said.strip().splitlines()[-1]
    assert status == 2, said
    assert last.startswith("error: ")
    assert f"pip install 'cflow-ad[{extra}]'" in last
    assert "Traceback" not in said


def test_from_python_too(python):
    code = "import cflow_ad; cflow_ad.Detector"
    status, _, said = run(python, "-c", code)
    assert status == 1
    assert "DependencyError: this needs torch, which is not installed" in said
