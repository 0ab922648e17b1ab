"""Screen the good images for outliers: each is scored out-of-fold, by statistics of the others.

Defective images among the good ones teach the model that they are normal. So images are split into
folds; the whitening of each level, and the location and scale of its log-likelihoods, are fitted
without an image's fold; and the image is scored by the Gaussian log-likelihood of its vectors. No
flow is trained for it, so that it costs little beside encoding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cflow_ad.cflow.position import FRAME, Frame
from cflow_ad.cflow.whitening import InputLayer, Moments, whitening_of
from cflow_ad.data.images import ImageSource
from cflow_ad.fitting.cache import LevelFeatures
from cflow_ad.fitting.scale import TAIL, TAIL_ENERGY
from cflow_ad.scoring.anomaly_map import compute_anomaly_map
from cflow_ad.scoring.canvas import Shape, cell_of
from cflow_ad.settings import Settings

FEWEST = 8
"""Images below which none is called an outlier."""

_FOLDS = 5
_FEWEST_TO_SCORE = 3  # an image's fold, one to fit the whitening to, and one to fit the scale to
_SAMPLE = 2**16  # vectors of a level that locations and scales are fitted to
_DEVIATIONS = 3.5  # of the logarithms of the scores, above which an image is an outlier
_NOTHING = 0.1  # added to a score first: below it scores differ, but images do not
_LEAST_DEVIATION = 0.05  # 5 % of a score: among images that hardly differ none is an outlier
_MOST_KEPT = 48  # maps, for a report


class Encoded(NamedTuple):
    """Images in a feature cache."""

    features: Sequence[LevelFeatures]
    """One for each level."""
    shapes: Sequence[Shape]
    """Height and width of each image as it came."""


@dataclass(frozen=True, eq=False)
class Suspect:
    """An image and its out-of-fold score."""

    index: int
    """Among the images screened."""
    score: float
    stands_out: bool
    """Whether the score is above the limit."""
    anomaly_map: NDArray[np.float32]
    """In the size that the image has in the network."""


@dataclass(frozen=True, eq=False)
class Screening:
    """The out-of-fold scores of good images, and which of them are outliers."""

    scores: NDArray[np.float64]
    """Of each image, shape `(n,)`: on a scale like the model's, but not the same."""
    limit: float
    """An image whose score is above this is an outlier; infinite with fewer than `FEWEST`."""
    suspects: tuple[Suspect, ...]
    """The outliers, the highest score first, then the images with the next highest scores."""

    @property
    def flagged(self) -> list[int]:
        """Indices of the outliers, the highest score first."""
        order = np.argsort(-self.scores, kind="stable")
        return [int(i) for i in order if self.scores[i] > self.limit]


