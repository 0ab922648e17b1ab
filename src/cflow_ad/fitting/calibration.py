"""Score good images for the thresholds; fit the scales of a model that was trained elsewhere."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cflow_ad.cflow.level import Level
from cflow_ad.cflow.model import CflowModel
from cflow_ad.cflow.predicting import Predictor
from cflow_ad.data.images import ImageSource
from cflow_ad.fitting.cache import build_cache
from cflow_ad.fitting.features import LevelFeatures
from cflow_ad.fitting.folds import split_good
from cflow_ad.fitting.place_means import subtract_known_means
from cflow_ad.fitting.progress import Progress, ProgressCallback, shift_progress, silent
from cflow_ad.fitting.scale import fit_scale
from cflow_ad.scoring.anomaly_map import Floats
from cflow_ad.scoring.prediction import Prediction
from cflow_ad.scoring.view import View
from cflow_ad.settings import Settings


@dataclass
class GoodScores:
    """Scores of good images, one after another."""

    numbers: list[int] = field(default_factory=list)
    """Of the images, among the good images."""
    scores: list[float] = field(default_factory=list)
    peaks: list[float] = field(default_factory=list)
    """The maxima of the anomaly maps."""
    energies: dict[int, list[NDArray[np.float32]]] = field(default_factory=dict)
    """Of the images with the highest scores, by number: of each level, shape `(h, w)`."""

    def add(self, others: GoodScores) -> None:
        """Add the scores of other images."""
        self.numbers += others.numbers
        self.scores += others.scores
        self.peaks += others.peaks
        self.energies |= others.energies


def score_images(
    model: CflowModel,
    settings: Settings,
    images: Mapping[int, ImageSource],
    *,
    view: View,
    keep: int = 0,
    progress: ProgressCallback = silent,
) -> GoodScores:
    """Score good images as a detector does.

    Args:
        model: fitted.
        settings: of the model.
        images: by number.
        view: of the model.
        keep: how many images' energies are kept, those with the highest scores.
        progress: called as the work advances.

    Raises:
        ImageError: an image cannot be used.
    """

    def take(prediction: Prediction, energies: list[Floats]) -> tuple[float, float, list[Floats]]:
        return prediction.score, float(prediction.anomaly_map.max()), energies

    found = GoodScores(list(images))
    highest: list[tuple[float, int, list[NDArray[np.float32]]]] = []
    progress(Progress("calibrate", 0, len(images)))
    sources = list(images.values())
    results = Predictor(model, settings).run_over(sources, view, take)
    for number, (_, (of_image, peak, energies)) in zip(images, results, strict=True):
        found.scores.append(of_image)
        found.peaks.append(peak)
        heapq.heappush(highest, (of_image, number, energies))
        if len(highest) > keep:
            heapq.heappop(highest)
        progress(Progress("calibrate", len(found.scores), len(images)))
    found.energies = {number: energies for _, number, energies in highest}
    return found


class Scaled(NamedTuple):
    """A model with fitted scales, and scores of good images that set its thresholds."""

    model: CflowModel
    fitted_to: list[int]
    """Numbers of the images that its scales are fitted to."""
    scores: GoodScores
    """By scales that were fitted without the images, where there are folds."""
    folds: int
    """How many times scales were fitted for the scores."""


def fit_scales(
    model: CflowModel,
    settings: Settings,
    sources: Sequence[ImageSource],
    *,
    view: View,
    progress: ProgressCallback = silent,
) -> Scaled:
    """Fit the location and scale of each level to images that the model was not trained on.

    The images are scored out-of-fold, by scales that are fitted without them; see `split_good`.

    Args:
        model: whose encoder, flows and memory the result shares.
        settings: of the model; where `folds` is 0, it counts as unset.
        sources: the images, at least one.
        view: of the model.
        progress: called as the work advances.

    Raises:
        DivergenceError: a likelihood is NaN or infinite.
        ImageError: an image cannot be used.
    """
    splits = split_good(len(sources), settings.folds or None, settings.seed)
    fitted_to = splits[0].fitted_to if len(splits) == 1 else list(range(len(sources)))
    features = build_cache(
        model.encoder, [sources[i] for i in fitted_to], view, settings, progress=progress
    )
    features = [
        of_level if level.means is None else subtract_known_means(level.means, of_level)
        for level, of_level in zip(model, features, strict=True)
    ]
    kept = _with_scales(model, settings, features)
    scores = GoodScores()
    for number, split in enumerate(splits):
        scaled = kept
        if len(splits) > 1:
            some = [of_level.of_images(split.fitted_to) for of_level in features]
            scaled = _with_scales(model, settings, some)
        unseen = {i: sources[i] for i in split.unseen}
        shifted = shift_progress(progress, number, len(splits))
        scores.add(score_images(scaled, settings, unseen, view=view, progress=shifted))
    if not splits:
        images = dict(enumerate(sources))
        scores = score_images(kept, settings, images, view=view, progress=progress)
    return Scaled(kept, fitted_to, scores, len(splits))


def _with_scales(
    model: CflowModel, settings: Settings, features: Sequence[LevelFeatures]
) -> CflowModel:
    """Copy a model, with scales fitted to vectors."""
    levels = []
    for number, (old, of_level) in enumerate(zip(model, features, strict=True)):
        level = Level(old.input_layer, old.density, stride=old.stride, means=old.means).to(
            model.device
        )
        fit_scale(level, of_level, settings, number)
        levels.append(level)
    return CflowModel(model.encoder, levels).eval()
