"""From good images to fitted levels: encode once, then train one flow after another."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import cast

from cflow_ad.data.images import ImageSource
from cflow_ad.errors import TrainingError
from cflow_ad.model.encoder import Encoder
from cflow_ad.model.network import CflowNetwork, Level
from cflow_ad.settings import Settings
from cflow_ad.training.cache import LevelFeatures, build_cache
from cflow_ad.training.flows import fit_level, fit_scale, new_level
from cflow_ad.training.passes import train_by_passes
from cflow_ad.training.progress import Progress, ProgressCallback, silent

_BEYOND_TRAINING = ("smoothing", "false_alarm_rate", "weights")
"""Settings that change nothing in the features or the flows."""


def fit_levels(
    encoder: Encoder,
    sources: Sequence[ImageSource],
    settings: Settings,
    *,
    fingerprint: str,
    work: Path | None = None,
    progress: ProgressCallback = silent,
) -> list[Level]:
    """Fit the levels to good images.

    Args:
        encoder: frozen.
        sources: the images, at least one.
        settings: how.
        fingerprint: of the images.
        work: a folder for what a killed run would lose; taken up from where it was left by a run
            with the same settings and images. Unset, everything stays in memory.
        progress: told how far the work has come.

    Raises:
        ImageError: an image cannot be used.
        DivergenceError: the likelihood became NaN or infinite.
        TrainingError: the work folder cannot be used.
    """
    key = _key(encoder, settings, fingerprint)
    if work is not None:
        _open(work)
    features = build_cache(
        encoder,
        sources,
        settings.sizing,
        budget=settings.feature_budget,
        seed=settings.seed,
        folder=work,
        key=key,
        progress=lambda done, total: progress(Progress("encode", done, total)),
    )
    if settings.schedule == "paper":
        return _fit_by_passes(encoder, sources, features, settings, work, key, progress)
    strides = encoder.spec.strides
    total = settings.steps * len(strides)
    levels = []
    for number, (stride, of_level) in enumerate(zip(strides, features, strict=True)):
        before = settings.steps * number

        def report(step: int, loss: float, before: int = before, stride: int = stride) -> None:
            progress(Progress("train", before + step, total, loss, stride))

        levels.append(
            fit_level(
                of_level,
                settings,
                number=number,
                batch_size=level_batch_size(settings, stride),
                device=encoder.mean.device,
                checkpoint=None if work is None else work / f"level-{stride}.safetensors",
                key=key,
                progress=report,
            )
        )
    return levels


def _fit_by_passes(
    encoder: Encoder,
    sources: Sequence[ImageSource],
    features: Sequence[LevelFeatures],
    settings: Settings,
    work: Path | None,
    key: str,
    progress: ProgressCallback,
) -> list[Level]:
    levels = [
        new_level(of_level, settings, number).to(encoder.mean.device)
        for number, of_level in enumerate(features)
    ]
    train_by_passes(
        encoder,
        sources,
        levels,
        settings,
        checkpoint=None if work is None else work / "passes.safetensors",
        key=key,
        progress=lambda done, total, loss: progress(Progress("passes", done, total, loss)),
    )
    for number, (level, of_level) in enumerate(zip(levels, features, strict=True)):
        fit_scale(level, of_level, settings, number)
    return levels


def rescale_levels(
    network: CflowNetwork,
    sources: Sequence[ImageSource],
    settings: Settings,
    *,
    progress: ProgressCallback = silent,
) -> CflowNetwork:
    """Fit the scale of every level to good images.

    Args:
        network: left as it is.
        sources: the images, at least one.
        settings: those of the model.
        progress: told how far the work has come.

    Returns:
        A network with the encoder and the flows of the one given, and scales of its own.

    Raises:
        ImageError: an image cannot be used.
        DivergenceError: a likelihood is NaN or infinite.
    """
    encoder = network.encoder
    features = build_cache(
        encoder,
        sources,
        settings.sizing,
        budget=settings.feature_budget,
        seed=settings.seed,
        progress=lambda done, total: progress(Progress("encode", done, total)),
    )
    levels = []
    for number, (old, of_level) in enumerate(
        zip(cast(Iterable[Level], network.levels), features, strict=True)
    ):
        level = Level(old.input_layer, old.flow).to(encoder.mean.device)
        fit_scale(level, of_level, settings, number)
        levels.append(level)
    return CflowNetwork(encoder, levels).eval()


def level_batch_size(settings: Settings, stride: int) -> int:
    """Vectors in a step: a level with fewer positions takes as many fewer, so that a step of any
    level sees the same number of images' worth.
    """
    return max(1, settings.batch_size * min(settings.strides) ** 2 // stride**2)


def work_folder(model: Path) -> Path:
    """Where the command line keeps what a killed run of training `model` would lose."""
    return model.with_name(model.name + ".work")


def discard(work: Path) -> None:
    """Remove a work folder and what this package put there."""
    shutil.rmtree(work, ignore_errors=True)


def _key(encoder: Encoder, settings: Settings, fingerprint: str) -> str:
    relevant = {k: v for k, v in settings.to_dict().items() if k not in _BEYOND_TRAINING}
    text = json.dumps([relevant, encoder.spec.sha256, fingerprint], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _open(work: Path) -> None:
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(f"{work}: the work folder cannot be made ({error.strerror})") from error
