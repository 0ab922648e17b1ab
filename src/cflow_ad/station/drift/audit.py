"""Error rates and thresholds from an audit: parts drawn at random, marked blind.

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

from cflow_ad.errors import CalibrationError
from cflow_ad.scoring.threshold import Calibration, calibrate_thresholds
from cflow_ad.station.drift.intervals import confidence_sequence


@dataclass(frozen=True, slots=True)
class AuditMark:
    """What a person said of a part, and what the model had said."""

    score: float
    is_anomalous: bool
    is_defective: bool
    """As marked."""

    blind: bool
    """Whether the part was drawn at random when it was recorded, and marked without sight of score,
    verdict and map."""

    peak: float = 0.0
    """The maximum of its anomaly map."""


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
    """Estimate how often verdicts are wrong, from the blind marks alone.

    Each interval is anytime-valid (see `confidence_sequence`).

    Returns:
        false_alarms: of the parts marked good, those found anomalous.
        misses: of the parts marked defective, those found good.
        escapes: of the parts found good, those marked defective.

    >>> marks = [AuditMark(1.0, False, False, blind=True)] * 99
    >>> rates = audit_rates([*marks, AuditMark(1.0, False, True, blind=True)])
    >>> rates["escapes"].count, rates["escapes"].of
    (1, 100)
    """
    blind = [mark for mark in marks if mark.blind]
    return {
        "false_alarms": _rate([m.is_anomalous for m in blind if not m.is_defective], confidence),
        "misses": _rate([not m.is_anomalous for m in blind if m.is_defective], confidence),
        "escapes": _rate([m.is_defective for m in blind if not m.is_anomalous], confidence),
    }


def threshold_from_audit(marks: Sequence[AuditMark], false_alarm_rate: float) -> Calibration:
    """Set the threshold on the audited parts that were marked good.

    Args:
        marks: all of them blind, at least one of a good part.
        false_alarm_rate: between 0 and 1.

    Raises:
        CalibrationError: a mark is not blind, or none is of a good part.
    """
    if not all(mark.blind for mark in marks):
        raise CalibrationError(
            "a mark is not of a blind random draw; only those may move the threshold"
        )
    good = [mark for mark in marks if not mark.is_defective]
    if not good:
        raise CalibrationError("no audited part is marked good; mark the audit's queue first")
    return calibrate_thresholds(
        [mark.score for mark in good], [mark.peak for mark in good], false_alarm_rate
    )


def _rate(outcomes: Sequence[bool], confidence: float) -> Rate:
    count, of = sum(outcomes), len(outcomes)
    return Rate(count, of, *confidence_sequence(count, of, confidence))
