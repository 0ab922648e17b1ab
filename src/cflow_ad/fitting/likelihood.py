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

from cflow_ad.cflow.level import Level, build_flow
from cflow_ad.cflow.whitening import fit_whitening, raw_layer
from cflow_ad.errors import DivergenceError
from cflow_ad.fitting.cache import LevelFeatures
from cflow_ad.fitting.checkpoint import Checkpoint
from cflow_ad.settings import Settings


def build_level(features: LevelFeatures, settings: Settings, number: int) -> Level:
    """Build a level before training: the input layer fitted, the flow in its initial state."""
    channels = features.vectors.shape[1]
    layer = raw_layer(channels)
    if settings.method.whiten:
        layer = fit_whitening(features.chunks(), channels)
    # Means of its own, since the level may go to another device.
    means = copy.deepcopy(features.means)
    return Level(layer, build_flow(channels, settings, number, seeded=True), means=means)


def compute_loss(log_likelihood: Tensor) -> Tensor:
    """Compute the paper's loss of log-likelihoods per dimension, shape `(n,)`: a scalar."""
    return -F.logsigmoid(log_likelihood).mean()


def learning_rate_at(step: int, steps: int, peak: float) -> float:
    """Compute the learning rate: a linear warm-up over the first tenth, then a cosine to 0."""
    warm_up = max(1, steps // 10)
    return peak * min(1.0, (step + 1) / warm_up) * 0.5 * (1 + math.cos(math.pi * step / steps))


def check_finite(loss: float, where: str) -> None:
    """Raise a DivergenceError if the loss is NaN or infinite."""
    if not math.isfinite(loss):
        raise DivergenceError(
            f"training diverged: the loss is {loss} at {where}; lower learning_rate"
        )


class Ended(NamedTuple):
    """How the training of a level ended."""

    steps: int
    why: Literal["steps", "time"]


def train_level(
    level: Level,
    features: LevelFeatures,
    settings: Settings,
    *,
    number: int,
    seconds: float = math.inf,
    checkpoint: Path | None = None,
    key: str = "",
    is_stopped: Callable[[], bool] = lambda: False,
    progress: Callable[[int, float], None] = lambda step, loss: None,
) -> Ended:
    """Train the flow of one level, in place.

    Args:
        level: its flow in its initial state.
        features: the level's vectors.
        settings: of the model.
        number: of the level, which separates its random choices from the others'.
        seconds: time limit; the learning rate falls to 0 over its last tenth.
        checkpoint: a file to save to every few seconds, and to continue from where it was written
            with the same `key`.
        key: identifies everything that the level depends on.
        is_stopped: called after each step; once true, the state is saved and training ends.
        progress: called after each step with the number of steps done and the smoothed loss.

    Raises:
        DivergenceError: the loss became NaN or infinite.
    """
    began = time.monotonic()
    parameters = dict(level.flow.named_parameters())
    optimiser = torch.optim.Adam(parameters.values(), lr=settings.learning_rate, fused=True)
    kept = Checkpoint(checkpoint, key, parameters, optimiser)
    batch_size = level_batch_size(settings, number)
    device = level.location.device
    state = kept.restore()
    if checkpoint is not None:
        progress(state.done, state.loss)
    while state.done < settings.steps:
        left = seconds - (time.monotonic() - began)
        if left <= 0:
            return Ended(state.done, "time")
        step = state.done
        # A generator for each step, so that a resumed run draws what the first would have drawn.
        rng = np.random.default_rng([settings.seed, number, 0, step])
        index = np.sort(rng.integers(len(features), size=batch_size))
        z, rows, columns = (value.to(device) for value in features.take(index))
        rate = learning_rate_at(step, settings.steps, settings.learning_rate)
        for group in optimiser.param_groups:
            group["lr"] = rate * (min(1.0, 10 * left / seconds) if seconds < math.inf else 1.0)
        loss = compute_loss(level(z, rows, columns))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        state.done += 1
        value = loss.item()
        check_finite(value, f"step {state.done} of level {number + 1}")
        state.smooth(value)
        stopped = is_stopped()
        kept.save(state, now=stopped or state.done == settings.steps)
        progress(state.done, state.loss)
        if stopped:
            break
    return Ended(state.done, "steps")


def level_batch_size(settings: Settings, number: int) -> int:
    """Compute the vectors in a step: in proportion to the level's positions, so that a step of any
    level sees the same number of images' worth.
    """
    return max(1, settings.batch_size * settings.strides[0] ** 2 // settings.strides[number] ** 2)
