"""What counts as likely for good images: the scale of a level, fitted when its flow is trained.

How likely a typical good vector is differs from place to place: where good images vary, at a part's
edge for one, all vectors are less likely than on plain ground. Measured by one scale, such places
raise alarms and the others hide defects. So each part of the image has a scale of its own, drawn
towards the whole image's, the more so the fewer vectors it was seen with.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from cflow_ad.cflow.model import Level
from cflow_ad.cflow.position import FRAME
from cflow_ad.errors import DivergenceError
from cflow_ad.fitting.cache import LevelFeatures
from cflow_ad.settings import Settings

TAIL_SCORE = 3.0
"""What the tail quantile scores where all levels agree."""

_SAMPLE = 2**18  # vectors that a level's scale is fitted on
_LOW = 0.05  # the quantile by which the spread of a part is compared with the image's
_MOST = 4.0  # times that a part's spread may differ from the image's
_FEW = 8.0  # vectors at which a part's own scale has half of its weight


def place_parts(settings: Settings, number: int) -> int:
    """Parts along either side of an image that may have a mean and a scale of their own.

    Args:
        settings: of the model.
        number: of the level.
    """
    return max(1, FRAME // settings.levels[number])


@torch.inference_mode()
def fit_scale(level: Level, features: LevelFeatures, settings: Settings, number: int) -> None:
    """End a level's training: set what counts as likely, by quantiles of good likelihoods.

    The median scores 0. The scale is that of the unlikely side alone, since only there is anything
    to find.

    Args:
        level: its flow trained.
        features: the level's vectors.
        settings: how.
        number: of the level.

    Raises:
        DivergenceError: a likelihood is NaN or infinite.
    """
    level.eval().requires_grad_(False)
    rng = np.random.default_rng([settings.seed, number, 1])
    index = np.sort(rng.choice(len(features), min(_SAMPLE, len(features)), replace=False))
    parts = []
    for part in np.array_split(index, max(1, len(index) // 4096)):
        z, rows, columns = (value.to(level.reference.device) for value in features.take(part))
        parts.append(level(z, rows, columns))
    likelihoods = torch.cat(parts).double().cpu()
    if not likelihoods.isfinite().all():
        raise DivergenceError("the likelihood of good vectors is not finite; lower learning_rate")
    marks = torch.tensor([0.5, settings.tail_quantile, _LOW], dtype=torch.float64)
    median, tail, low = likelihoods.quantile(marks)
    reference, spread = median, (median - tail) / TAIL_SCORE
    if settings.local_scale:
        n = place_parts(settings, number)
        rows, columns = torch.from_numpy(features.positions[index].astype(np.int64)).unbind(1)
        weight, medians, lows = _of_parts(
            likelihoods, rows * n // FRAME * n + columns * n // FRAME, n
        )
        weight *= settings.local_scale
        wider = ((medians - lows) / (median - low).clamp(min=1e-12)).clamp(1 / _MOST, _MOST)
        reference = median + weight * (medians - median)
        spread = spread * wider**weight
    level.reference = reference.to(level.reference)
    # Images without any variation leave no spread; the floor keeps the scale finite.
    level.spread = spread.clamp(min=1e-3).to(level.spread)


def _of_parts(likelihoods: Tensor, part: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """For each of `n * n` parts how much it is to be trusted, its median and its low quantile.

    Args:
        likelihoods: shape `(m,)`.
        part: of each, from 0 to `n * n - 1`, shape `(m,)`.
        n: parts along either side.

    Returns:
        Each of shape `(n, n)`; of a part without vectors, 0 and any numbers.
    """
    order = torch.argsort(part, stable=True)
    counts = torch.bincount(part, minlength=n * n)
    found = likelihoods.new_zeros(2, n * n)
    marks = likelihoods.new_tensor([0.5, _LOW])
    for number, values in enumerate(torch.split(likelihoods[order], counts.tolist())):
        if len(values):
            found[:, number] = values.quantile(marks)
    weight = counts / (counts + _FEW)
    return weight.view(n, n), found[0].view(n, n), found[1].view(n, n)
