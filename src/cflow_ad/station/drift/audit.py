"""Error rates and a threshold from an audit: parts drawn at random, marked blind.

A part is drawn when it is recorded, with a fixed probability that no score or verdict enters, and
is marked by someone who sees neither. Other marks are of parts that were reviewed *because* of
their score. A rate or a threshold from them is wrong: where flagged parts that turn out good join
the calibration set, it fills with high scores, and the threshold creeps up until defects pass.
Only a blind random draw may move the threshold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cflow_ad.scoring.threshold import Calibration, calibrate_thresholds
from cflow_ad.station.drift.intervals import confidence_sequence


@dataclass(frozen=True, slots=True)
class AuditMark:
    """What a person said of a part of the draw, blind, and what the model says."""

    is_anomalous: bool
    is_defective: bool
    """As marked."""


@dataclass(frozen=True, slots=True)
class Rate:
    """A share of audited parts, with an interval that holds at all times at once."""

    count: int
    of: int
    low: float
    high: float

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return asdict(self)


def audit_rates(marks: Sequence[AuditMark], confidence: float = 0.95) -> dict[str, Rate]:
    """Estimate how often verdicts are wrong.

    Each interval is anytime-valid (see `confidence_sequence`).

    Returns:
        false_alarms: of the parts marked good, those found anomalous.
        misses: of the parts marked defective, those found good.
        escapes: of the parts found good, those marked defective.

    >>> marks = [AuditMark(is_anomalous=False, is_defective=False)] * 99
    >>> rates = audit_rates([*marks, AuditMark(is_anomalous=False, is_defective=True)])
    >>> rates["escapes"].count, rates["escapes"].of
    (1, 100)
    """
    return {
        "false_alarms": _rate([m.is_anomalous for m in marks if not m.is_defective], confidence),
        "misses": _rate([not m.is_anomalous for m in marks if m.is_defective], confidence),
        "escapes": _rate([m.is_defective for m in marks if not m.is_anomalous], confidence),
    }


def suggest_threshold(calibration: Calibration, good: Sequence[float]) -> float | None:
    """Set the threshold again, with audited parts beside the images of the calibration.

    Args:
        calibration: of the model.
        good: scores of the audited parts that were marked good.

    Returns:
        The threshold for the calibration's false-alarm rate; None where its scores promise nothing.
    """
    if not calibration.folds:
        return None
    scores = [*calibration.scores, *good]
    rate = calibration.false_alarm_rate
    return calibrate_thresholds(scores, scores, rate, folds=calibration.folds).threshold


def _rate(outcomes: Sequence[bool], confidence: float) -> Rate:
    count, of = sum(outcomes), len(outcomes)
    return Rate(count, of, *confidence_sequence(count, of, confidence))
