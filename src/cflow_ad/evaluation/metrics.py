"""Metrics of detection: exact for images, streaming for pixels.

An item is called anomalous if its score is strictly greater than the threshold, here as everywhere
in this package. Without good or without defective items, metrics are `nan` and curves empty.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cflow_ad.evaluation import curves
from cflow_ad.evaluation.curves import Counts, Curve, Floats
from cflow_ad.evaluation.histogram import ScoreHistogram
from cflow_ad.scoring.components import label_runs

NOTHING = Curve(np.empty(0), np.empty(0))


@dataclass(frozen=True)
class ScoreMetrics:
    """How well scores separate defective items from good ones: images, or pixels."""

    auroc: float  #: chance that a defective item scores above a good one, in [0, 1]
    average_precision: float  #: mean precision over recall, in [0, 1]
    best_f1: float  #: F1 of the threshold that has the best, in (0, 1]
    best_f1_threshold: float  #: the threshold that has it
    roc: Curve  #: false positive rate (x), true positive rate (y)
    precision_recall: Curve  #: recall (x), precision (y)


@dataclass(frozen=True)
class PixelResult(ScoreMetrics):
    """How well anomaly maps separate defective pixels from good ones.

    AUPRO is the area under the per-region overlap curve up to a false positive rate, divided by
    that rate: the mean share found of a defect, where every connected region has the same weight.
    Bergmann et al., "Uninformed Students: Student-Teacher Anomaly Detection with Discriminative
    Latent Embeddings" (CVPR 2020), and, as computed here, "The MVTec Anomaly Detection Dataset"
    (IJCV 2021). Curves are thinned for drawing.
    """

    aupro: float  #: area under the per-region overlap curve, in [0, 1]
    n_pixels: int  #: pixels in all
    n_defect_pixels: int  #: defective pixels
    n_regions: int  #: connected defective regions
    pro: Curve  #: false positive rate (x), up to the limit, per-region overlap (y)


def image_metrics(scores: ArrayLike, is_defect: ArrayLike) -> ScoreMetrics:
    """Compute the metrics of image scores, exactly; ties count as in scikit-learn.

    Args:
        scores: one for each image (n,), higher for more anomalous.
        is_defect: whether each image is defective (n,).

    Raises:
        ValueError: the shapes are not the same (n,), or a score is NaN or infinite.

    >>> metrics = image_metrics([0.1, 0.4, 0.3, 0.8], [False, False, True, True])
    >>> metrics.auroc, metrics.best_f1, 0.1 < metrics.best_f1_threshold < 0.3
    (0.75, 0.8, True)
    """
    score, defect = np.asarray(scores), np.asarray(is_defect, dtype=np.bool_)
    if score.ndim != 1 or score.shape != defect.shape:
        raise ValueError(f"scores {score.shape} and is_defect {defect.shape} must both be (n,)")
    if not np.isfinite(score).all():
        raise ValueError("image scores hold NaN or infinity")
    levels, level = np.unique(-score.astype(np.float64), return_inverse=True)
    defects = np.bincount(level[defect], minlength=levels.size)
    goods = np.bincount(level) - defects
    return _score_metrics(goods, defects, lowest=-levels, highest=-levels)


class PixelMetrics:
    """Pixel metrics of any number of anomaly maps, of any sizes, in a few MB of memory.

    Pixels are counted in a histogram without a fixed range (see `histogram`). Few distinct scores
    are exact. Otherwise bins are about 1e-4 of their scores wide, so that AUROC is within 1e-5 and
    the others within 1e-4 of the exact values; up to 1e-3 where maps span many orders of magnitude
    and most pixels of both kinds fall into a few bins. The result does not depend on the order of
    the maps or on how they are split and merged, except for rounding in AUPRO.

    >>> metrics = PixelMetrics()
    >>> metrics.update([[0.1, 0.2], [0.3, 0.9]], [[False, False], [False, True]])
    >>> metrics.compute().auroc
    1.0
    """

    def __init__(self) -> None:
        self._histogram = ScoreHistogram()
        self._n_regions = 0

    def update(
        self, anomaly_map: ArrayLike, mask: ArrayLike, inside: ArrayLike | None = None
    ) -> None:
        """Count the pixels of one image.

        Args:
            anomaly_map: a score for each pixel (H, W), counted in single precision.
            mask: the pixels that are defective (H, W), none for a good image. Pixels that touch,
                if only at a corner, belong to one region.
            inside: the pixels that count (H, W); unset, all. Of a region that is partly outside,
                the part inside counts.

        Raises:
            ValueError: the shapes are not the same (H, W), or a score is NaN or infinite.
        """
        with np.errstate(over="ignore"):  # a score too large for float32 is reported below
            scores = np.asarray(anomaly_map, dtype=np.float32)
        is_defect = np.asarray(mask, dtype=np.bool_)
        if scores.ndim != 2 or scores.shape != is_defect.shape:
            raise ValueError(
                f"anomaly map {scores.shape} and mask {is_defect.shape} must be of one shape (H, W)"
            )
        if not np.isfinite(scores).all():
            raise ValueError("the anomaly map holds NaN or infinity")
        counted = np.ones_like(is_defect) if inside is None else np.asarray(inside, dtype=np.bool_)
        is_defect = is_defect & counted
        overlap, n_regions = _region_shares(is_defect)
        self._histogram.add(scores[counted], is_defect[counted], overlap)
        self._n_regions += n_regions

    def __add__(self, other: PixelMetrics) -> PixelMetrics:
        """New metrics of the images of both."""
        both = PixelMetrics()
        both._histogram = self._histogram.merge(other._histogram)
        both._n_regions = self._n_regions + other._n_regions
        return both

    def compute(self, fpr_limit: float = 0.3) -> PixelResult:
        """Compute the metrics of all images so far. More may follow.

        Args:
            fpr_limit: the false positive rate up to which AUPRO is integrated, in (0, 1].
                Published numbers use 0.3.

        Raises:
            ValueError: `fpr_limit` is out of range.
        """
        if not 0 < fpr_limit <= 1:
            raise ValueError(f"fpr_limit must be in (0, 1], not {fpr_limit}")
        bins = self._histogram.bins()
        found = _score_metrics(bins.good, bins.defect, bins.lowest, bins.highest)
        n_good, n_defect = int(bins.good.sum()), int(bins.defect.sum())
        pro, aupro = NOTHING, math.nan
        if n_good and n_defect:
            pro = curves.pro_curve(bins.good, bins.overlap).up_to(fpr_limit)
            aupro = min(pro.area / fpr_limit, 1.0)
        common: dict[str, Any] = {
            name: value.thinned() if isinstance(value, Curve) else value
            for name, value in vars(found).items()
        }
        return PixelResult(
            **common,
            aupro=aupro,
            n_pixels=n_good + n_defect,
            n_defect_pixels=n_defect,
            n_regions=self._n_regions,
            pro=pro.thinned(),
        )


@dataclass(frozen=True)
class Confusion:
    """Counts of good and defective items at one threshold. Undefined ratios are `nan`.

    >>> Confusion(tp=3, fp=1, tn=9, fn=1).false_alarm_rate
    0.1
    """

    tp: int  #: defective items called anomalous
    fp: int  #: good items called anomalous
    tn: int  #: good items passed
    fn: int  #: defective items passed

    @classmethod
    def count(cls, is_anomalous: ArrayLike, is_defect: ArrayLike) -> Confusion:
        """Count items called anomalous (n,) against defective items (n,).

        Raises:
            ValueError: the shapes differ.

        >>> Confusion.count([True, True, False], [True, False, False])
        Confusion(tp=1, fp=1, tn=1, fn=0)
        """
        called, defect = np.asarray(is_anomalous, np.bool_), np.asarray(is_defect, np.bool_)
        if called.shape != defect.shape:
            raise ValueError(f"is_anomalous {called.shape} and is_defect {defect.shape} differ")
        tp = int(np.count_nonzero(called & defect))
        fp = int(np.count_nonzero(called)) - tp
        fn = int(np.count_nonzero(defect)) - tp
        return cls(tp=tp, fp=fp, tn=called.size - tp - fp - fn, fn=fn)

    @property
    def accuracy(self) -> float:
        """The share of all items that were called correctly."""
        return _ratio(self.tp + self.tn, self.tp + self.fp + self.tn + self.fn)

    @property
    def precision(self) -> float:
        """The share of items called anomalous that are defective."""
        return _ratio(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float:
        """The share of defective items that were called anomalous."""
        return _ratio(self.tp, self.tp + self.fn)

    @property
    def false_alarm_rate(self) -> float:
        """The share of good items that were called anomalous."""
        return _ratio(self.fp, self.fp + self.tn)


def binomial_interval(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Compute the confidence interval of a rate, from `successes` out of `trials`.

    Exact, after Clopper and Pearson, "The use of confidence or fiducial limits illustrated in the
    case of the binomial" (Biometrika 1934). Without trials it is 0 to 1.

    Raises:
        ValueError: not 0 <= successes <= trials, or `confidence` is not in (0, 1).

    >>> low, high = binomial_interval(0, 100)
    >>> low, round(high, 4)
    (0.0, 0.0362)
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"successes must be in 0..{trials} (trials), not {successes}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in (0, 1), not {confidence}")
    from scipy.stats import beta  # slow to import

    tail = (1 - confidence) / 2
    failures = trials - successes
    low = float(beta.ppf(tail, successes, failures + 1)) if successes else 0.0
    high = float(beta.ppf(1 - tail, successes + 1, failures)) if failures else 1.0
    return low, high


def _score_metrics(
    good: Counts, defect: Counts, lowest: NDArray[np.floating], highest: NDArray[np.floating]
) -> ScoreMetrics:
    """The metrics of counts (n,), each of items in a range of scores (n,), the highest first."""
    if not (good.any() and defect.any()):
        return ScoreMetrics(math.nan, math.nan, math.nan, math.nan, NOTHING, NOTHING)
    f1, last = curves.best_f1(good, defect)
    unflagged = float(highest[last + 1]) if last + 1 < good.size else None
    return ScoreMetrics(
        auroc=curves.auroc(good, defect),
        average_precision=curves.average_precision(good, defect),
        best_f1=f1,
        best_f1_threshold=curves.threshold_between(unflagged, float(lowest[last])),
        roc=curves.roc_curve(good, defect),
        precision_recall=curves.precision_recall_curve(good, defect),
    )


def _region_shares(mask: NDArray[np.bool_]) -> tuple[Floats, int]:
    """For each defective pixel (d,) its share of its region's area, and the number of regions."""
    runs = label_runs(mask)
    area = np.bincount(runs.part, runs.length, runs.n_parts)
    return np.repeat(1 / area[runs.part], runs.length), runs.n_parts


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
