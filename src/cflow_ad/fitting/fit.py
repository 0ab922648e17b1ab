"""From good images to a model, and to scores of good images by models that had no part of them.

Every image is encoded once. With folds, one model after another is fitted without one fold of the
images and scores that fold; then the model that is kept is fitted to all images.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import time
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
from cflow_ad.data.images import ImageSource, source_name
from cflow_ad.errors import TrainingError
from cflow_ad.fitting.cache import build_cache
from cflow_ad.fitting.calibration import GoodScores, score_images
from cflow_ad.fitting.features import LevelFeatures
from cflow_ad.fitting.good_images import GoodImages
from cflow_ad.fitting.group import ALONE, Group
from cflow_ad.fitting.levels import fit_levels
from cflow_ad.fitting.likelihood import Ended
from cflow_ad.fitting.progress import ProgressCallback, shift_progress, silent
from cflow_ad.fitting.screening import MOST_SHOWN
from cflow_ad.scoring.region import RegionSource
from cflow_ad.scoring.threshold import Split, split_good
from cflow_ad.scoring.view import View
from cflow_ad.settings import Settings

_BEYOND_TRAINING = ("smoothing", "false_alarm_rate", "weights")
"""Settings that change nothing in the features or the flows."""

_TO_TIME = 4  # images encoded to see how long that takes, where there is a time limit


class Fitted(NamedTuple):
    """A model, and scores of good images that set its thresholds."""

    model: CflowModel
    ended: list[Ended]
    """How the training of each level ended; see `fit_levels`."""
    view: View
    fitted_to: list[int]
    """Numbers of the images that the model is fitted to."""
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

    Several processes fit one model, and return the same. Each encodes and scores its own images;
    every batch and every sum is over the images of all.

    Args:
        encoder: frozen.
        good: the images.
        settings: of the model.
        roi: the region of interest, see `View.of`.
        view: of an earlier model; unset, one is built.
        seconds: time limit. The images are encoded in any case, and scored.
        work: a folder for checkpoints; a run with the same settings and images continues from
            them. Unset, everything stays in memory. Several processes have a folder each, and
            continue from their features, not from checkpoints of the flows.
        group: the processes that fit the model.
        progress: called as the work advances.

    Raises:
        DataError: an image or a region cannot be used.
        SettingsError: `feature_budget` is too small, or there are two regions of one image; or
            several processes are given a time limit, or the paper's schedule.
        DivergenceError: the likelihood became NaN or infinite.
        TrainingError: the work folder cannot be used.
    """
    if seconds < math.inf:
        group.require_alone("a time limit")
    if settings.paper is not None:
        group.require_alone("the paper's schedule")
    deadline = time.monotonic() + seconds
    everything = list(range(len(good.sources)))
    splits = split_good(len(everything), settings.folds, settings.seed)
    models = splits if len(splits) == 1 else [*splits, Split(everything, [])]
    fitted_to = models[-1].fitted_to  # the last model is kept
    sources = [good.sources[i] for i in fitted_to]
    if view is None:
        view = View.of(settings, sources, roi=roi, own=good.regions)
    key = _compute_key(encoder, settings, good.fingerprint + view.fingerprint())
    score_key = f"{key} {settings.smoothing}"
    features = _encode(encoder, sources, view, settings, work, key, group, progress)
    if group.size > 1:
        work = None  # processes would save their state at different steps
    reference = _find_reference(view, sources) if len(splits) > 1 else None
    waiting = [i for split in splits for i in split.unseen] or everything
    # Scoring an image takes less than twice as long as encoding it.
    pace = 2 * _time_encoding(encoder, sources, view, settings) if seconds < math.inf else 0.0
    scores = GoodScores()
    for number, split in enumerate(models):
        is_kept = number == len(models) - 1
        report = shift_progress(progress, number, len(models))
        folder = _make(work if work is None or is_kept else work / f"fold-{number + 1}")
        done = None if folder is None or is_kept else folder / "scores.safetensors"
        found = None if done is None else GoodScores.restore(done, score_key)
        if found is None:
            left = deadline - time.monotonic() - pace * len(waiting)
            levels, ended = fit_levels(
                encoder,
                [good.sources[i] for i in split.fitted_to],
                _select(features, split.fitted_to, fitted_to, settings.augment_copies),
                settings,
                view=view,
                seconds=left / (len(models) - number),
                work=folder,
                key=key,
                progress=report,
            )
            model = CflowModel(encoder, levels)
            # The reference is aligned with itself, as no new image is.
            unseen = split.unseen if splits else everything
            images = {i: good.sources[i] for i in unseen if i != reference}
            report = shift_progress(progress, number, max(1, len(splits)))
            found = GoodScores()
            if own := {i: images[i] for i in group.part(list(images))}:
                found = score_images(
                    model, settings, own, view=view, keep=MOST_SHOWN, progress=report
                )
            found = GoodScores.join(group.gather(found))
            if done is not None:
                found.save(done, score_key)
        scores.add(found)
        waiting = waiting[len(found.scores) :]
    return Fitted(model, ended, view, fitted_to, scores, len(splits))


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
    """Find the number of the image that the others are aligned to."""
    if view.reference is None:
        return None
    names = [source_name(source) or f"image {n}" for n, source in enumerate(sources, start=1)]
    return names.index(view.reference.name)


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
