"""Fit one model's levels to some of the encoded images: statistics, then a flow for each level."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from cflow_ad.cflow.encoder import Encoder
from cflow_ad.cflow.level import Level, count_parts
from cflow_ad.data.images import ImageSource
from cflow_ad.fitting.features import LevelFeatures
from cflow_ad.fitting.likelihood import Ended, build_level, train_levels
from cflow_ad.fitting.paper import train_by_passes
from cflow_ad.fitting.place_means import subtract_place_means
from cflow_ad.fitting.progress import Progress, ProgressCallback, silent
from cflow_ad.fitting.scale import fit_scale
from cflow_ad.scoring.view import View
from cflow_ad.settings import Settings


def fit_levels(
    encoder: Encoder,
    sources: Sequence[ImageSource],
    features: Sequence[LevelFeatures],
    settings: Settings,
    *,
    view: View,
    seconds: float = math.inf,
    work: Path | None = None,
    key: str = "",
    progress: ProgressCallback = silent,
) -> tuple[list[Level], list[Ended]]:
    """Fit the levels to good images.

    Arguments are those of `fit_model`; `features` are, of each level, the vectors of the images,
    then those of their augmented copies.

    Returns:
        The levels, and how the training of each ended; by the paper's schedule one for all, its
        steps being passes.

    Raises:
        ImageError: an image cannot be used.
        DivergenceError: the likelihood became NaN or infinite.
    """
    if settings.method.place_means:
        features = [
            subtract_place_means(of_level, count_parts(stride), len(sources))
            for of_level, stride in zip(features, settings.strides, strict=True)
        ]
    device = encoder.mean.device
    levels = [
        build_level(of_level, settings, number).to(device)
        for number, of_level in enumerate(features)
    ]
    if settings.paper is not None:
        by_passes = train_by_passes(
            encoder,
            sources,
            levels,
            settings,
            view=view,
            seconds=seconds,
            checkpoint=None if work is None else work / "passes.safetensors",
            key=key,
            progress=lambda done, total, loss: progress(Progress("passes", done, total, loss)),
        )
        ended = [by_passes]
    else:
        ended = train_levels(
            levels,
            features,
            settings,
            steps=settings.steps_for(len(sources)),
            seconds=seconds,
            work=work,
            key=key,
            progress=progress,
        )
    for number, (level, of_level) in enumerate(zip(levels, features, strict=True)):
        fit_scale(level, of_level, settings, number)
    return levels, ended
