"""The results of an evaluation."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from typing import Any

from cflow_ad.data.layouts import Dataset, Sample
from cflow_ad.evaluation.curves import Curve
from cflow_ad.evaluation.metrics import Confusion, PixelResult, ScoreMetrics
from cflow_ad.evaluation.reference import ReferenceResult
from cflow_ad.evaluation.tradeoff import Tradeoff


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """The result for one test image."""

    sample: Sample
    score: float
    is_anomalous: bool
    n_regions: int

    @property
    def is_miss(self) -> bool:
        """Whether a defective image was called good."""
        return not self.sample.is_good and not self.is_anomalous

    @property
    def is_false_alarm(self) -> bool:
        """Whether a good image was called anomalous."""
        return self.sample.is_good and self.is_anomalous


@dataclass(frozen=True, slots=True)
class DefectResult:
    """The metrics of one defect type against all good images."""

    n_images: int
    image: ScoreMetrics
    pixel: PixelResult | None
    """None where none of its images has a mask."""
    recall: float
    """Share of its images called anomalous at the stored threshold."""


@dataclass(frozen=True, slots=True)
class FalseAlarms:
    """False alarms on good test images, beside the rate that the calibration promises."""

    count: int
    trials: int
    interval: tuple[float, float]
    """95% Clopper-Pearson interval of the rate."""
    promised: float
    """The rate that the calibration promises; `nan` where training images set the threshold."""

    @property
    def rate(self) -> float:
        """Share of good test images called anomalous; `nan` without any."""
        return self.count / self.trials if self.trials else math.nan


@dataclass(frozen=True)
class Evaluation:
    """All results of one evaluation."""

    dataset: Dataset
    threshold: float
    """Of images, as stored in the model."""
    map_threshold: float
    """Of pixels, as stored in the model."""
    image: ScoreMetrics
    """Of the images' scores."""
    pixel: PixelResult | None
    """Of the anomaly maps; None where no defective image has a mask."""
    per_defect: dict[str, DefectResult]
    confusion: Confusion
    """Of images, at `threshold`."""
    false_alarms: FalseAlarms
    tradeoff: Tradeoff | None
    """Misses against false alarms at other thresholds; None without defective images."""
    images: tuple[ImageRecord, ...]
    trained_on: tuple[str, ...]
    """Paths of test images that the model was trained on, by their content."""
    skipped: tuple[tuple[str, str], ...]
    """Path and reason of each image that could not be read."""
    detector: dict[str, Any] = field(repr=False)
    """`Detector.info()` without the hashes of images: settings, calibration, versions and more."""
    seconds: float
    """Wall time, including decoding."""
    reference: ReferenceResult | None = None
    """The same model scored as the paper's code does; None unless asked for."""

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain values, for JSON; an undefined metric is None."""
        alarms = self.false_alarms
        ratios = ("accuracy", "precision", "recall", "false_alarm_rate")
        values = {
            "dataset": {
                "name": self.dataset.name,
                "layout": self.dataset.layout,
                "notes": self.dataset.notes,
                "test_good": alarms.trials,
                "test_defect": len(self.images) - alarms.trials,
            },
            "image": self.image,
            "pixel": self.pixel,
            "reference": self.reference,
            "threshold": self.threshold,
            "map_threshold": self.map_threshold,
            "confusion": dataclasses.asdict(self.confusion)
            | {name: getattr(self.confusion, name) for name in ratios},
            "false_alarms": {
                "count": alarms.count,
                "trials": alarms.trials,
                "rate": alarms.rate,
                "interval_95": alarms.interval,
                "promised": alarms.promised,
            },
            "tradeoff": self.tradeoff and self.tradeoff.to_dict(),
            "per_defect": self.per_defect,
            "images": [
                {"path": str(record.sample.path), "label": record.sample.label}
                | {name: getattr(record, name) for name in ("score", "is_anomalous", "n_regions")}
                for record in self.images
            ],
            "trained_on": self.trained_on,
            "skipped": [{"path": path, "reason": reason} for path, reason in self.skipped],
            "seconds": self.seconds,
        }
        return {**_plain(values), "detector": self.detector}

    def to_json(self) -> str:
        """Convert to indented JSON; see `to_dict`."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    """Convert to plain values: results to dictionaries without their curves, what is undefined to
    None.
    """
    if dataclasses.is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {k: _plain(each) for k, each in value.items() if not isinstance(each, Curve)}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value
