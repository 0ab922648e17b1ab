"""A threshold without defects: a conformal quantile of scores of good images.

Each score is given by a model that the image had no part in. With many images, that is the model
itself, and the images are a calibration set that it was not fitted to (split conformal prediction).
With fewer, it is one of several models, each fitted without one fold of the images, while the model
itself is fitted to all of them (cross-fitting). See `fitting.folds`.

If a new good image is exchangeable with the `n` images of a calibration set, its score exceeds the
`k`-th smallest of theirs with probability at most `(n + 1 - k) / (n + 1)`, whatever the
distribution of scores (Vovk et al., Algorithmic Learning in a Random World, 2005; Lei et al., JASA
2018). The threshold is the smallest such score that keeps this at or below the stated rate `a`.

With cross-fitted scores the rate is about the same as long as a model fitted to all images scores a
new one about as one fitted to most of them does. Where the new image is scored by the models of the
folds, it is at most `2 a + sqrt(2 / n)` (Vovk, Annals of Mathematics and Artificial Intelligence,
2015; Barber et al., Predictive inference with the jackknife+, Annals of Statistics, 2021).
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cflow_ad.errors import CalibrationError

MOST = 10_000
"""Images at the most that calibrate, drawn at random: their scores are stored in the model."""

_ROUNDING = 5e-4
"""Relative to a score (at least 1): how far rounding may move it from one machine, number of
threads or GPU batch to another. The threshold lies this much above the score that sets it, so that
the image it was set on is not flipped."""

_LISTS = ("scores", "peaks", "defects")


@dataclass(frozen=True, slots=True)
class Calibration:
    """A threshold, what it promises, and the scores of good images that it comes from."""

    threshold: float
    """An image is anomalous when its score lies above this."""

    map_threshold: float
    """A pixel of an anomalous image is anomalous when the map lies above this: the same quantile,
    of the maxima of the good images' maps."""

    false_alarm_rate: float
    """The share of good images allowed above the threshold, as asked for."""

    achieved_rate: float
    """The share that the number of images allows to promise."""

    folds: int
    """How many models scored the images, none of them one that it was fitted to: 1, the model
    itself; more, models that are not kept; 0, the model was fitted to the images, and nothing is
    promised."""

    scores: tuple[float, ...] = field(repr=False)
    """Of the good images, in rising order."""

    peaks: tuple[float, ...] = field(repr=False)
    """The maxima of their maps, in rising order."""

    defects: tuple[float, ...] = field(default=(), repr=False)
    """The scores of defective images that the threshold was lowered to find, in rising order; see
    `lower_to_find`."""

    @property
    def n_images(self) -> int:
        """Good images the threshold was set on."""
        return len(self.scores)

    @property
    def is_as_asked(self) -> bool:
        """Whether the threshold promises the rate that was asked for."""
        return self.folds > 0 and self.achieved_rate <= self.false_alarm_rate

    def compute_p_value(self, score: float) -> float | None:
        """Compute how probable a score as high as this is for a good image: the share of good
        images, this one among them, that score as high.

        Returns:
            `(1 + m) / (n + 1)` where `m` of the `n` good images score at least as high. It is at
            most `achieved_rate` exactly where the score lies above the threshold. None where the
            model was fitted to the images.

        Example:
            >>> calibration = calibrate_thresholds(range(1, 100), range(1, 100), 0.05)
            >>> calibration.compute_p_value(97.5)  # 98 and 99 are as high
            0.03
        """
        if not self.folds:
            return None
        higher = self.n_images - bisect_left(self.scores, score, key=place_above)
        return (1 + higher) / (self.n_images + 1)

    @property
    def note(self) -> str:
        """What the threshold promises, in a sentence."""
        n, rate = self.n_images, self.false_alarm_rate
        if self.defects:
            of = len(self.defects)
            at_most = 1 - 0.025 ** (1 / of)  # Clopper and Pearson's upper bound for none of n
            scored = f"by {n} good images" if self.folds else "by the training images themselves"
            return (
                f"The threshold lies below the scores of {of} defective image{'s' * (of != 1)}. "
                f"With so few, up to {at_most:.2g} of such defects may be missed (95 % interval). "
                f"About {self.achieved_rate:.2g} of good images score above it, {scored}."
            )
        if not self.folds:
            where = "image itself" if n == 1 else "images themselves"
            return (
                f"The threshold was set on the training {where}: it promises no false-alarm rate, "
                "and good images may well score above it. `cflow-ad calibrate` sets one that does, "
                "on other good images."
            )
        if not self.is_as_asked:
            return (
                f"{n} good image{' is' if n == 1 else 's are'} too few for a false-alarm rate of "
                f"{rate:.3g}: the lowest possible is {self.achieved_rate:.3g}. "
                f"{count_needed(rate)} would allow it."
            )
        if self.folds == 1:
            return (
                f"At most {rate:.3g} of good images score above the threshold, in expectation, by "
                f"{n} good images that the model was not trained on."
            )
        return (
            f"About {rate:.3g} of good images score above the threshold, by {n} good images, each "
            f"scored by a model that was not trained on it."
        )

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        lists = {name: list(getattr(self, name)) for name in _LISTS}
        return {**asdict(self), "n_images": self.n_images, "note": self.note, **lists}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Calibration:
        """From `to_dict`'s form."""
        given = {of.name: values[of.name] for of in fields(cls) if of.name in values}
        return cls(**given | {name: tuple(given[name]) for name in _LISTS if name in given})