@dataclass(frozen=True, eq=False)
class ScreenedImages:
    """A screening with the images it is of: those trained on, then those held out."""

    screening: Screening
    names: Sequence[str]
    sources: Sequence[ImageSource]
    trained_on: int
    """How many of the images are trained on; the others are the calibration set."""

    @property
    def flagged(self) -> dict[str, float]:
        """Names and scores of the outliers, the highest score first."""
        scores = self.screening.scores
        return {self.names[i]: round(float(scores[i]), 3) for i in self.screening.flagged}

    @property
    def flagged_held_out(self) -> int:
        """How many of the outliers are in the calibration set."""
        return sum(i >= self.trained_on for i in self.screening.flagged)

    @property
    def verdict(self) -> str:
        """The result, in a sentence."""
        n, flagged = len(self.names), len(self.flagged)
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
        limit = f"score above {self.screening.limit:.2f}"
        note = f"{self.verdict[:-1]} ({limit}); the highest: {worst}."
        if held_out := self.flagged_held_out:
            note += (
                f" {held_out} of them {'is' if held_out == 1 else 'are'} in the calibration set: a "
                "defective image there makes the threshold too high."
            )
        return note

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain values, which the model file keeps."""
        limit = self.screening.limit
        return {
            "n_images": len(self.names),
            "limit": round(limit, 3) if math.isfinite(limit) else None,
            "flagged": self.flagged,
        }


def screen(parts: Sequence[Encoded], settings: Settings, *, next_in_line: int = 6) -> Screening:
    """Score each image by statistics of the others.

    Where the feature budget keeps only a share of an image's vectors, only these count. With one
    or two images all scores are 0.

    Args:
        parts: the images; where there are several caches, numbered on from one to the next.
        settings: of the model; the flow's do not matter.
        next_in_line: how many images below the limit are kept as suspects as well.

    Raises:
        DivergenceError: a vector is NaN or infinite.
    """
    images = [(part, i) for part in parts for i in range(len(part.shapes))]
    n = len(images)
    if n < _FEWEST_TO_SCORE:
        return Screening(np.zeros(n), math.inf, ())
    rng = np.random.default_rng([settings.seed, n, 4])
    fold = np.empty(n, np.int64)
    fold[rng.permutation(n)] = np.arange(n) % min(n, _FOLDS)

    energies = [_energies(images, fold, level, settings) for level in range(len(parts[0].features))]

    def map_of(number: int) -> NDArray[np.float32]:
        part, index = images[number]
        valid = settings.sizing.valid_shape(part.shapes[index])
        canvas = settings.sizing.canvas_shape(part.shapes[index])
        grids = [
            _grid(part.features[level], index, of_level[number], settings.method.positions)
            for level, of_level in enumerate(energies)
        ]
        cells = [cell_of(canvas, (grid.shape[0], grid.shape[1])) for grid in grids]
        return compute_anomaly_map(
            grids, cells, valid=valid, original=valid, smoothing=settings.smoothing
        )

    scores = np.array([float(map_of(number).max()) for number in range(n)])
    limit = limit_of(scores)
    order = np.argsort(-scores, kind="stable")
    shown = order[: min(_MOST_KEPT, int((scores > limit).sum()) + next_in_line)]
    suspects = tuple(
        Suspect(int(i), float(scores[i]), bool(scores[i] > limit), map_of(int(i))) for i in shown
    )
    return Screening(scores, limit, suspects)


def limit_of(scores: NDArray[np.float64]) -> float:
    """Compute the score above which an image is an outlier.

    The logarithms of good images' scores are about normally distributed; their median and median
    absolute deviation are those of good images as long as most images are good.

    Args:
        scores: of the images, shape `(n,)`.

    Example:
        >>> scores = np.array([1.0, 1.1, 0.9, 1.2, 0.8, 1.0, 1.1, 4.0])
        >>> scores > limit_of(scores)
        array([False, False, False, False, False, False, False,  True])
    """
    if len(scores) < FEWEST:
        return math.inf
    logs = np.log(scores + _NOTHING)
    middle = np.median(logs)
    deviation = max(1.4826 * float(np.median(np.abs(logs - middle))), _LEAST_DEVIATION)
    return float(np.exp(middle + _DEVIATIONS * deviation)) - _NOTHING


def _energies(
    images: Sequence[tuple[Encoded, int]], fold: NDArray[np.int64], level: int, settings: Settings
) -> list[NDArray[np.float32]]:
    """Compute the energies of each image's vectors at one level, out-of-fold.

    The whitening is fitted without the image's fold. So are the location and scale, and no vector
    that they are fitted to is whitened by statistics of its own fold or of the image's.
    """
    lengths = np.diff([part.features[level].bounds[i] for part, i in images]).ravel().tolist()
    share = min(1.0, _SAMPLE / sum(lengths))
    rng = np.random.default_rng([settings.seed, level, 5])
    chosen = [np.sort(rng.choice(n, math.ceil(share * n), replace=False)) for n in lengths]
    members = [np.flatnonzero(fold == of).tolist() for of in range(int(fold.max()) + 1)]
    samples = [torch.cat([_vectors_of(images[i], level)[chosen[i]] for i in of]) for of in members]
    origin = samples[0].double().mean(0)
    sums = [
        Moments.of((_vectors_of(images[i], level) for i in of), len(origin), origin)
        for of in members
    ]

    @cache
    def whitening_without(out: frozenset[int]) -> InputLayer:
        first, *others = (moments for of, moments in enumerate(sums) if of not in out)
        return whitening_of(sum(others, start=first))

    def log_likelihoods(vectors: Tensor, *out: int) -> NDArray[np.float32]:
        values: Tensor = -0.5 * whitening_without(frozenset(out))(vectors).square().mean(1)
        return values.numpy()

    energies: list[NDArray[np.float32]] = [np.empty(0, np.float32)] * len(images)
    for of, in_fold in enumerate(members):
        others = [
            log_likelihoods(sample, of, other)
            for other, sample in enumerate(samples)
            if other != of
        ]
        median, tail = np.quantile(np.concatenate(others), [0.5, TAIL])
        scale = max((median - tail) / TAIL_ENERGY, 1e-3)
        for number in in_fold:
            values = log_likelihoods(_vectors_of(images[number], level), of)
            energies[number] = np.maximum((median - values) / scale, 0).astype(np.float32)
    return energies


def _vectors_of(image: tuple[Encoded, int], level: int) -> Tensor:
    """Read the vectors of one image at one level, shape `(n, C)`."""
    part, index = image
    features = part.features[level]
    return torch.from_numpy(np.array(features.vectors[features.of_image(index)]))


def _grid(
    features: LevelFeatures,
    index: int,
    values: NDArray[np.float32],
    frame: Frame,
) -> NDArray[np.float32]:
    """Put an image's energies on its grid; vectors beyond the feature budget have energy 0."""
    grid = np.zeros(features.grids[index], np.float32)
    places = features.positions[features.of_image(index)].astype(np.intp)
    if frame == "relative":
        places = places * grid.shape // FRAME
    # On a grid finer than the places, a place has the highest energy of its vectors.
    np.maximum.at(grid, (places[:, 0], places[:, 1]), values)
    return grid
