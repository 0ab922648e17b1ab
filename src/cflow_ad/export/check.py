"""What an exported model is compared on, and how far it is from the trained one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cflow_ad.data.carpet import photograph, weave
from cflow_ad.data.images import ImageSource, image_shape
from cflow_ad.data.layouts import Dataset
from cflow_ad.detector import Detector
from cflow_ad.errors import DataError
from cflow_ad.evaluation.evaluate import Evaluation, evaluate
from cflow_ad.runtime.detector import Detector as RuntimeDetector
from cflow_ad.scoring.canvas import Shape
from cflow_ad.scoring.loading import load_batches
from cflow_ad.scoring.prediction import Prediction
from cflow_ad.scoring.threshold import Calibration, conformal_calibration, split_good
from cflow_ad.scoring.view import View

Report = Callable[[int, int], None]

_MOST_COMPARED = 32
"""Good images, and test images, that are compared one by one."""

_MOST_CALIBRATING = 128
"""Images that the ranges of activations are taken from."""


@dataclass(frozen=True)
class Material:
    """Images for the three uses, none of which shares an image with another's purpose."""

    compared: Sequence[ImageSource]
    """Good images, or generated ones, and some test images."""
    n_good: int
    """How many of `compared`, from the first, are good."""
    calibrating: Sequence[ImageSource] = ()
    """Good images for the ranges of int8."""
    held_out: Sequence[ImageSource] = ()
    """Good images for the threshold; of the training set's, those held out of training."""
    labelled: Dataset | None = None
    """With test images of which some are defective."""

    def calibration_pixels(self, view: View) -> Iterator[NDArray[np.float32]]:
        """Canvases one at a time, shape `(1, H, W, 3)`."""
        for batch in load_batches(self.calibrating, view, batch_size=1):
            yield batch.pixels.astype(np.float32, copy=False)


@dataclass(frozen=True, slots=True)
class Change:
    """How an exported model differs from the trained one; scores relative to at least 1."""

    n_images: int
    generated: bool
    """Whether the images were made up, since none were given."""
    largest: float
    """Of any score or pixel of a map."""
    mean: float
    """Of the scores of good images, or of generated ones."""
    flipped: int
    """Images judged differently."""
    auroc: tuple[tuple[str, float, float], ...] = field(default=())
    """Name, of the trained and of the exported model: of images, and of pixels if there are masks;
    empty where no defects are labelled, and at fp32."""


def gather(detector: Detector, data: Dataset | None, canvas: Shape | None) -> Material:
    """Choose the images.

    Args:
        detector: as trained.
        data: good images, perhaps with test images.
        canvas: the only one that the graph takes; images of another are left out.

    Raises:
        DataError: none of the images fit.
    """
    sizing = detector.settings.sizing
    if data is None:
        made = _generated(canvas or (sizing.height, sizing.width))
        return Material(made, len(made))

    def fits(source: ImageSource) -> bool:
        return canvas is None or sizing.canvas_shape(image_shape(source)) == canvas

    # The split that training made, where these are its images: the threshold must not be set on
    # images that the model or its ranges have seen.
    settings = detector.settings
    good: list[ImageSource] = [sample.path for sample in data.require_train()]
    split = split_good(len(good), settings.calibration_fraction, settings.seed)
    seen, held_out = ([good[i] for i in part if fits(good[i])] for part in split)
    if not seen:
        raise DataError(
            f"{data.root}: none of its images comes to the size of the export; "
            "give --size dynamic, or other images"
        )
    test: list[ImageSource] = [s.path for s in data.test if fits(s.path)]
    compared = _spread(held_out or seen, _MOST_COMPARED)
    defects = any(not sample.is_good for sample in data.test)
    return Material(
        compared=[*compared, *_spread(test, _MOST_COMPARED)],
        n_good=len(compared),
        calibrating=_spread(seen, _MOST_CALIBRATING),
        held_out=held_out,
        labelled=data if defects and len(test) == len(data.test) else None,
    )


def recalibrated(
    exported: RuntimeDetector, material: Material, detector: Detector, report: Report
) -> Calibration:
    """The threshold for the exported model's own scores, at the rate that was asked in training."""
    scores = []
    for prediction in exported.stream(material.held_out):
        scores.append(prediction.score)
        report(len(scores), len(material.held_out))
    return conformal_calibration(scores, detector.settings.false_alarm_rate)


def compare(
    detector: Detector,
    exported: RuntimeDetector,
    material: Material,
    *,
    with_auroc: bool,
    generated: bool,
    report: Report,
) -> Change:
    """Run both on the same images."""
    pairs = zip(detector.stream(material.compared), exported.stream(material.compared), strict=True)
    largest, flipped, of_scores = 0.0, 0, []
    for ours, theirs in pairs:
        of_score, of_map = _difference(ours, theirs)
        of_scores.append(of_score)
        largest = max(largest, of_score, of_map)
        flipped += ours.is_anomalous != theirs.is_anomalous
        report(len(of_scores), len(material.compared))
    auroc: list[tuple[str, float, float]] = []
    if with_auroc and material.labelled is not None:
        before = evaluate(detector, material.labelled)
        after = evaluate(exported, material.labelled)
        auroc = _aurocs(before, after)
    return Change(
        n_images=len(of_scores),
        generated=generated,
        largest=largest,
        mean=float(np.mean(of_scores[: material.n_good])),
        flipped=flipped,
        auroc=tuple(auroc),
    )


def _difference(ours: Prediction, theirs: Prediction) -> tuple[float, float]:
    unit = max(1.0, ours.score)
    of_map = float(np.abs(ours.anomaly_map - theirs.anomaly_map).max())
    return abs(ours.score - theirs.score) / unit, of_map / unit


def _aurocs(before: Evaluation, after: Evaluation) -> list[tuple[str, float, float]]:
    found = [("image", before.image.auroc, after.image.auroc)]
    if before.pixel is not None and after.pixel is not None:
        found.append(("pixel", before.pixel.auroc, after.pixel.auroc))
    return found


def _spread(items: Sequence[Any], most: int) -> list[Any]:
    """At most so many, evenly over all."""
    chosen = np.unique(np.linspace(0, len(items) - 1, min(most, len(items))).round().astype(int))
    return [items[i] for i in chosen] if items else []


def _generated(shape: Shape) -> list[ImageSource]:
    """Carpet, carpet with a hole, and noise, of the shape given."""
    rng = np.random.default_rng(0)
    height, width = shape
    images: list[ImageSource] = []
    for _ in range(3):
        carpet = photograph(weave(rng, max(height, width, 64)), rng)[:height, :width]
        torn = carpet.copy()
        torn[height // 3 : height // 2, width // 3 : width // 2] = 0
        images += [np.ascontiguousarray(carpet), torn]
    images.append(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    return images
