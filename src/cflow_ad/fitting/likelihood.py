"""Maximum likelihood: train one level's flow on the vectors of good images."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cflow_ad.cflow.flow import ConditionalFlow
from cflow_ad.cflow.model import Level
from cflow_ad.cflow.place_means import PlaceMeans
from cflow_ad.cflow.whitening import InputLayer, fit_input_layer
from cflow_ad.errors import DivergenceError
from cflow_ad.fitting.cache import LevelFeatures
from cflow_ad.fitting.checkpoint import Checkpoint, State
from cflow_ad.fitting.scale import place_parts
from cflow_ad.settings import Settings

_EVERY = 25  # steps between two looks at the held-out vectors
_RAMP = 25  # steps over which the learning rate falls to 0 once they stand still
_JUDGED = 4096  # held-out vectors looked at


def new_level(features: LevelFeatures, settings: Settings, number: int) -> Level:
    """A level before training: the input layer fitted to its vectors, the flow at its start."""
    channels = features.vectors.shape[1]
    input_layer = fit_input_layer(
        settings.input_layer, features.chunks(), channels, shrinkage=settings.shrinkage
    )
    # Of its own, since the level may go to another device.
    means = copy.deepcopy(features.means)
    return Level(input_layer, new_flow(channels, settings, number), means=means)


def empty_level(channels: int, settings: Settings, number: int) -> Level:
    """A level of the right shapes without values, to be loaded from a model file."""
    shape = (channels, channels) if settings.input_layer == "whiten" else (channels,)
    with torch.device("meta"):
        layer = InputLayer(torch.empty(channels), torch.empty(shape))
        flow = _flow(channels, settings, number, None)
        parts = place_parts(settings, number)
        means = (
            PlaceMeans(torch.empty(0, parts, parts, channels), torch.empty(0))
            if settings.local_mean
            else None
        )
        return Level(layer, flow, parts if settings.local_scale else None, means).requires_grad_(
            False
        )


def new_flow(channels: int, settings: Settings, number: int) -> ConditionalFlow:
    """A level's flow before training, by the settings and their seed."""
    seed = 1000 * settings.seed + number
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _flow(channels, settings, number, seed)


def _flow(channels: int, settings: Settings, number: int, seed: int | None) -> ConditionalFlow:
    return ConditionalFlow(
        channels,
        blocks=settings.blocks,
        clamp=settings.clamp,
        position_channels=settings.position_channels,
        permutation=settings.permutation,
        width=settings.subnet_width or None,
        seed=seed,
        stride=settings.levels[number] if settings.positions == "relative" else None,
    )


def loss_of(log_likelihood: Tensor, kind: str) -> Tensor:
    """The training loss of log-likelihoods per dimension, shape `(n,)`: a scalar."""
    if kind == "logsigmoid":
        return -F.logsigmoid(log_likelihood).mean()
    return -log_likelihood.mean()


def learning_rate_at(step: int, steps: int, peak: float) -> float:
    """Linear warm-up over the first tenth, then a cosine to 0."""
    warm_up = max(1, steps // 10)
    return peak * min(1.0, (step + 1) / warm_up) * 0.5 * (1 + math.cos(math.pi * step / steps))


def check_finite(loss: float, where: str) -> None:
    """Stop a training that has diverged.

    Raises:
        DivergenceError: the loss is NaN or infinite.
    """
    if not math.isfinite(loss):
        raise DivergenceError(
            f"training diverged: the loss is {loss} at {where}; lower learning_rate, or use "
            "input_layer=whiten"
        )


class Ended(NamedTuple):
    """How the training of a level came to its end."""

    steps: int
    why: Literal["steps", "likelihood", "time"]
    """All steps were taken; the held-out likelihood stood still; time was up."""


def train_level(
    level: Level,
    features: LevelFeatures,
    settings: Settings,
    *,
    number: int,
    batch_size: int,
    seconds: float = math.inf,
    checkpoint: Path | None = None,
    key: str = "",
    is_stopped: Callable[[], bool] = lambda: False,
    progress: Callable[[int, float], None] = lambda step, loss: None,
) -> Ended:
    """Train the flow of one level, in place.

    Args:
        level: with its flow at its start.
        features: the level's vectors.
        settings: how.
        number: of the level, which keeps its random choices apart from the others'.
        batch_size: vectors in a step.
        seconds: to be done in; the learning rate falls to 0 over the last tenth of them.
        checkpoint: a file to save to every few seconds, and to take up from where it was written
            with the same `key`.
        key: names everything the level depends on.
        is_stopped: asked after each step; once true, the state is saved and training left.
        progress: called after each step with the number of steps done and the smoothed loss.

    Raises:
        DivergenceError: the loss became NaN or infinite.
    """
    began = time.monotonic()
    parameters = dict(level.flow.named_parameters())
    optimiser = torch.optim.Adam(parameters.values(), lr=settings.learning_rate, fused=True)
    kept = Checkpoint(checkpoint, key, parameters, optimiser)
    judge = _Judge(features, settings, number)
    device = level.reference.device
    state = kept.restore()
    if checkpoint is not None:
        progress(state.done, state.loss)
    while state.done < (settings.steps if state.until is None else state.until):
        left = seconds - (time.monotonic() - began)
        if left <= 0:
            return Ended(state.done, "time")
        step = state.done
        # A generator for each step, so that a resumed run draws what the first would have drawn.
        rng = np.random.default_rng([settings.seed, number, 0, step])
        index = np.sort(rng.integers(features.to_train_on, size=batch_size))
        z, rows, columns = (value.to(device) for value in features.take(index))
        rate = learning_rate_at(step, settings.steps, settings.learning_rate)
        if state.until is not None:
            rate *= (state.until - step) / _RAMP
        for group in optimiser.param_groups:
            group["lr"] = rate * (min(1.0, 10 * left / seconds) if seconds < math.inf else 1.0)
        loss = loss_of(level(z, rows, columns), settings.loss)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        state.done += 1
        value = loss.item()
        check_finite(value, f"step {state.done} of level {number + 1}")
        state.smooth(value)
        if state.until is None and judge.stands_still(level, state):
            state.until = min(settings.steps, state.done + _RAMP)
        stopped = is_stopped()
        kept.save(state, now=stopped or state.done in (settings.steps, state.until))
        progress(state.done, state.loss)
        if stopped:
            break
    return Ended(state.done, "steps" if state.done >= settings.steps else "likelihood")


class _Judge:
    """Asks, now and then, whether held-out good vectors still become more likely."""

    def __init__(self, features: LevelFeatures, settings: Settings, number: int) -> None:
        first = features.to_train_on
        rng = np.random.default_rng([settings.seed, number, 2])
        count = min(_JUDGED, features.held_out)
        index = first + np.sort(rng.choice(features.held_out, count, replace=False))
        self._vectors = features.take(index) if count else None
        self._least = settings.least_gain
        self._warm_up = settings.steps // 10

    def stands_still(self, level: Level, state: State) -> bool:
        """Whether the last `2 * _EVERY` steps have gained too little."""
        if self._vectors is None or state.done % _EVERY or state.done <= self._warm_up:
            return False
        with torch.inference_mode():
            z, rows, columns = (value.to(level.reference.device) for value in self._vectors)
            state.judged.append(float(level(z, rows, columns).mean()))
        earlier = state.judged[:-2]
        return bool(earlier) and state.judged[-1] < max(earlier) + self._least
