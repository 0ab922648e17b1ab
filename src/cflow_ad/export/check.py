"""Calibrate an exported model, and compare it with the trained one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cflow_ad.data.carpet import photograph, weave
from cflow_ad.data.images import ImageSource, image_shape
from cflow_ad.data.layouts import Dataset
from cflow_ad.detector import Detector
from cflow_ad.errors import DataError
from cflow_ad.evaluation.evaluate import evaluate
from cflow_ad.fitting.folds import split_good
from cflow_ad.runtime.detector import Detector as RuntimeDetector
from cflow_ad.scoring.canvas import Shape
from cflow_ad.scoring.threshold import Calibration, calibrate_thresholds
from cflow_ad.scoring.view import View

Progress = Callable[[int, int], None]

_MOST_COMPARED = 32
"""Good images, and defective ones, that are compared one by one."""

_MOST_RANGES = 128
"""Images that the ranges of activations are taken from."""

_SIDE = 384
"""The longest side of generated images."""


@dataclass(frozen=True, slots=True)
class Material:
    """Images for three uses; those that set the threshold have no part in anything else before."""

    view: View
    """Prepares them."""
    compared: Sequence[ImageSource]
    """Unseen good images, those of training where there are no others, or generated ones; then some
    defective ones."""
    n_good: int
    """How many of `compared`, from the first, are good."""
    ranges: Sequence[ImageSource] = ()
    """Good images that the ranges of int8 are taken from."""
    unseen: Sequence[ImageSource] = ()
    """Good images for the thresholds, which neither the model nor the ranges were fitted to."""
    labelled: Dataset | None = None
    """With test images of which some are defective."""


@dataclass(frozen=True, slots=True)
class Change:
    """How an exported model differs from the trained one; scores relative to at least 1."""

    n_images: int
    generated: bool
    """Whether the images were generated, since none were given."""
    largest: float
    """The largest, of any score or pixel of a map."""
    mean: float
    """The mean, of the scores of good images, or of generated ones."""
    flipped: int
    """Images that change between good and anomalous."""
    auroc: tuple[tuple[str, float, float], ...] = ()
    """`image` or `pixel`, and the AUROC of the trained and of the exported model; `pixel` only
    with masks. Empty where no defects are labelled, and at fp32."""


def gather(
    detector: Detector, data: Dataset | None, canvas: Shape | None, *, needs_ranges: bool
) -> Material:
    """Choose the images that an export is calibrated and compared with.

    Ranges are taken from images that the model was trained on; where it was trained on none of
    these, from a part of them.

    Args:
        detector: as trained.
        data: good images, perhaps with test images; None to generate some.
        canvas: the only one that the graph takes; images of another are left out.
        needs_ranges: whether ranges are taken.

    Raises:
        DataError: none of the images fit, or one cannot be used.
        SettingsError: the images have two regions of interest.
    """
    sizing = detector.settings.sizing
    if data is None:
        # Of the shape of most images of training, for which some runtimes have a program.
        height, width = detector.training.get("canvas", (sizing.height, sizing.width))
        factor = min(1.0, _SIDE / max(height, width))
        made = _generated(canvas or (round(height * factor), round(width * factor)))
        # The region of interest and the reference are those of other images.
        return Material(View(sizing=sizing), made, len(made))

    def fits(source: ImageSource) -> bool:
        if canvas is None:
            return True
        return sizing.canvas_shape(image_shape(source, detector.reading)) == canvas

    good, ranges, unseen = detector.split(data)
    if needs_ranges and not ranges:
        if len(unseen) == 1:
            ranges, unseen = unseen, []
        else:
            unseen, ranges = split_good(len(unseen), 1, detector.settings.seed)[0]
    seen, new = (
        [good.sources[i] for i in part if fits(good.sources[i])] for part in (ranges, unseen)
    )
    if not (seen if needs_ranges else seen or new):
        raise DataError(
            f"{data.root}: no good image to take ranges from or to compare with has the size of "
            "the export; give --size dynamic, or other images"
        )
    test = [sample for sample in data.test if fits(sample.path)]
    tested: list[ImageSource] = [sample.path for sample in test if sample.is_good]
    defective: list[ImageSource] = [sample.path for sample in test if not sample.is_good]
    # A memory gives images that it holds vectors of hardly any score, so there is none to change.
    compared = _spread(new or tested or seen, _MOST_COMPARED)
    defects = any(not sample.is_good for sample in data.test)
    return Material(
        detector.view.with_own(good.regions),
        compared=[*compared, *_spread(defective, _MOST_COMPARED)],
        n_good=len(compared),
        ranges=_spread(seen, _MOST_RANGES),
        unseen=new,
        labelled=data if defects and len(test) == len(data.test) else None,
    )


def recalibrate(
    exported: RuntimeDetector, material: Material, detector: Detector, progress: Progress
) -> Calibration:
    """Set the thresholds to the scores that a model exported below single precision gives unseen
    images, for the false-alarm rate of the model's settings.
    """
    scores, peaks = [], []
    for prediction in exported.stream(material.unseen):
        scores.append(prediction.score)
        peaks.append(float(prediction.anomaly_map.max()))
        progress(len(scores), len(material.unseen))
    return calibrate_thresholds(scores, peaks, detector.settings.false_alarm_rate)


def compare(
    detector: Detector,
    exported: RuntimeDetector,
    material: Material,
    *,
    with_auroc: bool,
    generated: bool,
    progress: Progress,
) -> Change:
    """Run both models on the same images."""
    pairs = zip(detector.stream(material.compared), exported.stream(material.compared), strict=True)
    largest, flipped, of_scores = 0.0, 0, []
    for ours, theirs in pairs:
        unit = max(1.0, ours.score)
        of_scores.append(abs(ours.score - theirs.score) / unit)
        of_map = float(np.abs(ours.anomaly_map - theirs.anomaly_map).max()) / unit
        largest = max(largest, of_scores[-1], of_map)
        flipped += ours.is_anomalous != theirs.is_anomalous
        progress(len(of_scores), len(material.compared))
    auroc: list[tuple[str, float, float]] = []
    if with_auroc and material.labelled is not None:
        before, after = (evaluate(model, material.labelled) for model in (detector, exported))
        auroc = [("image", before.image.auroc, after.image.auroc)]
        if before.pixel is not None and after.pixel is not None:
            auroc.append(("pixel", before.pixel.auroc, after.pixel.auroc))
    return Change(
        n_images=len(of_scores),
        generated=generated,
        largest=largest,
        mean=float(np.mean(of_scores[: material.n_good])),
        flipped=flipped,
        auroc=tuple(auroc),
    )


def _spread(items: Sequence[Any], most: int) -> list[Any]:
    """Choose at most `most` items, evenly spread over all."""
    chosen = np.unique(np.linspace(0, len(items) - 1, min(most, len(items))).round().astype(int))
    return [items[i] for i in chosen] if items else []


def _generated(shape: Shape) -> list[ImageSource]:
    """Generate carpet, carpet with a hole, and noise."""
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
