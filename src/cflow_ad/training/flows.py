"""Maximum likelihood: fit one level's flow to the vectors of good images."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cflow_ad.errors import DivergenceError
from cflow_ad.model.flow import ConditionalFlow
from cflow_ad.model.network import Level
from cflow_ad.model.whitening import fit_input_layer
from cflow_ad.settings import Settings
from cflow_ad.training.cache import LevelFeatures
from cflow_ad.training.checkpoint import Checkpoint

_SAMPLE = 65536  # vectors that a level's scale is fitted on
_TAIL_SCORE = 3.0  # what the tail quantile scores where all levels agree


def fit_level(
    features: LevelFeatures,
    settings: Settings,
    *,
    number: int,
    batch_size: int,
    device: torch.device,
    checkpoint: Path | None = None,
    key: str = "",
    progress: Callable[[int, float], None] = lambda step, loss: None,
) -> Level:
    """Fit the input layer, the flow and the scale of one level.

    Args:
        features: the level's vectors.
        settings: how.
        number: of the level, which keeps its random choices apart from the others'.
        batch_size: vectors in a step.
        device: where to train.
        checkpoint: a file to save to every few seconds, and to take up from where it was written
            with the same `key`.
        key: names everything the level depends on.
        progress: called after each step with the number of steps done and the smoothed loss.

    Raises:
        DivergenceError: the loss became NaN or infinite.
    """
    level = new_level(features, settings, number).to(device)
    _train(level, features, settings, number, batch_size, checkpoint, key, progress)
    fit_scale(level, features, settings, number)
    return level


def new_level(features: LevelFeatures, settings: Settings, number: int) -> Level:
    """A level before training: the input layer fitted to its vectors, the flow at its start."""
    channels = features.vectors.shape[1]
    input_layer = fit_input_layer(
        settings.input_layer, features.chunks(), channels, shrinkage=settings.shrinkage
    )
    return Level(input_layer, new_flow(channels, settings, number))


def new_flow(channels: int, settings: Settings, number: int) -> ConditionalFlow:
    """A level's flow before training, by the settings and their seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1000 * settings.seed + number)
        return ConditionalFlow(
            channels,
            blocks=settings.blocks,
            clamp=settings.clamp,
            position_channels=settings.position_channels,
            permutation=settings.permutation,
            seed=1000 * settings.seed + number,
        )


@torch.inference_mode()
def fit_scale(level: Level, features: LevelFeatures, settings: Settings, number: int) -> None:
    """End a level's training: set what counts as likely, by quantiles of good likelihoods.

    The median scores 0. The scale is that of the unlikely side alone, since only there is anything
    to find.
    """
    level.eval().requires_grad_(False)
    rng = np.random.default_rng([settings.seed, number, 1])
    index = np.sort(rng.choice(len(features), min(_SAMPLE, len(features)), replace=False))
    parts = []
    for part in np.array_split(index, max(1, len(index) // 4096)):
        z, rows, columns = (value.to(level.reference.device) for value in features.take(part))
        parts.append(level(z, rows, columns))
    likelihoods = torch.cat(parts).double()
    if not likelihoods.isfinite().all():
        raise DivergenceError("the likelihood of good vectors is not finite; lower learning_rate")
    median, tail = likelihoods.quantile(
        torch.tensor([0.5, settings.tail_quantile], device=likelihoods.device, dtype=torch.float64)
    )
    level.reference.copy_(median)
    # Images without any variation leave no spread; the floor keeps the scale finite.
    level.spread.copy_(((median - tail) / _TAIL_SCORE).clamp(min=1e-3))


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


def smooth(mean: float, value: float) -> float:
    """Moving average of the loss; `nan` before the first."""
    return value if math.isnan(mean) else 0.9 * mean + 0.1 * value


def _train(
    level: Level,
    features: LevelFeatures,
    settings: Settings,
    number: int,
    batch_size: int,
    path: Path | None,
    key: str,
    progress: Callable[[int, float], None],
) -> None:
    parameters = dict(level.flow.named_parameters())
    optimiser = torch.optim.Adam(parameters.values(), lr=settings.learning_rate)
    checkpoint = Checkpoint(path, key, parameters, optimiser)
    device = level.reference.device
    step, smoothed = checkpoint.restore() or (0, math.nan)
    if path is not None:
        progress(step, smoothed)
    while step < settings.steps:
        # A generator for each step, so that a resumed run draws what the first would have drawn.
        rng = np.random.default_rng([settings.seed, number, 0, step])
        index = np.sort(rng.integers(len(features), size=batch_size))
        z, rows, columns = (value.to(device) for value in features.take(index))
        for group in optimiser.param_groups:
            group["lr"] = learning_rate_at(step, settings.steps, settings.learning_rate)
        loss = loss_of(level(z, rows, columns), settings.loss)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        step += 1
        value = loss.item()
        check_finite(value, f"step {step} of level {number + 1}")
        smoothed = smooth(smoothed, value)
        checkpoint.save(step, smoothed, now=step == settings.steps)
        progress(step, smoothed)
