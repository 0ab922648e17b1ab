"""Curves and areas of a detector, from counts of good and defective items at each score.

Every function takes `good` and `defect`: the number of good and of defective items with each
distinct score, from the highest score to the lowest. Items of one score are one straight step of a
curve. Counts of images are exact, those of pixels come from a histogram.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Curve:
    """A curve of straight lines, from no item flagged to every item flagged.

    >>> Curve(np.array([0.0, 0.5, 1.0]), np.array([0.0, 1.0, 1.0])).area
    0.75
    """

    x: Floats  #: horizontal positions (n,), never falling
    y: Floats  #: vertical positions (n,)

    @property
    def area(self) -> float:
        """The area under the lines, between the first and the last point."""
        return float(np.trapezoid(self.y, self.x))

    def up_to(self, limit: float) -> Curve:
        """The part left of `limit`, with the last line cut there.

        >>> Curve(np.array([0.0, 1.0]), np.array([0.0, 1.0])).up_to(0.25).y.tolist()
        [0.0, 0.25]
        """
        kept = int(np.searchsorted(self.x, limit, side="right"))
        if kept == 0 or kept == self.x.size:
            return self
        end = np.interp(limit, self.x[kept - 1 : kept + 1], self.y[kept - 1 : kept + 1])
        return Curve(np.append(self.x[:kept], limit), np.append(self.y[:kept], end))

    def thinned(self, points: int = 500) -> Curve:
        """At most `points` of the points, with both ends, evenly spread along the curve."""
        if self.x.size <= points:
            return self
        length = np.cumsum(np.abs(np.diff(self.x, prepend=0)) + np.abs(np.diff(self.y, prepend=0)))
        stops = np.searchsorted(length, np.linspace(length[0], length[-1], points - 1))
        kept = np.unique(np.append(stops, self.x.size - 1))
        return Curve(self.x[kept], self.y[kept])


def roc_curve(good: Counts, defect: Counts) -> Curve:
    """False positive rate (x) against true positive rate (y)."""
    return Curve(_share_above(good), _share_above(defect))


def auroc(good: Counts, defect: Counts) -> float:
    """The area under the ROC curve: how often a defective item is above a good one, ties by half.

    Equal to the curve's area, but rounded once, so that a perfect score gives exactly 1.
    """
    pairs = good.sum(dtype=np.float64) * defect.sum()
    return float(min(np.sum(good * (np.cumsum(defect) - defect / 2)) / pairs, 1.0))


def pro_curve(good: Counts, overlap: Floats) -> Curve:
    """False positive rate (x) against per-region overlap (y), the mean share found of each region.

    `overlap` replaces `defect`: the area of all regions at each score, where each region's total
    area is 1.
    """
    return Curve(_share_above(good), _share_above(overlap))


def precision_recall_curve(good: Counts, defect: Counts) -> Curve:
    """Recall (x) against precision (y), starting at recall 0 with precision 1."""
    hits = np.cumsum(defect)
    precision = hits / (hits + np.cumsum(good))
    return Curve(_share_above(defect), np.concatenate([[1.0], precision]))


def average_precision(good: Counts, defect: Counts) -> float:
    """The mean of precision over recall, by steps as in scikit-learn.

    Interpolated lines would be too optimistic (Davis and Goadrich, "The Relationship Between
    Precision-Recall and ROC Curves", ICML 2006).
    """
    hits = np.cumsum(defect)
    return float(np.sum(defect * (hits / (hits + np.cumsum(good)))) / hits[-1])


def best_f1(good: Counts, defect: Counts) -> tuple[float, int]:
    """The best F1 of any threshold, and the index of the lowest score to flag for it.

    Of several best thresholds, the one that flags the fewest items.
    """
    hits = np.cumsum(defect)
    f1 = 2 * hits / (hits + np.cumsum(good) + hits[-1])
    position = int(np.argmax(f1))
    return float(f1[position]), position


def threshold_between(unflagged: float | None, flagged: float) -> float:
    """A threshold t with `flagged > t` and not `unflagged > t`, in the middle if float32 allows.

    `unflagged` is None if all items are flagged. t is exact in float32 if the scores are: numpy,
    torch and exported models round it to the scores' precision before they compare.

    >>> threshold_between(1.0, 2.0), threshold_between(None, 2.0) < 2.0
    (1.5, True)
    """
    with np.errstate(over="ignore"):
        if unflagged is None:
            return float(np.nextafter(np.float32(flagged), np.float32(-np.inf)))
        middle = float(np.float32(unflagged / 2 + flagged / 2))
    return middle if unflagged <= middle < flagged else unflagged


def _share_above(counts: Counts | Floats) -> Floats:
    """The share of all items at or above each score, from 0 for none to 1 for all."""
    above = np.concatenate([np.zeros(1, counts.dtype), np.cumsum(counts)])
    return np.asarray(above / above[-1], dtype=np.float64)
