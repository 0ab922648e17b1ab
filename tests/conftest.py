"""What several tests share: generated carpet, and detectors trained on it in a moment."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
import torch
import typer.main
import typer.testing

from cflow_ad import CalibrationWarning, Detector, Settings
from cflow_ad.data.carpet import write_carpet
from cflow_ad.data.images import read_image
from cflow_ad.method import Method

# pytest-xdist runs one process for each core: more threads would only stand in each other's way.
torch.set_num_threads(1)

# Made once in a process, not for each command and each model that is read.
typer.testing._get_command = functools.cache(typer.main.get_command)


@pytest.fixture(scope="session")
def carpet_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Carpet in the MVTec layout, 96 x 96 pixels: 12 images to train on; not to be changed."""
    folder = tmp_path_factory.mktemp("data") / "carpet"
    write_carpet(folder, train=12, good=4, per_defect=1, size=96)
    return folder


@pytest.fixture(scope="session")
def images(carpet_folder: Path) -> list[np.ndarray]:
    """The 12 good images of `carpet_folder` to train on."""
    return [read_image(path) for path in sorted((carpet_folder / "train" / "good").iterdir())]


@pytest.fixture(scope="session")
def tiny_settings() -> Settings:
    """The default backbone, small in all else."""
    return Settings(
        size="64x64", strides=(8, 16), steps=5, batch_size=256, folds=2, method=Method(blocks=2)
    )


@pytest.fixture(scope="session")
def tiny_detector(carpet_folder: Path, tiny_settings: Settings) -> Detector:
    """Trained on `carpet_folder` with `tiny_settings`; not to be changed."""
    with pytest.warns(CalibrationWarning):
        return Detector.fit(carpet_folder, tiny_settings, device="cpu")


@pytest.fixture(scope="session")
def toy_settings() -> Settings:
    """A backbone of a few kilobytes with random weights, built in a hundredth of a second."""
    return Settings(
        backbone="test_efficientnet",
        weights="random",
        size="64x64",
        bits=16,  # some tests score images of 16 bits
        strides=(8, 16),
        steps=5,
        batch_size=64,
        folds=3,
        method=Method(blocks=2, average=(16,)),
    )


@pytest.fixture(scope="session")
def toy_detector(images: list[np.ndarray], toy_settings: Settings) -> Detector:
    """Trained on `images` with `toy_settings`; not to be changed."""
    with pytest.warns(CalibrationWarning):
        return Detector.fit(images, toy_settings, device="cpu")
