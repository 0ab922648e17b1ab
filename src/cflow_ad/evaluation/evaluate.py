"""Evaluate a detector on a data set: what it scores, what it finds, what it calls wrongly.

Nothing here changes the detector, and nothing is chosen by the test images: the threshold in force
is the one stored in the model. The thresholds of best F1 are reported beside it, as what they are.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from cflow_ad.data.fitting import check_fit
from cflow_ad.data.images import ImageSource
from cflow_ad.data.layouts import GOOD, Dataset, Sample
from cflow_ad.data.masks import read_mask
from cflow_ad.errors import DataError, ImageError, SettingsError
from cflow_ad.evaluation.metrics import (
    Confusion,
    PixelMetrics,
    PixelResult,
    ScoreMetrics,
    binomial_interval,
    image_metrics,
)
from cflow_ad.evaluation.reference import ReferenceResult, reference_result, require_whole
from cflow_ad.scoring.image_regions import regions_of
from cflow_ad.scoring.prediction import Prediction

if TYPE_CHECKING:
    from cflow_ad import runtime
    from cflow_ad.detector import Detector


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """What was said of one test image."""

    sample: Sample
    score: float
    is_anomalous: bool
    n_regions: int

    @property
    def is_miss(self) -> bool:
        """A defective image called good."""
        return not self.sample.is_good and not self.is_anomalous

    @property
    def is_false_alarm(self) -> bool:
        """A good image called anomalous."""
        return self.sample.is_good and self.is_anomalous


@dataclass(frozen=True, slots=True)
class DefectResult:
    """The metrics of one defect type against all good images."""

    n_images: int
    image: ScoreMetrics
    pixel: PixelResult | None
    recall: float
    """Share of its images called anomalous at the stored threshold."""


@dataclass(frozen=True, slots=True)
class FalseAlarms:
    """False alarms on good test images, beside what the threshold promises."""

    count: int
    trials: int
    interval: tuple[float, float]
    """95% Clopper-Pearson interval of the rate."""
    promised: float
    """The rate that the calibration allows, in expectation over calibration sets."""

    @property
    def rate(self) -> float:
        """Share of good test images called anomalous; `nan` without any."""
        return self.count / self.trials if self.trials else math.nan


@dataclass(frozen=True)
class Evaluation:
    """Everything measured in one evaluation."""

    dataset: Dataset
    threshold: float
    image: ScoreMetrics
    pixel: PixelResult | None
    """None where no defective image has a mask."""
    per_defect: dict[str, DefectResult]
    confusion: Confusion
    false_alarms: FalseAlarms
    images: tuple[ImageRecord, ...]
    skipped: tuple[tuple[str, str], ...]
    """Path and reason of each image that could not be read."""
    detector: dict[str, Any] = field(repr=False)
    """`Detector.info()`: settings, calibration, versions, fingerprint of the training data."""
    seconds: float
    """Wall time, decoding included."""
    reference: ReferenceResult | None = None
    """The same model scored as the paper's authors do; None where not asked for."""

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON; a metric that is undefined is None."""
        return {
            "dataset": {
                "name": self.dataset.name,
                "layout": self.dataset.layout,
                "notes": list(self.dataset.notes),
                "test_good": sum(record.sample.is_good for record in self.images),
                "test_defect": sum(not record.sample.is_good for record in self.images),
            },
            "image": _scores(self.image),
            "pixel": None if self.pixel is None else _scores(self.pixel),
            "reference": None if self.reference is None else _reference(self.reference),
            "threshold": self.threshold,
            "confusion": {name: getattr(self.confusion, name) for name in ("tp", "fp", "tn", "fn")}
            | {
                name: _finite(getattr(self.confusion, name))
                for name in ("accuracy", "precision", "recall", "false_alarm_rate")
            },
            "false_alarms": {
                "count": self.false_alarms.count,
                "trials": self.false_alarms.trials,
                "rate": _finite(self.false_alarms.rate),
                "interval_95": [_finite(bound) for bound in self.false_alarms.interval],
                "promised": self.false_alarms.promised,
            },
            "per_defect": {
                name: {
                    "n_images": result.n_images,
                    "recall": _finite(result.recall),
                    "image": _scores(result.image),
                    "pixel": None if result.pixel is None else _scores(result.pixel),
                }
                for name, result in self.per_defect.items()
            },
            "images": [
                {
                    "path": str(record.sample.path),
                    "label": record.sample.label,
                    "score": record.score,
                    "is_anomalous": record.is_anomalous,
                    "n_regions": record.n_regions,
                }
                for record in self.images
            ],
            "skipped": [{"path": path, "reason": reason} for path, reason in self.skipped],
            "seconds": self.seconds,
            "detector": self.detector,
        }

    def to_json(self) -> str:
        """`to_dict` as indented JSON."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"


class _Pixels:
    """One `PixelMetrics` for good images and one for each defect type."""

    def __init__(self) -> None:
        self.of: dict[str, PixelMetrics] = {}
        self.with_mask: set[str] = set()

    def add(self, sample: Sample, prediction: Prediction) -> None:
        shape = prediction.anomaly_map.shape
        if sample.is_good:
            mask = np.zeros(shape, dtype=np.bool_)
        elif sample.mask is not None:
            mask = read_mask(sample.mask, (shape[0], shape[1]))
            self.with_mask.add(sample.label)
        else:
            return
        self.of.setdefault(sample.label, PixelMetrics()).update(
            prediction.anomaly_map, mask, prediction.inside
        )

    def result(self, labels: Iterable[str]) -> PixelResult | None:
        """The metrics of these defect types together, against the good images."""
        masked = [label for label in labels if label in self.with_mask]
        if not masked:
            return None
        total = self.of.get(GOOD, PixelMetrics())
        for label in masked:
            total = total + self.of[label]
        return total.compute()


