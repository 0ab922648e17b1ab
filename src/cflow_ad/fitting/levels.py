"""Fit the levels of models to the encoded images: statistics, flow or memory, and scale.

No level needs another, so all levels of all models are fitted side by side, and split over the
processes of a group. By the paper's schedule the levels of one model are trained together.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeAlias

import torch

from cflow_ad.cflow.encoder import Encoder
from cflow_ad.cflow.level import Level, count_components, count_parts
from cflow_ad.data.images import ImageSource
from cflow_ad.fitting.features import LevelFeatures
from cflow_ad.fitting.group import ALONE, Group
from cflow_ad.fitting.likelihood import Ended, build_level, level_batch_size, train_level
from cflow_ad.fitting.memory import fit_memory
from cflow_ad.fitting.paper import images_in_a_pass, train_by_passes
from cflow_ad.fitting.place_means import subtract_place_means
from cflow_ad.fitting.progress import Progress, ProgressCallback, Stage, silent
from cflow_ad.fitting.scale import fit_scale
from cflow_ad.fitting.side_by_side import Start, run_all
from cflow_ad.scoring.view import View
from cflow_ad.settings import Settings

LANES = 6
"""Trainings that share a GPU: a flow's step fills a small part of it. `benchmarks/gpu.py` compares
other numbers."""

_COST_OF_MEMORY = 10_000  # of a vector, about in proportion to the time that it takes


class ToFit(NamedTuple):
    """What one model is fitted to."""

    sources: Sequence[ImageSource]
    features: Sequence[LevelFeatures]
    """Of each level: the vectors of the images, then those of their augmented copies."""
    work: Path | None = None
    """A folder for checkpoints; unset, none are kept."""

    def of_level(self, number: int, settings: Settings) -> LevelFeatures:
        """Get a level's vectors, less the means of their places if the method has them."""
        features = self.features[number]
        if not settings.method.place_means:
            return features
        parts = count_parts(settings.strides[number])
        return subtract_place_means(features, parts, len(self.sources))


class FittedLevels(NamedTuple):
    """Levels of one model."""

    levels: list[Level]
    ended: list[Ended]
    """How the training of each ended; by the paper's schedule one for all, its steps being passes.
    """


class _Part(NamedTuple):
    """What is trained as one: a level of a model, or all of them."""

    model: int
    levels: tuple[int, ...]
    cost: float
    """About in proportion to the time that it takes."""
    total: int
    """Steps, or images over all passes."""


_Fitted: TypeAlias = tuple[list[Level], Ended]
"""The levels of a part, and how their training ended."""


def fit_levels(
    encoder: Encoder,
    models: Sequence[ToFit],
    settings: Settings,
    *,
    view: View,
    seconds: float = math.inf,
    key: str = "",
    group: Group = ALONE,
    progress: ProgressCallback = silent,
) -> Iterator[FittedLevels]:
    """Fit the levels of each model; the other arguments are those of `fit_model`.

    Yields:
        The levels of one model after another, in all processes the same.

    Raises:
        ImageError: an image cannot be used.
        DivergenceError: the likelihood became NaN or infinite.
    """
    device = encoder.mean.device
    parts = _list_parts(models, settings)
    owners = dict(zip(parts, deal([part.cost for part in parts], group.size), strict=True))
    own = [part for part in parts if owners[part] == group.rank]
    if device.type == "cpu":  # the longest first, so that at the end none is left for one core
        own.sort(key=lambda part: -part.cost)
    stage: Stage = "train" if settings.paper is None else "passes"
    meter = _Meter(stage, own, settings, progress)
    fitted: dict[_Part, _Fitted] = {}
    if settings.paper is None:

        def begin(part: _Part) -> Start[_Fitted]:
            to_fit, report = models[part.model], meter.of(part)
            return partial(_fit_level, to_fit, part.levels[0], settings, device, key, report)

        found = run_all(
            [begin(part) for part in own],
            device,
            lanes=LANES,
            seconds=seconds,
            is_ending=group.is_ending,
        )
        group.gather(None)  # raises what may have ended the trainings
        fitted.update(zip(own, found, strict=True))
        del found
    else:
        deadline = time.monotonic() + seconds
        for done, part in enumerate(own):
            left = (deadline - time.monotonic()) / (len(own) - done)
            to_fit, report = models[part.model], meter.of(part)
            fitted[part] = _fit_by_passes(to_fit, encoder, settings, view, left, key, report)
    for number in range(len(models)):
        of_model = FittedLevels([], [])
        for part in parts:
            if part.model == number:
                levels, ended = _send(group, fitted.pop(part, None), owners[part])
                of_model.levels.extend(level.to(device) for level in levels)
                of_model.ended.append(ended)
        yield of_model


