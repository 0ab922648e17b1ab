"""Make the golden model and its scores anew: `python -m tests.golden.make`, from the root."""

from __future__ import annotations

import warnings

import torch

from cflow_ad import CalibrationWarning, Detector, Settings
from cflow_ad.method import Method
from tests.golden.images import MODEL, golden_images, good_images, write_scores


def main() -> None:
    """Train, save, score."""
    torch.set_num_threads(1)
    settings = Settings(
        backbone="test_efficientnet",
        weights="random",
        size="64x64",
        strides=(8, 16),
        bits=16,
        steps=30,
        smoothing=2.0,
        false_alarm_rate=0.08,
        # Of the first level some components are left out, of the second none.
        method=Method(components=48, blocks=2, position_channels=32, average=(16,)),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CalibrationWarning)
        detector = Detector.fit(good_images(60), settings, device="cpu")
    detector.save(MODEL, bundle=True)
    images = golden_images()
    predictions = detector.stream(images.values())
    scores = {name: p.score for name, p in zip(images, predictions, strict=True)}
    write_scores(scores)
    print(f"threshold {detector.threshold:.3f}", *scores.items(), sep="\n")


if __name__ == "__main__":
    main()
