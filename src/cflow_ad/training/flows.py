"""Maximum likelihood: fit one level's flow to the vectors of good images."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor
from torch.nn import functional as F

from cflow_ad.errors import DivergenceError
from cflow_ad.model.flow import ConditionalFlow
from cflow_ad.model.network import Level
from cflow_ad.model.whitening import fit_input_layer
from cflow_ad.settings import Settings
from cflow_ad.training.cache import LevelFeatures

_SAVE_SECONDS = 5.0
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
    channels = features.vectors.shape[1]
    input_layer = fit_input_layer(
        settings.input_layer, features.chunks(), channels, shrinkage=settings.shrinkage
    )
    level = Level(input_layer, new_flow(channels, settings, number)).to(device)
    _train(level, features, settings, number, batch_size, checkpoint, key, progress)
    level.eval().requires_grad_(False)
    fit_scale(level, features, settings, number)
    return level


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
    """Set what counts as likely at this level, by quantiles of good likelihoods.

    The median scores 0. The scale is that of the unlikely side alone, since only there is anything
    to find.
    """
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


def _train(
    level: Level,
    features: LevelFeatures,
    settings: Settings,
    number: int,
    batch_size: int,
    checkpoint: Path | None,
    key: str,
    progress: Callable[[int, float], None],
) -> None:
    parameters = dict(level.flow.named_parameters())
    optimiser = torch.optim.Adam(parameters.values(), lr=settings.learning_rate)
    device = level.reference.device
    step, smoothed = 0, math.nan
    if checkpoint is not None:
        step, smoothed = _restore(checkpoint, key, parameters, optimiser)
        progress(step, smoothed)
    saved = time.monotonic()
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
        if not math.isfinite(value):
            raise DivergenceError(
                f"training diverged: the loss is {value} at step {step} of level {number + 1}; "
                "lower learning_rate, or use input_layer=whiten"
            )
        smoothed = value if math.isnan(smoothed) else 0.9 * smoothed + 0.1 * value
        if checkpoint is not None and (
            step == settings.steps or time.monotonic() - saved > _SAVE_SECONDS
        ):
            _save(checkpoint, key, step, smoothed, parameters, optimiser)
            saved = time.monotonic()
        progress(step, smoothed)


def _save(
    path: Path,
    key: str,
    step: int,
    smoothed: float,
    parameters: dict[str, torch.nn.Parameter],
    optimiser: torch.optim.Adam,
) -> None:
    tensors = {name: value.detach() for name, value in parameters.items()}
    for name, parameter in parameters.items():
        state = optimiser.state[parameter]
        tensors[f"{name}@mean"] = state["exp_avg"]
        tensors[f"{name}@square"] = state["exp_avg_sq"]
    new = path.with_name(path.name + ".new")
    metadata = {"key": key, "step": str(step), "loss": repr(smoothed)}
    safetensors.torch.save_file(tensors, new, metadata=metadata)
    new.replace(path)


def _restore(
    path: Path,
    key: str,
    parameters: dict[str, torch.nn.Parameter],
    optimiser: torch.optim.Adam,
) -> tuple[int, float]:
    """Take up an earlier run's parameters and moments: the steps it had done, and its loss."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("key") != key:
                return 0, math.nan
            step = int(metadata["step"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, safetensors.SafetensorError):
        return 0, math.nan
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])
            optimiser.state[parameter] = {
                "step": torch.tensor(float(step)),
                "exp_avg": tensors[f"{name}@mean"].to(parameter),
                "exp_avg_sq": tensors[f"{name}@square"].to(parameter),
            }
    return step, float(metadata["loss"])
