"""What a threshold costs and finds: misses against false alarms, for every threshold that matters.

Only thresholds just below the score of a defective image matter: between two of them the same
defects are found, and the highest has the fewest false alarms. Intervals are exact, after Clopper
and Pearson; see `metrics.binomial_interval`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cflow_ad.evaluation.metrics import binomial_interval
from cflow_ad.scoring.threshold import place_below


@dataclass(frozen=True, slots=True)
class Operation:
    """One threshold, and what it finds of some images."""

    threshold: float
    found: int
    """Defective images with a score above it."""
    found_interval: tuple[float, float]
    """95 % interval of the share of defective images found."""
    alarms: int
    """Good images with a score above it."""
    alarm_interval: tuple[float, float]
    """95 % interval of the share of good images."""


@dataclass(frozen=True, slots=True)
class Tradeoff:
    """Misses against false alarms, of `n_defects` defective and `n_good` good images."""

    n_defects: int
    n_good: int
    lowest: float
    """The lowest score of a defective image."""
    lowest_image: str
    """The path of that image."""
    operations: tuple[Operation, ...]
    """The first finds all defective images; each other finds fewer, with a higher threshold."""

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain values, for JSON."""
        fields = ("threshold", "found", "alarms")
        return {
            "defective_images": self.n_defects,
            "good_images": self.n_good,
            "lowest_defective_score": self.lowest,
            "lowest_defective_image": self.lowest_image,
            "thresholds": [
                {name: getattr(at, name) for name in fields}
                | {
                    "found_interval_95": list(at.found_interval),
                    "alarm_interval_95": list(at.alarm_interval),
                }
                for at in self.operations
            ],
        }


def compute_tradeoff(
    good: Sequence[float], defective: Sequence[tuple[float, str]]
) -> Tradeoff | None:
    """Compute the trade-off.

    Args:
        good: scores of good images.
        defective: score and path of each defective image.

    Returns:
        None without defective images.

    Example:
        >>> of = compute_tradeoff([0.1, 0.2, 0.6], [(0.5, "a.png"), (0.9, "b.png")])
        >>> [(at.found, at.alarms) for at in of.operations]
        [(2, 1), (1, 0)]
    """
    if not defective:
        return None
    goods = np.sort(np.asarray(good, np.float64))
    scores = np.sort(np.array([score for score, _ in defective], np.float64))
    operations = [_operate(place_below(float(score)), goods, scores) for score in np.unique(scores)]
    lowest, image = min(defective)
    return Tradeoff(len(scores), len(goods), lowest, image, tuple(operations))


def select_operations(tradeoff: Tradeoff, most: int = 8) -> list[Operation]:
    """Choose operations to print: those with the fewest misses that each save false alarms."""
    chosen: list[Operation] = []
    for at in tradeoff.operations:
        if not chosen or at.alarms < chosen[-1].alarms:
            chosen.append(at)
    return chosen[:most]


def _operate(threshold: float, goods: Any, scores: Any) -> Operation:
    found = int(len(scores) - np.searchsorted(scores, threshold, side="right"))
    alarms = int(len(goods) - np.searchsorted(goods, threshold, side="right"))
    without = (math.nan, math.nan)
    return Operation(
        threshold,
        found,
        binomial_interval(found, len(scores)),
        alarms,
        binomial_interval(alarms, len(goods)) if len(goods) else without,
    )
