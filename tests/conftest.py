"""What several tests share: generated carpet, and detectors trained on it in a moment."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cflow_ad import CalibrationWarning, Detector, Settings
from cflow_ad.data.carpet import photograph, weave

# pytest-xdist runs one process for each core: more threads would only stand in each other's way.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def images() -> list[np.ndarray]:
    """Twelve photographs of good carpet, 96 x 96."""
    generators = [np.random.default_rng([7, number]) for number in range(12)]
    return [photograph(weave(rng, 96), rng) for rng in generators]


@pytest.fixture(scope="session")
def settings() -> Settings:
    """The default backbone, small in all else."""
    return Settings(size="64x64", strides=(8, 16), steps=5, blocks=2, batch_size=256)


@pytest.fixture(scope="session")
def tiny() -> Settings:
    """A backbone of a few kilobytes with random weights: builds in a hundredth of a second."""
    return Settings(
        backbone="test_efficientnet",
        weights="random",
        size="64x64",
        strides=(8, 16),
        steps=5,
        blocks=2,
        batch_size=64,
    )


@pytest.fixture(scope="session")
def detector(images: list[np.ndarray], settings: Settings) -> Detector:
    """Trained on `images` with `settings`; not to be changed."""
    with pytest.warns(CalibrationWarning):
        return Detector.fit(images, settings, device="cpu")


@pytest.fixture(scope="session")
def tiny_detector(images: list[np.ndarray], tiny: Settings) -> Detector:
    """Trained on `images` with `tiny`; not to be changed."""
    with pytest.warns(CalibrationWarning):
        return Detector.fit(images, tiny, device="cpu")