def calibrate_thresholds(
    scores: Sequence[float] | NDArray[np.float64],
    peaks: Sequence[float] | NDArray[np.float64],
    false_alarm_rate: float,
    *,
    folds: int = 1,
) -> Calibration:
    """Set the thresholds for a stated false-alarm rate.

    Args:
        scores: of good images, at least one; beyond `MOST`, a random choice of these counts.
        peaks: the maximum of each one's anomaly map.
        false_alarm_rate: between 0 and 1.
        folds: see `Calibration`.

    Raises:
        CalibrationError: there are no scores, or one is not finite.

    Example:
        >>> round(calibrate_thresholds(range(1, 100), range(1, 100), 0.05).threshold)
        95
        >>> ten = range(1, 11)  # 10 images allow 1 in 11
        >>> calibrate_thresholds(ten, ten, 0.01).achieved_rate
        0.0909...
    """
    both = np.array([scores, peaks], np.float64)
    if not both.size or not np.isfinite(both).all():
        raise CalibrationError(
            "a threshold needs at least one good image, and finite scores; check the weights"
        )
    if both.shape[1] > MOST:
        both = np.random.default_rng(0).choice(both, MOST, axis=1, replace=False)
    # Seven digits, about single precision, keep the model's file short.
    both = np.array([[float(f"{value:.7g}") for value in np.sort(of)] for of in both])
    n = both.shape[1]
    # The rounding guards against 0.99 * 100 being a hair above 99.
    k = min(n, math.ceil(round((n + 1) * (1 - false_alarm_rate), 9)))
    threshold, map_threshold = (place_above(float(of[k - 1])) for of in both)
    return Calibration(
        threshold=threshold,
        map_threshold=map_threshold,
        false_alarm_rate=false_alarm_rate,
        achieved_rate=(n + 1 - k) / (n + 1),
        folds=folds,
        scores=tuple(both[0].tolist()),
        peaks=tuple(both[1].tolist()),
    )


def lower_to_find(calibration: Calibration, defects: Sequence[float]) -> Calibration:
    """Lower a threshold below the scores of defective images, so that none of them is missed.

    A threshold that already lies below them stays: a few defects are no reason to raise it. The
    threshold of pixels becomes the quantile of the same rank.

    Args:
        calibration: on good images.
        defects: scores of defective images, at least one.

    Raises:
        CalibrationError: there are no scores, or one is not finite.

    Example:
        >>> before = calibrate_thresholds(range(1, 100), range(1, 100), 0.01)
        >>> after = lower_to_find(before, [90.5, 300])
        >>> round(after.threshold, 1), after.achieved_rate  # 91 to 99 lie above it, 9 of 99
        (90.5, 0.1)
    """
    if not len(defects) or not np.isfinite(defects).all():
        raise CalibrationError("give at least one defective image, with a finite score")
    found = tuple(sorted(float(f"{score:.7g}") for score in defects))
    threshold, map_threshold = calibration.threshold, calibration.map_threshold
    below, n = place_below(found[0]), calibration.n_images
    if below < threshold:
        threshold = below
        k = bisect_right(calibration.scores, threshold, key=place_above)
        peaks = calibration.peaks
        map_threshold = place_above(peaks[k - 1]) if k else place_below(peaks[0])
    above = n - bisect_right(calibration.scores, threshold, key=place_above)
    rate = (1 + above) / (n + 1)
    return replace(
        calibration,
        threshold=threshold,
        map_threshold=map_threshold,
        false_alarm_rate=rate,
        achieved_rate=rate,
        defects=found,
    )


def place_above(score: float) -> float:
    """Return the lowest threshold that rounding does not move a score above."""
    return score + _ROUNDING * max(1.0, abs(score))


def place_below(score: float) -> float:
    """Return the highest threshold that rounding does not move a score below."""
    return score - _ROUNDING * max(1.0, abs(score))


def count_needed(false_alarm_rate: float) -> int:
    """Count the good images that a rate asks for: `1 / rate - 1`, rounded up."""
    return math.ceil(round(1 / false_alarm_rate, 9)) - 1
