"""A threshold without defects: split-conformal calibration on a calibration set of good images.

If a new good image is exchangeable with the `n` images of the calibration set, its score exceeds
the `k`-th smallest of theirs with probability at most `(n + 1 - k) / (n + 1)`, whatever the
distribution of scores (Vovk et al., Algorithmic Learning in a Random World, 2005; Lei et al., JASA
2018). The threshold is the smallest such score that keeps this at or below the stated rate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cflow_ad.errors import CalibrationError

_ROUNDING = 5e-4
"""Relative to a score (at least 1): how far rounding may move it from one machine, number of
threads or GPU batch to another. The threshold lies this much above the score that sets it, so that
the image it was set on is not flipped."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """A threshold and what it promises."""

    threshold: float
    """An image is anomalous when its score lies above this."""

    map_threshold: float
    """A pixel of an anomalous image is anomalous when the map lies above this: the same quantile,
    of the maxima of the good images' maps."""

    false_alarm_rate: float
    """The share of good images allowed above the threshold, as asked for."""

    achieved_rate: float
    """The share that the number of images allows to promise."""

    n_images: int
    """Good images the threshold was set on."""

    held_out: bool
    """Whether they were kept out of training; without that nothing is promised."""

    @property
    def is_as_asked(self) -> bool:
        """Whether the threshold promises the rate that was asked for."""
        return self.held_out and self.achieved_rate <= self.false_alarm_rate

    @property
    def note(self) -> str:
        """What the threshold promises, in a sentence."""
        if not self.held_out:
            where = "image itself" if self.n_images == 1 else "images themselves"
            return (
                f"The threshold was set on the training {where}, because there is no calibration "
                "set: it promises no false-alarm rate, and good images may well score above it. "
                "`cflow-ad calibrate` sets one that does, on other good images."
            )
        if not self.is_as_asked:
            needed = images_needed(self.false_alarm_rate)
            there = "image is" if self.n_images == 1 else "images are"
            return (
                f"{self.n_images} held-out good {there} too few for a false-alarm rate of "
                f"{self.false_alarm_rate:.3g}: the lowest possible is {self.achieved_rate:.3g}. "
                f"{needed} held-out images would allow it."
            )
        return (
            f"At most {self.false_alarm_rate:.3g} of good images score above the threshold, in "
            f"expectation, by {self.n_images} held-out good images."
        )

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return asdict(self) | {"note": self.note}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Calibration:
        """From `to_dict`'s form."""
        return cls(**{k: v for k, v in values.items() if k != "note"})


def calibrate_thresholds(
    scores: Sequence[float],
    peaks: Sequence[float],
    false_alarm_rate: float,
    *,
    held_out: bool = True,
) -> Calibration:
    """Set the threshold for a stated false-alarm rate.

    Args:
        scores: of good images, at least one.
        peaks: the maximum of each one's anomaly map.
        false_alarm_rate: between 0 and 1.
        held_out: whether the images were kept out of training.

    Example:
        >>> round(calibrate_thresholds(range(1, 100), range(1, 100), 0.05).threshold)
        95
        >>> ten = range(1, 11)  # 10 images allow 1 in 11
        >>> calibrate_thresholds(ten, ten, 0.01).achieved_rate
        0.0909...
    """
    n = len(scores)
    if not n or not np.isfinite([*scores, *peaks]).all():
        raise CalibrationError(
            "a threshold needs at least one good image, and finite scores; check the weights"
        )
    # The rounding guards against 0.99 * 100 being a hair above 99.
    k = min(n, math.ceil(round((n + 1) * (1 - false_alarm_rate), 9)))
    threshold, map_threshold = (
        value + _ROUNDING * max(1.0, abs(value))
        for value in (float(np.sort(np.asarray(of, np.float64))[k - 1]) for of in (scores, peaks))
    )
    return Calibration(
        threshold=threshold,
        map_threshold=map_threshold,
        false_alarm_rate=false_alarm_rate,
        achieved_rate=(n + 1 - k) / (n + 1),
        n_images=n,
        held_out=held_out,
    )


def images_needed(false_alarm_rate: float) -> int:
    """How many held-out images a rate asks for: `1 / rate - 1`, rounded up."""
    return math.ceil(round(1 / false_alarm_rate, 9)) - 1


def split_good(n: int, fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Choose which of `n` good images to train on, and which fraction, below 1, to hold out.

    Returns:
        Indices to train on, at least one, and indices held out: none where `n` is below 4
        or `fraction` is 0.
    """
    held = 0 if n < 4 or fraction == 0 else min(n - 1, max(1, round(n * fraction)))
    order = np.random.default_rng([seed, n]).permutation(n)
    return sorted(order[held:].tolist()), sorted(order[:held].tolist())