def deal(costs: Sequence[float], size: int) -> list[int]:
    """Deal parts of a work to so many workers, the costliest first, each to who has least.

    Example:
        >>> deal([1, 5, 1, 2], 2)
        [1, 0, 1, 1]
    """
    loads = [0.0] * size
    owners = [0] * len(costs)
    for part in sorted(range(len(costs)), key=lambda part: -costs[part]):
        owners[part] = loads.index(min(loads))
        loads[owners[part]] += costs[part]
    return owners


def _list_parts(models: Sequence[ToFit], settings: Settings) -> list[_Part]:
    """List what is trained, model by model."""
    numbers = range(len(settings.strides))
    parts = []
    for model, (sources, features, _) in enumerate(models):
        if settings.paper is not None:
            paper = settings.paper
            passes = paper.epochs * paper.passes_per_epoch
            total = passes * images_in_a_pass(len(sources), paper.images_per_batch)
            parts.append(_Part(model, tuple(numbers), total, total))
            continue
        steps = settings.steps_for(len(sources))
        for number in numbers:
            if settings.method.has_memory(number):
                parts.append(_Part(model, (number,), _COST_OF_MEMORY * settings.method.memory, 0))
                continue
            vectors = level_batch_size(settings, number, steps)
            channels = count_components(features[number].channels, settings.method)
            # Some of a step's time goes with its vectors, some with the parameters; measured.
            cost = steps * channels * (vectors + channels / 3)
            parts.append(_Part(model, (number,), cost, steps))
    return parts


def _fit_level(
    to_fit: ToFit,
    number: int,
    settings: Settings,
    device: torch.device,
    key: str,
    report: Callable[[int, float], None],
    seconds: float,
    is_stopped: Callable[[], bool],
) -> Generator[None, None, _Fitted]:
    """Fit one level; see `train_level`."""
    deadline = time.monotonic() + seconds
    features = to_fit.of_level(number, settings)
    level = build_level(features, settings, number, device)
    if settings.method.has_memory(number):
        same = fit_memory(level, features, settings, number, len(to_fit.sources))
        yield
        fit_scale(level, features, settings, number, same)
        return [level], Ended(0, "steps")
    ended = yield from train_level(
        level,
        features,
        settings,
        number=number,
        steps=settings.steps_for(len(to_fit.sources)),
        seconds=deadline - time.monotonic(),
        checkpoint=None if to_fit.work is None else to_fit.work / f"level-{number}.safetensors",
        key=key,
        is_stopped=is_stopped,
        progress=report,
    )
    fit_scale(level, features, settings, number)
    return [level], ended


def _fit_by_passes(
    to_fit: ToFit,
    encoder: Encoder,
    settings: Settings,
    view: View,
    seconds: float,
    key: str,
    report: Callable[[int, float], None],
) -> _Fitted:
    """Fit all levels of a model by the paper's schedule."""
    deadline = time.monotonic() + seconds
    features = [to_fit.of_level(number, settings) for number in range(len(settings.strides))]
    levels = [
        build_level(of_level, settings, number, encoder.mean.device)
        for number, of_level in enumerate(features)
    ]
    ended = train_by_passes(
        encoder,
        to_fit.sources,
        levels,
        settings,
        view=view,
        seconds=deadline - time.monotonic(),
        checkpoint=None if to_fit.work is None else to_fit.work / "passes.safetensors",
        key=key,
        progress=report,
    )
    for number, (level, of_level) in enumerate(zip(levels, features, strict=True)):
        fit_scale(level, of_level, settings, number)
    return levels, ended


def _send(group: Group, fitted: _Fitted | None, owner: int) -> _Fitted:
    """Send what one process has fitted to all."""
    if fitted is not None and group.size > 1:
        for level in fitted[0]:
            level.cpu()  # each process may have another GPU
    found = group.send(fitted, owner)
    assert found is not None
    return found


class _Meter:
    """Reports the progress of all parts together, from several threads."""

    def __init__(
        self, stage: Stage, parts: Sequence[_Part], settings: Settings, progress: ProgressCallback
    ) -> None:
        self._stage, self._progress, self._strides = stage, progress, settings.strides
        self._done = dict.fromkeys(parts, 0)
        self._lock = threading.Lock()

    def of(self, part: _Part) -> Callable[[int, float], None]:
        """Return a function that is called with what is done of a part, and its loss."""

        def report(done: int, loss: float) -> None:
            with self._lock:
                self._done[part] = done
                stride = self._strides[part.levels[0]] if len(part.levels) == 1 else None
                done, total = sum(self._done.values()), sum(of.total for of in self._done)
                self._progress(Progress(self._stage, done, total, loss, stride))

        return report
