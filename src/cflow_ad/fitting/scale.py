"""The location and scale of a level's log-likelihoods, fitted after its flow or memory.

How likely a typical good vector is differs from place to place: where good images vary, as at a
part's edge, all vectors are less likely than on plain ground. With one scale such places raise
false alarms and others hide defects. So each part of the image has a location and a scale of its
own, shrunk towards the whole image's, the more so the fewer vectors it has.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from cflow_ad.cflow.level import Level, count_parts
from cflow_ad.cflow.position import FRAME
from cflow_ad.errors import DivergenceError
from cflow_ad.fitting.features import LevelFeatures
from cflow_ad.fitting.memory import SameImage
from cflow_ad.settings import Settings

LOW = 0.05
"""The quantile of good log-likelihoods that has energy 1. It sets the unit of every score."""

_SAMPLE = 2**16  # vectors that a level's scale is fitted on, or more: so many of each part
_OF_PART = 2**8
_MOST = 4.0  # times that a part's scale may differ from the image's
_FEW = 8.0  # vectors at which a part's own scale has half of its weight
_LEAST = 1e-3  # images without any variation leave no scale


@torch.inference_mode()
def fit_scale(
    level: Level,
    features: LevelFeatures,
    settings: Settings,
    number: int,
    same: SameImage | None = None,
) -> None:
    """Set the level's location and scale, by quantiles of good log-likelihoods.

    The median has energy 0. The scale is that of the unlikely side alone, where defects are.

    Args:
        level: its density fitted.
        features: the level's vectors.
        settings: of the model.
        number: of the level.
        same: of a memory that these images are in, so that each is scored as if it were not.

    Raises:
        DivergenceError: a log-likelihood is NaN or infinite.
    """
    level.eval().requires_grad_(False)
    level.zero_grad()  # gradients would keep the memory of a graph
    rng = np.random.default_rng([settings.seed, number, 1])
    n = count_parts(settings.strides[number])
    size = min(len(features), max(_SAMPLE, _OF_PART * n * n))
    index = np.sort(rng.choice(len(features), size, replace=False))
    found = []
    for part in np.array_split(index, max(1, len(index) // 1024)):
        z, rows, columns = features.take(part, level.location.device)
        if same is None:
            value = level(z, rows, columns)
        else:
            value = level.without(z, same(part).to(z.device))
        found.append(torch.stack((value.double(), rows, columns)).cpu())
    values, rows, columns = torch.cat(found, dim=1)
    if not values.isfinite().all():
        raise DivergenceError(
            "the likelihood of good vectors is not finite; lower learning_rate",
            code="training.diverged",
        )
    median, low = values.quantile(torch.tensor([0.5, LOW], dtype=torch.float64))
    location, scale = median, median - low
    if settings.method.place_scales:
        part = (rows * n // FRAME * n + columns * n // FRAME).long()
        weight, medians, lows = _of_parts(values, part, n)
        weight *= settings.method.place_scales
        wider = ((medians - lows) / scale.clamp(min=1e-12)).clamp(1 / _MOST, _MOST)
        location = median + weight * (medians - median)
        scale = scale * wider**weight
    level.location = location.to(level.location)
    level.scale = scale.clamp(min=_LEAST).to(level.scale)


def _of_parts(likelihoods: Tensor, part: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the weight, the median and the low quantile of each of `n * n` parts, shape `(n, n)`
    each, from likelihoods and the number of each one's part, both of shape `(m,)`.

    The weight of a part without vectors is 0, and its quantiles are any numbers.
    """
    order = torch.argsort(part, stable=True)
    counts = torch.bincount(part, minlength=n * n)
    found = likelihoods.new_zeros(2, n * n)
    marks = likelihoods.new_tensor([0.5, LOW])
    for number, values in enumerate(torch.split(likelihoods[order], counts.tolist())):
        if len(values):
            found[:, number] = values.quantile(marks)
    weight = counts / (counts + _FEW)
    return weight.view(n, n), found[0].view(n, n), found[1].view(n, n)
