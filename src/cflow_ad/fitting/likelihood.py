"""Maximum likelihood: train one level's flow on the vectors of good images."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from cflow_ad.cflow.graphs import Repeated
from cflow_ad.cflow.level import Level, build_density, count_components, position_stride
from cflow_ad.cflow.whitening import fit_whitening, raw_layer
from cflow_ad.errors import DivergenceError
from cflow_ad.fitting.batches import BLOCK, Batches
from cflow_ad.fitting.checkpoint import Checkpoint
from cflow_ad.fitting.features import LevelFeatures
from cflow_ad.settings import Settings

_CPU = torch.device("cpu")


def build_level(
    features: LevelFeatures,
    settings: Settings,
    number: int,
    device: torch.device = _CPU,
) -> Level:
    """Build a level before training, on a device: the input layer fitted, the flow in its initial
    state, or the memory empty.
    """
    channels = count_components(features.channels, settings.method)
    layer = raw_layer(channels)
    if settings.method.whiten:
        # In float64, which few accelerators but NVIDIA's have.
        where = device if device.type == "cuda" else _CPU
        layer = fit_whitening(features.chunks(where), channels)
    # Means of its own, since the level may go to another device.
    means = copy.deepcopy(features.means)
    density = build_density(channels, settings, number, seeded=True)
    level = Level(layer, density, stride=position_stride(settings, number), means=means)
    return level.to(device)


def compute_loss(log_likelihood: Tensor) -> Tensor:
    """Compute the paper's loss, a scalar, from log-likelihoods per dimension, shape `(n,)`."""
    return -F.logsigmoid(log_likelihood).mean()


def learning_rate_at(step: int, steps: int, peak: float) -> float:
    """Compute the learning rate: a linear warm-up over the first tenth, then a cosine to 0."""
    warm_up = max(1, steps // 10)
    return peak * min(1.0, (step + 1) / warm_up) * 0.5 * (1 + math.cos(math.pi * step / steps))


def check_finite(loss: float, where: str) -> None:
    """Raise a DivergenceError if the loss is NaN or infinite."""
    if not math.isfinite(loss):
        raise DivergenceError(
            f"training diverged: the loss is {loss} at {where}; lower learning_rate",
            code="training.diverged",
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
    steps: int,
    seconds: float = math.inf,
    checkpoint: Path | None = None,
    key: str = "",
    is_stopped: Callable[[], bool] = lambda: False,
    progress: Callable[[int, float], None] = lambda step, loss: None,
) -> Generator[None, None, Ended]:
    """Train the flow of one level, in place.

    It goes on by a block of steps each time it is resumed. Values are read back from the device
    once a block, when the trainings beside this one have had their turn.

    Args:
        level: its flow in its initial state.
        features: the level's vectors.
        settings: of the model.
        number: of the level, which separates its random choices from the others'.
        steps: optimiser steps.
        seconds: time limit; the learning rate falls to 0 over its last tenth.
        checkpoint: a file to save to every few seconds, and to continue from where it was written
            with the same `key`.
        key: identifies everything that the level depends on.
        is_stopped: called after each step; once true, the state is saved and training ends.
        progress: called after each block with the number of steps done and the smoothed loss.

    Raises:
        DivergenceError: the loss became NaN or infinite.
    """
    began = time.monotonic()
    parameters = dict(level.density.named_parameters())
    optimiser = torch.optim.Adam(parameters.values(), lr=settings.learning_rate, fused=True)
    kept = Checkpoint(checkpoint, key, parameters, optimiser)
    state = kept.restore()
    if checkpoint is not None:
        progress(state.done, state.loss)
    if state.done >= steps:
        return Ended(state.done, "steps")
    batches = Batches(
        level, features, level_batch_size(settings, number, steps), (settings.seed, number, 0)
    )
    run = _Steps(level, optimiser, batches)
    # Not kept by the steps themselves: vectors and graph leave the device as training ends.
    take = Repeated(run.take, batches.x.device, on_capture=run.set_capturable)
    stopped = False
    while state.done < steps and not stopped:
        left = seconds - (time.monotonic() - began)
        if left <= 0:
            return Ended(state.done, "time")
        block, first = divmod(state.done, BLOCK)
        last = min(BLOCK, steps - block * BLOCK)
        batches.draw(block)
        slower = min(1.0, 10 * left / seconds) if seconds < math.inf else 1.0
        run.begin(
            first,
            [
                slower * learning_rate_at(step, steps, settings.learning_rate)
                for step in range(block * BLOCK, (block + 1) * BLOCK)
            ],
        )
        taken = 0
        while first + taken < last and not stopped and time.monotonic() - began < seconds:
            take()
            taken += 1
            stopped = is_stopped()
        yield
        for loss in run.losses.tolist()[first : first + taken]:
            state.done += 1
            check_finite(loss, f"step {state.done} of level {number + 1}")
            state.smooth(loss)
        kept.save(state, now=stopped or state.done == steps)
        progress(state.done, state.loss)
    return Ended(state.done, "steps")


class _Steps:
    """The steps of a block, of which nothing is read back, so that a graph can take them.

    Args:
        level: its flow is trained.
        optimiser: of the flow's parameters.
        batches: the block's.
    """

    def __init__(self, level: Level, optimiser: torch.optim.Adam, batches: Batches) -> None:
        self._level, self._optimiser, self._batches = level, optimiser, batches
        device = batches.x.device
        self.losses = torch.zeros(BLOCK, device=device)
        """Of each step of the block."""
        self._next = torch.zeros(1, dtype=torch.int64, device=device)
        self._rates = torch.zeros(BLOCK, device=device)
        self._rate = torch.zeros((), device=device)
        self._set("lr", self._rate)

    def begin(self, first: int, rates: Sequence[float]) -> None:
        """Begin a block with one of its steps; `rates` are the learning rates of all."""
        self._next.fill_(first)
        self._rates.copy_(torch.tensor(rates))

    def take(self) -> None:
        """Take the next step of the block."""
        batches, now = self._batches, self._next
        x, condition = (of.index_select(0, now)[0] for of in (batches.x, batches.condition))
        self._rate.copy_(self._rates.index_select(0, now)[0])
        loss = compute_loss(self._level.of_whitened(x, condition))
        self._optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimiser.step()
        self.losses.index_copy_(0, now, loss.detach()[None])
        now.add_(1)

    def set_capturable(self, value: bool) -> None:
        """Let the optimiser's steps be captured in a graph, or no longer."""
        self._set("capturable", value)

    def _set(self, name: str, value: object) -> None:
        for group in self._optimiser.param_groups:
            group[name] = value


def level_batch_size(settings: Settings, number: int, steps: int) -> int:
    """Compute the vectors in a step: in proportion to the level's positions, so that a step of any
    level sees the same number of images' worth.
    """
    finest = settings.batch_size_for(steps)
    return max(1, finest * settings.strides[0] ** 2 // settings.strides[number] ** 2)
