"""From good images to fitted levels: encode once, then train one flow for each level."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cflow_ad._version import __version__
from cflow_ad.cflow.encoder import Encoder
from cflow_ad.cflow.level import Level, count_parts
from cflow_ad.data.augmentation import variants
from cflow_ad.data.images import ImageSource, image_shape
from cflow_ad.errors import TrainingError
from cflow_ad.fitting.cache import build_cache
from cflow_ad.fitting.likelihood import Ended, build_level, train_levels
from cflow_ad.fitting.paper import train_by_passes
from cflow_ad.fitting.place_means import subtract_place_means
from cflow_ad.fitting.progress import Progress, ProgressCallback, silent
from cflow_ad.fitting.scale import fit_scale
from cflow_ad.fitting.screening import Encoded, Screening, screen
from cflow_ad.scoring.view import View
from cflow_ad.settings import Settings

_BEYOND_TRAINING = ("smoothing", "false_alarm_rate", "weights")
"""Settings that change nothing in the features or the flows."""


class Fitted(NamedTuple):
    """Levels, and how their training ended."""

    levels: list[Level]
    ended: list[Ended]
    """One for each level; by the paper's schedule one for all, its steps being passes."""
    screening: Screening
    """Of the training images, then of the calibration set."""


def fit_levels(
    encoder: Encoder,
    sources: Sequence[ImageSource],
    settings: Settings,
    *,
    fingerprint: str,
    view: View,
    seconds: float = math.inf,
    held_out: Sequence[ImageSource] = (),
    work: Path | None = None,
    progress: ProgressCallback = silent,
) -> Fitted:
    """Fit the levels to good images.

    Args:
        encoder: frozen.
        sources: the images, at least one.
        settings: of the model.
        fingerprint: of the images, and of the regions of interest.
        view: of the model.
        seconds: time limit. The images are encoded in any case.
        held_out: the calibration set, which is only screened here. Time is left for the caller to
            score it, or the training images where it is empty.
        work: a folder for checkpoints; a run with the same settings and images continues from
            them. Unset, everything stays in memory.
        progress: called as the work advances.

    Raises:
        ImageError: an image cannot be used.
        SettingsError: `feature_budget` is too small.
        DivergenceError: the likelihood became NaN or infinite.
        TrainingError: the work folder cannot be used.
    """
    began = time.monotonic()
    key = _key(encoder, settings, fingerprint)
    if work is not None:
        try:
            work.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            why = f"the work folder cannot be made ({error.strerror})"
            raise TrainingError(f"{work}: {why}") from error
    n = len(sources)
    copies = variants(
        sources,
        settings.augment_copies,
        rotation=settings.augment_rotation,
        shift=settings.augment_shift,
        brightness=settings.augment_brightness,
        seed=settings.seed,
    )
    features = build_cache(
        encoder, [*sources, *copies], view, settings, folder=work, key=key, progress=progress
    )
    parts = [Encoded(features, [image_shape(source) for source in sources])]
    if held_out:
        budget = settings.feature_budget * len(held_out) / n
        others = build_cache(
            encoder, held_out, view, settings, budget=budget, stage="screen", progress=progress
        )
        parts.append(Encoded(others, [image_shape(source) for source in held_out]))
    screening = screen(parts, settings)
    if settings.method.place_means:
        features = [
            subtract_place_means(of_level, count_parts(stride), n)
            for of_level, stride in zip(features, settings.strides, strict=True)
        ]
    device = encoder.mean.device
    levels = [
        build_level(of_level, settings, number).to(device)
        for number, of_level in enumerate(features)
    ]
    # Scoring an image takes less than twice as long as encoding it.
    spent = time.monotonic() - began
    to_score = len(held_out) or n
    encoded = n + len(copies) + len(held_out)
    left = seconds - spent * (1 + 2 * to_score / encoded)
    if settings.paper is not None:
        by_passes = train_by_passes(
            encoder,
            sources,
            levels,
            settings,
            view=view,
            seconds=left,
            checkpoint=None if work is None else work / "passes.safetensors",
            key=key,
            progress=lambda done, total, loss: progress(Progress("passes", done, total, loss)),
        )
        ended = [by_passes]
    else:
        ended = train_levels(
            levels, features, settings, seconds=left, work=work, key=key, progress=progress
        )
    for number, (level, of_level) in enumerate(zip(levels, features, strict=True)):
        fit_scale(level, of_level, settings, number)
    return Fitted(levels, ended, screening)


def work_folder(model: Path) -> Path:
    """Return the folder of checkpoints that the command line uses in training `model`."""
    return model.with_name(model.name + ".work")


def discard(work: Path) -> None:
    """Remove a folder of checkpoints."""
    shutil.rmtree(work, ignore_errors=True)


def _key(encoder: Encoder, settings: Settings, fingerprint: str) -> str:
    relevant = {k: v for k, v in settings.to_dict().items() if k not in _BEYOND_TRAINING}
    text = json.dumps([__version__, relevant, encoder.spec.sha256, fingerprint], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
