"""Evaluate a detector on a data set with test images.

The detector is used as it is: its thresholds were set on good images, and nothing is chosen on the
test images. The thresholds with the best F1 on them are reported as such.
"""

from __future__ import annotations

import copy
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, cast

import numpy as np

from cflow_ad.data.images import ImageSource
from cflow_ad.data.layouts import GOOD, Dataset, check_masks
from cflow_ad.data.masks import read_mask
from cflow_ad.errors import DataError, ImageError, SettingsError
from cflow_ad.evaluation.evaluation import DefectResult, Evaluation, FalseAlarms, ImageRecord
from cflow_ad.evaluation.metrics import (
    Confusion,
    PixelMetrics,
    PixelResult,
    ScoreMetrics,
    binomial_interval,
    image_metrics,
)
from cflow_ad.evaluation.reference import compute_reference, require_whole
from cflow_ad.evaluation.tradeoff import compute_tradeoff
from cflow_ad.fitting.group import ALONE, Group
from cflow_ad.fitting.trained_images import recognise_trained
from cflow_ad.scoring.base import BaseDetector
from cflow_ad.scoring.image_regions import regions_of

if TYPE_CHECKING:
    from cflow_ad.detector import Detector


def with_regions(detector: BaseDetector, dataset: Dataset) -> BaseDetector:
    """A detector with the regions of interest that a data set gives its images, if any.

    Raises:
        SettingsError: an image has another region of interest already.
    """
    view = detector.view.with_own(regions_of(dataset))
    if view is detector.view:
        return detector
    other = copy.copy(detector)
    other.view = view
    return other


def evaluate(
    detector: BaseDetector,
    dataset: Dataset,
    *,
    batch_size: int = 32,
    skip_unreadable: bool = False,
    reference: bool = False,
    group: Group = ALONE,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Score all test images of a data set and compute the metrics.

    Args:
        detector: trained or exported; it is not changed.
        dataset: its `test` images, with their regions of interest; masks are optional.
        batch_size: as for `Detector.stream`.
        skip_unreadable: list images that cannot be read instead of raising.
        reference: compute the scores of the paper's code too, in a second pass over the images.
        group: the processes that share the images; all return the same evaluation.
        progress: called with the number of images done and the number of all of this process, in
            both passes.

    Raises:
        DataError: there are no test images, or an image or its mask cannot be used.
        SettingsError: `reference` with an exported model, with one that does not score whole
            images, or in several processes; or an image has two regions of interest.
    """
    detector = with_regions(detector, dataset)
    if reference and not hasattr(detector, "log_likelihoods"):
        raise SettingsError(
            "the reference scores need the trained model (.safetensors): an exported one gives no "
            "likelihoods"
        )
    if reference:
        require_whole(detector.view)
        group.require_alone("the score of the paper's code")
    samples = {str(sample.path): sample for sample in dataset.require_test()}
    check_masks(samples.values())
    own = group.part(list(samples.values()))
    total = len(own) * (2 if reference else 1)
    skipped: list[tuple[str, str]] = []

    def skip(source: ImageSource, error: ImageError) -> None:
        skipped.append((str(source), str(error)))
        progress(len(records) + len(skipped), total)

    began = time.perf_counter()
    records: list[ImageRecord] = []
    pixels: dict[str, PixelMetrics] = defaultdict(PixelMetrics)  # by label, where there are masks
    predictions = detector.stream(
        [sample.path for sample in own],
        batch_size=batch_size,
        on_error=skip if skip_unreadable else None,
    )
    for prediction in predictions:
        sample = samples[prediction.source]
        records.append(
            ImageRecord(sample, prediction.score, prediction.is_anomalous, len(prediction.regions))
        )
        if sample.is_good or sample.mask is not None:
            shape = prediction.anomaly_map.shape
            mask = read_mask(sample.mask, shape) if sample.mask else np.zeros(shape, np.bool_)
            pixels[sample.label].update(prediction.anomaly_map, mask, prediction.inside)
        progress(len(records) + len(skipped), total)
    parts = group.gather((records, skipped, pixels))
    records = [record for part, _, _ in parts for record in part]
    skipped = [pair for _, part, _ in parts for pair in part]
    pixels = defaultdict(PixelMetrics)
    for _, _, part in parts:
        for label, of_label in part.items():
            pixels[label] += of_label
    if not records:
        raise DataError(f"{dataset.root}: none of the {len(samples)} test images could be read")
    by_reference = None
    if reference:
        by_reference = compute_reference(
            cast("Detector", detector),
            [record.sample for record in records],
            progress=lambda done: progress(len(samples) + done, total),
        )

    def against_good(labels: Iterable[str]) -> PixelResult | None:
        masked = [pixels[label] for label in labels if label in pixels]
        return sum(masked, pixels[GOOD]).compute() if masked else None

    good = [record for record in records if record.sample.is_good]
    calibration, about = detector.calibration, detector.info()
    training = about["training"]
    per_defect = {}
    for defect in sorted({record.sample.label for record in records} - {GOOD}):
        some = [record for record in records if record.sample.label == defect]
        per_defect[defect] = DefectResult(
            n_images=len(some),
            image=_image_metrics(good + some),
            pixel=against_good([defect]),
            recall=sum(record.is_anomalous for record in some) / len(some),
        )
    n_alarms = sum(record.is_false_alarm for record in good)
    return Evaluation(
        dataset=dataset,
        threshold=calibration.threshold,
        map_threshold=calibration.map_threshold,
        image=_image_metrics(records),
        pixel=against_good(per_defect),
        per_defect=per_defect,
        confusion=Confusion.count(
            [record.is_anomalous for record in records],
            [not record.sample.is_good for record in records],
        ),
        false_alarms=FalseAlarms(
            count=n_alarms,
            trials=len(good),
            interval=binomial_interval(n_alarms, len(good)) if good else (math.nan, math.nan),
            promised=calibration.achieved_rate if calibration.folds else math.nan,
        ),
        tradeoff=compute_tradeoff(
            [record.score for record in good],
            [(r.score, str(r.sample.path)) for r in records if not r.sample.is_good],
        ),
        images=tuple(records),
        trained_on=tuple(
            str(path) for path in recognise_trained(training, [r.sample.path for r in records])
        ),
        skipped=tuple(skipped),
        detector={**about, "training": {k: v for k, v in training.items() if k != "hashes"}},
        seconds=time.perf_counter() - began,
        reference=by_reference,
    )


def _image_metrics(records: Sequence[ImageRecord]) -> ScoreMetrics:
    return image_metrics([r.score for r in records], [not r.sample.is_good for r in records])