def looking_at(
    detector: Detector | runtime.Detector, dataset: Dataset
) -> Detector | runtime.Detector:
    """A detector that looks at each image of a data set where the data set says, if it says so.

    Raises:
        SettingsError: an image has another region of interest already.
    """
    view = detector.view.with_own(regions_of(dataset))
    if view is detector.view:
        return detector
    looking = copy.copy(detector)
    looking.view = view
    return looking


def evaluate(
    detector: Detector | runtime.Detector,
    dataset: Dataset,
    *,
    batch_size: int = 8,
    skip_unreadable: bool = False,
    reference: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Score every test image of a data set and measure the result.

    Args:
        detector: trained or exported; used as it is, but that it looks at each image where the data
            set says.
        dataset: its `test` images; masks are optional.
        batch_size: as for `Detector.stream`.
        skip_unreadable: list images that cannot be read instead of raising.
        reference: measure the authors' scores too, in a second pass over the images.
        progress: called with the number of images done and the number in all, both passes counted.

    Raises:
        DataError: there are no test images, or one or its mask cannot be used.
        SettingsError: `reference` is asked of an exported model, or of one that does not look at
            whole images; or an image has two regions of interest.
    """
    detector = looking_at(detector, dataset)
    if reference and not hasattr(detector, "log_likelihoods"):
        raise SettingsError(
            "the reference scores need the trained model (.safetensors): an exported one gives no "
            "likelihoods"
        )
    if reference:
        require_whole(detector.view)
    trained = cast("Detector", detector)
    samples = {str(sample.path): sample for sample in dataset.require_test()}
    check_fit(samples.values())
    total = len(samples) * (2 if reference else 1)
    skipped: list[tuple[str, str]] = []

    def skip(source: ImageSource, error: ImageError) -> None:
        skipped.append((str(source), str(error)))
        if progress is not None:
            progress(len(records) + len(skipped), total)

    began = time.perf_counter()
    records: list[ImageRecord] = []
    pixels = _Pixels()
    predictions = detector.stream(
        [sample.path for sample in samples.values()],
        batch_size=batch_size,
        on_error=skip if skip_unreadable else None,
    )
    for prediction in predictions:
        sample = samples[prediction.source]
        records.append(
            ImageRecord(sample, prediction.score, prediction.is_anomalous, len(prediction.regions))
        )
        pixels.add(sample, prediction)
        if progress is not None:
            progress(len(records) + len(skipped), total)
    if not records:
        raise DataError(f"{dataset.root}: none of the {len(samples)} test images could be read")
    by_reference = None
    if reference:
        by_reference = reference_result(
            trained,
            [record.sample for record in records],
            progress=lambda done: progress(len(samples) + done, total) if progress else None,
        )
    return _summarise(
        detector,
        dataset,
        records,
        pixels,
        tuple(skipped),
        by_reference,
        time.perf_counter() - began,
    )


def _summarise(
    detector: Detector | runtime.Detector,
    dataset: Dataset,
    records: Sequence[ImageRecord],
    pixels: _Pixels,
    skipped: tuple[tuple[str, str], ...],
    reference: ReferenceResult | None,
    seconds: float,
) -> Evaluation:
    def metrics_of(some: Sequence[ImageRecord]) -> ScoreMetrics:
        return image_metrics(
            [record.score for record in some], [not record.sample.is_good for record in some]
        )

    good = [record for record in records if record.sample.is_good]
    defects = sorted({record.sample.label for record in records} - {GOOD})
    per_defect = {}
    for defect in defects:
        some = [record for record in records if record.sample.label == defect]
        per_defect[defect] = DefectResult(
            n_images=len(some),
            image=metrics_of(good + some),
            pixel=pixels.result([defect]),
            recall=sum(record.is_anomalous for record in some) / len(some),
        )
    alarms = sum(record.is_false_alarm for record in good)
    return Evaluation(
        dataset=dataset,
        threshold=detector.threshold,
        image=metrics_of(records),
        pixel=pixels.result(defects),
        per_defect=per_defect,
        confusion=Confusion.count(
            [record.is_anomalous for record in records],
            [not record.sample.is_good for record in records],
        ),
        false_alarms=FalseAlarms(
            count=alarms,
            trials=len(good),
            interval=binomial_interval(alarms, len(good)) if good else (math.nan, math.nan),
            promised=detector.calibration.achieved_rate,
        ),
        images=tuple(records),
        skipped=skipped,
        detector=detector.info(),
        seconds=seconds,
        reference=reference,
    )


def _scores(result: ScoreMetrics | PixelResult) -> dict[str, Any]:
    names = ["auroc", "average_precision", "best_f1", "best_f1_threshold"]
    if isinstance(result, PixelResult):
        names += ["aupro", "n_pixels", "n_defect_pixels", "n_regions"]
    return {name: _finite(getattr(result, name)) for name in names}


def _reference(result: ReferenceResult) -> dict[str, Any]:
    return {
        "image": _scores(result.image),
        "pixel": None if result.pixel is None else _scores(result.pixel),
    }


def _finite(value: float) -> float | None:
    return None if math.isnan(value) else value
