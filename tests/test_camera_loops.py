"""The camera loops of the manual, run as they stand there."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cflow_ad import Detector
from cflow_ad.data.decoding.raster import Reading

PAGE = Path(__file__).parents[1] / "docs" / "images.md"
H, W = 48, 64


def loop(library):
    """The function `inspect` of the block that imports a library."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (block,) = (block for block in blocks if f"import {library}\n" in block)
    names: dict = {}
    exec(compile(block, str(PAGE), "exec"), names)
    return names


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of three smooth pictures in colour, and the pictures."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    found = []
    for number in range(3):
        small = Image.fromarray(rng.integers(0, 256, (3, 4, 3), dtype=np.uint8))
        image = small.resize((W, H), Image.Resampling.BICUBIC)
        image.save(folder / f"{number}.png")
        found.append(np.asarray(image))
    return folder, found


@pytest.fixture
def detector(toy_detector):
    """One that a loop may change."""
    return Detector(
        toy_detector.model,
        settings=dataclasses.replace(toy_detector.settings, bits=8),
        calibration=toy_detector.calibration,
        training=toy_detector.training,
    )


def test_opencv(detector, pictures):
    cv2 = pytest.importorskip("cv2")
    folder, images = pictures
    camera = cv2.VideoCapture(str(folder / "%d.png"))
    assert camera.isOpened()
    scores = [prediction.score for prediction in loop("cv2")["inspect"](camera, detector)]
    assert scores == [detector.predict(image).score for image in images]


@pytest.fixture
def camera(pictures, monkeypatch):
    """An emulated camera that plays the folder."""
    monkeypatch.setenv("PYLON_CAMEMU", "1")
    pylon = pytest.importorskip("pypylon.pylon")
    factory = pylon.TlFactory.GetInstance()
    emulated = [d for d in factory.EnumerateDevices() if d.GetModelName() == "Emulation"]
    if not emulated:
        pytest.skip("no emulated camera: pylon was loaded before")
    camera = pylon.InstantCamera(factory.CreateDevice(emulated[0]))
    camera.Open()
    camera.Width.Value, camera.Height.Value = W, H
    camera.ImageFilename.Value = str(pictures[0])
    camera.ImageFileMode.Value = "On"
    camera.TestImageSelector.Value = "Off"
    yield camera
    camera.Close()


@pytest.mark.parametrize(
    ("kind", "reading", "tolerance"),
    [
        ("Mono8", Reading(8), 6),
        ("Mono12", Reading(12), 6),
        ("BayerRG8", Reading(8, bayer="rggb"), 6),
        ("BayerRG12", Reading(12, bayer="rggb"), 6),
        ("RGB8Packed", Reading(8), 1),
    ],
)
def test_pypylon(detector, pictures, camera, kind, reading, tolerance):
    """Each picture of the folder is seen, at its brightness and in its colours."""
    if reading.bayer != "none":
        pytest.importorskip("cv2")
    camera.PixelFormat.Value = kind
    seen = []
    predict = detector.predict
    detector.predict = lambda array: (seen.append(array.copy()), predict(array))[1]
    predictions = list(loop("pylon")["inspect"](camera, detector, 3))
    assert detector.reading == reading
    assert len(predictions) == 3
    expected = list(pictures[1])
    if kind.startswith("Mono"):  # the emulation makes grey by other weights than Pillow
        grey = [np.asarray(Image.fromarray(image).convert("L")) for image in expected]
        expected = [np.stack([each] * 3, axis=2) for each in grey]
    for array, prediction in zip(seen, predictions, strict=True):
        pixels = detector.pixels_of(array)
        assert prediction.score == predict(array).score
        apart = [np.abs(pixels - image.astype(float)).mean() for image in expected]
        assert min(apart) < tolerance
        expected.pop(int(np.argmin(apart)))  # each is seen once
