"""Are the good images good? Each is scored out-of-fold, by statistics of the others.

Defective images among the good ones teach the model that they are normal. So images are split into
folds; the whitening of each level, and the location and scale of its log-likelihoods, are fitted
without an image's fold; and the image is scored by the Gaussian log-likelihood of its vectors. No
flow is trained for it, so that it costs little beside encoding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from cflow_ad.cflow.position import FRAME, Frame
from cflow_ad.cflow.whitening import Moments, whitening_of
from cflow_ad.data.images import ImageSource
from cflow_ad.fitting.cache import LevelFeatures
from cflow_ad.fitting.scale import TAIL, TAIL_ENERGY
from cflow_ad.scoring.anomaly_map import compute_anomaly_map
from cflow_ad.scoring.canvas import Shape, cell_of
from cflow_ad.settings import Settings

FEWEST = 8
"""Images below which none can be said to stand out from the others."""

_FOLDS = 5
_DEVIATIONS = 3.5  # of the logarithms of the scores, above which an image stands out
_NOTHING = 0.1  # added to a score first: below it scores differ, but images do not
_LEAST_DEVIATION = 0.05  # 5 % of a score: images that hardly differ are not told apart
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
    """An image whose score is above this stands out; infinite with fewer than `FEWEST`."""
    suspects: tuple[Suspect, ...]
    """Those that stand out, the worst first, and after them the next in line."""

    @property
    def flagged(self) -> list[int]:
        """Indices of the images that stand out, the worst first."""
        order = np.argsort(-self.scores, kind="stable")
        return [int(i) for i in order if self.scores[i] > self.limit]


@dataclass(frozen=True, eq=False)
class ScreenedImages:
    """A screening with the images it is of: those trained on, then those held out."""

    screening: Screening
    names: Sequence[str]
    sources: Sequence[ImageSource]
    trained_on: int
    """How many of the images are; the others set the threshold."""

    @property
    def flagged(self) -> dict[str, float]:
        """Names and scores of the images that stand out, the worst first."""
        scores = self.screening.scores
        return {self.names[i]: round(float(scores[i]), 3) for i in self.screening.flagged}

    @property
    def flagged_held_out(self) -> int:
        """How many of those that stand out are held out, and set the threshold."""
        return sum(i >= self.trained_on for i in self.screening.flagged)

    @property
    def verdict(self) -> str:
        """What was found, in a sentence."""
        n, flagged = len(self.names), len(self.flagged)
        if n < FEWEST:
            return (
                f"{n} good image{'s are' if n != 1 else ' is'} too few to say whether one of them "
                f"stands out; {FEWEST} are needed."
            )
        if not flagged:
            return f"None of the {n} good images stands out from the others."
        verb = "stands" if flagged == 1 else "stand"
        return f"{flagged} of the {n} good images {verb} out from the others."

    @property
    def note(self) -> str:
        """`verdict`, with the worst images, and what they do to the threshold."""
        if not self.flagged:
            return self.verdict
        worst = ", ".join(f"{name} ({score:.2f})" for name, score in list(self.flagged.items())[:3])
        said = f"{self.verdict[:-1]} (score above {self.screening.limit:.2f}), the most {worst}."
        if held_out := self.flagged_held_out:
            said += (
                f" {held_out} of them helped to set the threshold: a defective image there makes "
                "it too high."
            )
        return said

    def to_dict(self) -> dict[str, Any]:
        """What a model file keeps, as plain values."""
        limit = self.screening.limit
        return {
            "n_images": len(self.names),
            "limit": round(limit, 3) if math.isfinite(limit) else None,
            "flagged": self.flagged,
        }


def screen(parts: Sequence[Encoded], settings: Settings, *, next_in_line: int = 6) -> Screening:
    """Score each image by statistics of the others.

    Where the feature budget keeps only a share of an image's vectors, only these count.

    Args:
        parts: the images; where there are several caches, numbered on from one to the next.
        settings: of the model; the flow's do not matter.
        next_in_line: how many images that do not stand out are kept as suspects as well.

    Raises:
        DivergenceError: a vector is NaN or infinite.
    """
    images = [(part, i) for part in parts for i in range(len(part.shapes))]
    n = len(images)
    if n < 2:
        return Screening(np.zeros(n), math.inf, ())
    rng = np.random.default_rng([settings.seed, n, 4])
    fold = np.empty(n, np.int64)
    fold[rng.permutation(n)] = np.arange(n) % min(n, _FOLDS)

    energies = [_energies(images, fold, level, settings) for level in range(_levels(parts))]

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
    """The score above which an image stands out from the others.

    The logarithms of good images' scores lie about their median much as a normal distribution
    does; the median and the median deviation from it are those of good images as long as these
    are the most.

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


def _levels(parts: Sequence[Encoded]) -> int:
    return len(parts[0].features)


def _energies(
    images: Sequence[tuple[Encoded, int]], fold: NDArray[np.int64], level: int, settings: Settings
) -> list[NDArray[np.float32]]:
    """Compute the energies of each image's vectors at one level, out-of-fold: neither whitening
    nor location and scale are fitted to the image's own fold.
    """

    def vectors(number: int) -> torch.Tensor:
        part, index = images[number]
        features = part.features[level]
        return torch.from_numpy(np.array(features.vectors[features.of_image(index)]))

    def members(of: int) -> Iterator[torch.Tensor]:
        return (vectors(int(number)) for number in np.flatnonzero(fold == of))

    some = torch.from_numpy(np.array(images[0][0].features[level].vectors[:1024]))
    channels, origin = some.shape[1], some.double().mean(0)
    folds = range(int(fold.max()) + 1)
    sums = [Moments.of(members(of), channels, origin) for of in folds]
    values: list[NDArray[np.float32]] = [np.empty(0, np.float32)] * len(images)
    for of in folds:
        first_other, *others = (sums[other] for other in folds if other != of)
        layer = whitening_of(sum(others, start=first_other))
        for number in np.flatnonzero(fold == of):
            values[number] = -0.5 * layer(vectors(int(number))).square().mean(1).numpy()
    energies = values.copy()
    for of in folds:
        rest = np.concatenate([values[number] for number in np.flatnonzero(fold != of)])
        median, tail = np.quantile(rest, [0.5, TAIL])
        scale = max((median - tail) / TAIL_ENERGY, 1e-3)
        for number in np.flatnonzero(fold == of):
            energies[number] = np.maximum((median - values[number]) / scale, 0).astype(np.float32)
    return energies


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
