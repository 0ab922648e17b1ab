"""From good images to a model, and to scores of good images by models that had no part of them.

Every image is encoded once for all fits, and once more where it is scored. With folds, as many
models are fitted, each without one fold of the images, and score that fold; the model that is kept
is fitted to all images.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cflow_ad._version import __version__
from cflow_ad.cflow.encoder import Encoder
from cflow_ad.cflow.folding import FoldedEncoder
from cflow_ad.cflow.model import CflowModel
from cflow_ad.cflow.running import run_over
from cflow_ad.data.augmentation import variants
from cflow_ad.data.images import ImageSource, as_image
from cflow_ad.errors import TrainingError
from cflow_ad.fitting.cache import build_cache
from cflow_ad.fitting.calibration import GoodScores, score_images
from cflow_ad.fitting.features import LevelFeatures
from cflow_ad.fitting.folds import Split, split_good
from cflow_ad.fitting.good_images import GoodImages
from cflow_ad.fitting.group import ALONE, Group
from cflow_ad.fitting.levels import ToFit, fit_levels
from cflow_ad.fitting.likelihood import Ended
from cflow_ad.fitting.progress import ProgressCallback, shift_progress, silent
from cflow_ad.fitting.screening import MOST_SHOWN
from cflow_ad.scoring.canvas import Shape
from cflow_ad.scoring.region import RegionSource
from cflow_ad.scoring.view import View
from cflow_ad.settings import Settings

_BEYOND_TRAINING = ("smoothing", "false_alarm_rate", "weights")
"""Settings that change nothing in the features, flows and memory."""

_TO_TIME = 4  # images encoded to see how long that takes, where there is a time limit


class Fitted(NamedTuple):
    """A model, and scores of good images that set its thresholds."""

    model: CflowModel
    ended: list[Ended]
    """How the training of each level ended; see `fit_levels`."""
    view: View
    reference: int | None
    """Number of the image that the others are aligned to, if it is one of these."""
    fitted_to: list[int]
    """Numbers of the images that the model is fitted to."""
    canvas: Shape
    """Height and width of the canvas that most of them have."""
    scores: GoodScores
    """By models that were not fitted to the images; only where there are no folds by the model
    itself."""
    folds: int
    """How many models gave the scores that were not fitted to the images."""


def fit_model(
    encoder: Encoder,
    good: GoodImages,
    settings: Settings,
    *,
    roi: RegionSource | None = None,
    view: View | None = None,
    seconds: float = math.inf,
    work: Path | None = None,
    group: Group = ALONE,
    progress: ProgressCallback = silent,
) -> Fitted:
    """Fit a model to good images, and score good images out-of-fold; see `split_good`.

    Several processes fit one model, and return the same. Each encodes and scores a part of the
    images, and trains some of the levels of the models.

    Args:
        encoder: frozen.
        good: the images.
        settings: of the model.
        roi: the region of interest, see `View.of`.
        view: of an earlier model; unset, one is built.
        seconds: time limit. The images are encoded in any case, and scored.
        work: a folder for checkpoints; a run with the same settings and images continues from
            them. Unset, everything stays in memory. Several processes need one; those of one
            machine share it.
        group: the processes that fit the model.
        progress: called as the work advances.

    Raises:
        DataError: an image or a region cannot be used.
        SettingsError: `feature_budget` is too small, or there are two regions of one image; or
            several processes have no work folder.
        DivergenceError: the likelihood became NaN or infinite.
        TrainingError: the work folder cannot be used.
    """
    deadline = time.monotonic() + seconds
    everything = list(range(len(good.sources)))
    splits = split_good(len(everything), settings.folds, settings.seed)
    models = splits if len(splits) == 1 else [*splits, Split(everything, [])]
    fitted_to = models[-1].fitted_to  # the last model is kept
    sources = [good.sources[i] for i in fitted_to]
    reference: int | None
    if view is not None:
        reference = _find_reference(view, good.sources)
    else:
        view = View.of(settings, sources, roi=roi, own=good.regions)
        chosen = view.reference.number if view.reference else None
        reference = None if chosen is None else fitted_to[chosen]
    key = _compute_key(encoder, settings, good.fingerprint + view.fingerprint())
    features = _encode(encoder, sources, view, settings, work, key, group, progress)
    to_fit = []
    for number, split in enumerate(models, start=1):
        is_kept = number == len(models)
        folder = _make(work if work is None or is_kept else work / f"fold-{number}")
        some = _select(features, split.fitted_to, fitted_to, settings.augment_copies)
        to_fit.append(ToFit([good.sources[i] for i in split.fitted_to], some, folder))
    if seconds < math.inf:
        # Scoring an image takes less than twice as long as encoding it.
        n_scored = len([i for split in splits for i in split.unseen] or everything)
        pace = 2 * _time_encoding(encoder, sources, view, settings) / group.size
        seconds = deadline - time.monotonic() - pace * n_scored
    scores = GoodScores()
    found = fit_levels(
        encoder,
        to_fit,
        settings,
        view=view,
        seconds=seconds,
        key=key,
        group=group,
        progress=progress,
    )
    for number, (split, fitted) in enumerate(zip(models, found, strict=True)):
        model = CflowModel(encoder, fitted.levels)
        unseen = split.unseen if splits else everything
        # The reference is aligned with itself, as no new image is.
        own = group.part([i for i in unseen if i != reference or not splits])
        of_own = GoodScores()
        if own:
            images = {i: good.sources[i] for i in own}
            report = shift_progress(progress, number, max(1, len(splits)))
            of_own = score_images(
                model, settings, images, view=view, keep=MOST_SHOWN, progress=report
            )
        for of_process in group.gather(of_own):
            scores.add(of_process)
    return Fitted(
        model,
        fitted.ended,
        view,
        reference,
        fitted_to,
        _usual_canvas(features[0], settings.strides[0]),
        scores,
        len(splits),
    )


def _usual_canvas(features: LevelFeatures, stride: int) -> Shape:
    (rows, columns), _ = Counter(features.grids).most_common(1)[0]
    return rows * stride, columns * stride


def _encode(
    encoder: Encoder,
    sources: Sequence[ImageSource],
    view: View,
    settings: Settings,
    work: Path | None,
    key: str,
    group: Group,
    progress: ProgressCallback,
) -> list[LevelFeatures]:
    """Encode images and their augmented copies."""
    copies = variants(
        sources,
        settings.augment_copies,
        rotation=settings.augment_rotation,
        shift=settings.augment_shift,
        brightness=settings.augment_brightness,
        seed=settings.seed,
    )
    return build_cache(
        encoder,
        [*sources, *copies],
        view,
        settings,
        folder=_make(work),
        key=key,
        group=group,
        progress=progress,
    )


def _select(
    features: Sequence[LevelFeatures], wanted: Sequence[int], encoded: Sequence[int], copies: int
) -> list[LevelFeatures]:
    """Select the vectors of the images that are wanted, and of their copies."""
    if len(wanted) == len(encoded):
        return list(features)
    n = len(encoded)
    numbers = [i + copy * n for copy in range(1 + copies) for i in np.searchsorted(encoded, wanted)]
    return [of_level.of_images(numbers) for of_level in features]


def _find_reference(view: View, sources: Sequence[ImageSource]) -> int | None:
    """Find the number of the image that an earlier model's images are aligned to, by its pixels;
    None where it is none of these.
    """
    if view.reference is None:
        return None
    made_from = (view.reference.is_made_from(as_image(source)) for source in sources)
    return next((number for number, found in enumerate(made_from) if found), None)


def _time_encoding(
    encoder: Encoder, sources: Sequence[ImageSource], view: View, settings: Settings
) -> float:
    """Measure the seconds that it takes to encode an image."""
    some = sources[:_TO_TIME]
    network = FoldedEncoder(encoder, settings.precision)
    began = time.monotonic()
    for _ in run_over(network, lambda canvas, maps: None, some, view, device=encoder.mean.device):
        pass
    return (time.monotonic() - began) / len(some)


def _make(folder: Path | None) -> Path | None:
    """Make a folder for checkpoints, if there is to be one."""
    if folder is not None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            why = f"the work folder cannot be made ({error.strerror})"
            raise TrainingError(f"{folder}: {why}") from error
    return folder


def work_folder(model: Path, within: Path | None = None) -> Path:
    """Return the folder that the command line keeps features and checkpoints of `model` in.

    It lies beside the model, or in the folder `within`, by a name that the model's path gives.
    """
    name = model.name + ".work"
    if within is None:
        return model.with_name(name)
    digest = hashlib.sha256(os.fsencode(model.absolute())).hexdigest()[:8]
    return within / f"{digest}-{name}"


def discard(work: Path) -> None:
    """Remove a folder of checkpoints."""
    shutil.rmtree(work, ignore_errors=True)


def _compute_key(encoder: Encoder, settings: Settings, fingerprint: str) -> str:
    relevant = {k: v for k, v in settings.to_dict().items() if k not in _BEYOND_TRAINING}
    text = json.dumps([__version__, relevant, encoder.spec.sha256, fingerprint], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
