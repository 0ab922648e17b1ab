"""Screen the good images for outliers, by their out-of-fold scores.

Defective images among the good ones teach the model that they are normal. So each image's score is
that of a model that was fitted without it; see `fitting.folds`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cflow_ad.data.images import ImageSource
from cflow_ad.fitting.calibration import GoodScores
from cflow_ad.fitting.good_images import GoodImages
from cflow_ad.scoring.prediction import build_prediction
from cflow_ad.scoring.view import View
from cflow_ad.settings import Settings

FEWEST = 8
"""Images below which none is called an outlier."""

MOST_SHOWN = 48
"""Images that are kept as suspects at the most."""

_DEVIATIONS = 3.5  # of the logarithms of the scores, above which an image is an outlier
_OFFSET = 0.1  # added to a score before its logarithm: far below it, differences mean nothing
_LEAST_DEVIATION = 0.05  # 5 % of a score: among images that hardly differ none is an outlier
_NEXT_IN_LINE = 6  # images below the limit that are kept as suspects too


@dataclass(frozen=True, eq=False)
class Suspect:
    """An image with a high out-of-fold score."""

    name: str
    source: ImageSource
    score: float
    is_outlier: bool
    """Whether the score is above the limit."""
    compute_map: Callable[[], NDArray[np.float32]]
    """Computes the anomaly map, of the image's shape; raises a DataError if it is gone."""


@dataclass(frozen=True, eq=False)
class Screening:
    """The out-of-fold scores of good images, and which of them are outliers."""

    names: Sequence[str]
    """Of the images that were scored out-of-fold: all, or those of the calibration set."""
    scores: NDArray[np.float64]
    """Of each image, shape `(n,)`."""
    limit: float
    """An image whose score is above this is an outlier; infinite with fewer than `FEWEST`."""
    suspects: tuple[Suspect, ...]
    """The outliers, the highest score first, then the images with the next highest scores."""

    @property
    def flagged(self) -> dict[str, float]:
        """Names and scores of the outliers, the highest score first."""
        order = np.argsort(-self.scores, kind="stable")
        above = [i for i in order if self.scores[i] > self.limit]
        return {self.names[i]: round(float(self.scores[i]), 3) for i in above}

    @property
    def verdict(self) -> str:
        """The result, in a sentence."""
        n, flagged = len(self.names), len(self.flagged)
        if not n:
            return "No good image was scored out-of-fold, so none can be found to be an outlier."
        if n < FEWEST:
            return (
                f"{n} good image{'s are' if n != 1 else ' is'} too few to find outliers among; "
                f"{FEWEST} are needed."
            )
        if not flagged:
            return f"None of the {n} good images is an outlier."
        verb = "is an outlier" if flagged == 1 else "are outliers"
        return f"{flagged} of the {n} good images {verb}."

    @property
    def note(self) -> str:
        """`verdict`, with the highest scores, and the effect on the threshold."""
        if not self.flagged:
            return self.verdict
        worst = ", ".join(f"{name} ({score:.2f})" for name, score in list(self.flagged.items())[:3])
        return (
            f"{self.verdict[:-1]} (score above {self.limit:.2f}); the highest: {worst}. A "
            "defective image among them makes the threshold too high."
        )

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain values, which the model file keeps."""
        return {
            "n_images": len(self.names),
            "limit": round(self.limit, 3) if math.isfinite(self.limit) else None,
            "flagged": self.flagged,
        }


def screen(found: GoodScores, good: GoodImages, view: View, settings: Settings) -> Screening:
    """Find the outliers among good images.

    Args:
        found: out-of-fold scores, with energies of the highest.
        good: the images.
        view: of the model.
        settings: of the model.
    """
    scores = np.array(found.scores, np.float64)
    limit = compute_limit(scores)
    order = np.argsort(-scores, kind="stable")
    shown = order[: min(MOST_SHOWN, int((scores > limit).sum()) + _NEXT_IN_LINE)]

    def compute_map(number: int) -> NDArray[np.float32]:
        canvas = view.prepare(good.sources[number])
        return build_prediction(found.energies[number], canvas, settings).anomaly_map

    suspects = tuple(
        Suspect(
            good.names[found.numbers[i]],
            good.sources[found.numbers[i]],
            float(scores[i]),
            bool(scores[i] > limit),
            partial(compute_map, found.numbers[i]),
        )
        for i in shown
    )
    return Screening([good.names[number] for number in found.numbers], scores, limit, suspects)


def compute_limit(scores: NDArray[np.float64]) -> float:
    """Compute the score above which an image is an outlier.

    The logarithms of good images' scores are about normally distributed; their median and median
    absolute deviation are those of good images as long as most images are good.

    Args:
        scores: of the images, shape `(n,)`.

    Example:
        >>> scores = np.array([1.0, 1.1, 0.9, 1.2, 0.8, 1.0, 1.1, 4.0])
        >>> scores > compute_limit(scores)
        array([False, False, False, False, False, False, False,  True])
    """
    if len(scores) < FEWEST:
        return math.inf
    logs = np.log(scores + _OFFSET)
    middle = np.median(logs)
    deviation = max(1.4826 * float(np.median(np.abs(logs - middle))), _LEAST_DEVIATION)
    return float(np.exp(middle + _DEVIATIONS * deviation)) - _OFFSET
