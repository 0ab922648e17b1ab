"""The mean of good vectors at each place, fitted on the feature cache."""

from __future__ import annotations

import copy

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from cflow_ad.cflow.place_means import PlaceMeans, corners, nearest
from cflow_ad.fitting.cache import LevelFeatures

_FEW = 4.0
"""Images at which means of their own have half of the weight."""


def centred(features: LevelFeatures, parts: int) -> LevelFeatures:
    """The same vectors, less what the other images have at their places.

    A new image adds nothing to the means that are taken from it; an image trained on does. Its
    vectors are set as far off as they are from the means of the others, which is in closed form:
    the residual, divided by 1 less the image's own share.

    Args:
        features: of a level.
        parts: along either side of an image, that have means of their own.
    """
    means = fit_means(features, parts)
    return features.less(means, 1 / (1 - own_shares(features, means.aspects)))


def centred_by(means: PlaceMeans, features: LevelFeatures, *, seen: bool) -> LevelFeatures:
    """The same vectors, less means that are there already.

    Args:
        means: of a level.
        features: of that level.
        seen: the means were fitted to these images, which then take no part in what is taken from
            them, as in `centred`.
    """
    means = copy.deepcopy(means).cpu()
    own = own_shares(features, means.aspects) if seen else torch.zeros(len(features.aspects))
    return features.less(means, 1 / (1 - own))


def own_shares(features: LevelFeatures, aspects: Tensor) -> Tensor:
    """Of each image its own share in the means that are taken from it, in `[0, 1)`.

    Args:
        features: that the means were fitted to.
        aspects: of the means.
    """
    which, share = nearest(features.aspects, aspects)
    seen = torch.zeros(len(aspects) + 1, dtype=torch.float64).index_add_(
        0, which.flatten(), share.flatten().double()
    )
    in_own = share / (seen[which] + _FEW)
    in_common = _FEW / (seen[which] + _FEW) / (_images(features) + _FEW)
    return (share * (in_own + in_common)).sum(1).float()


def _images(features: LevelFeatures) -> int:
    """How many images have vectors."""
    return int((features.bounds[:, 1] > features.bounds[:, 0]).sum())


def fit_means(features: LevelFeatures, n: int) -> PlaceMeans:
    """Fit the means.

    Args:
        features: of a level.
        n: parts along either side of an image.
    """
    low = features.aspects.floor()
    used = torch.cat((low, (low + 1)[features.aspects > low]))
    aspects = torch.unique(used)
    which, share = nearest(features.aspects, aspects)

    tables, channels = len(aspects) + 1, features.vectors.shape[1]
    sums = np.zeros((tables * n * n, channels))
    counts = np.zeros(tables * n * n)
    for index in np.array_split(np.arange(len(features)), max(1, len(features) // 65536)):
        vectors, rows, columns = features.take(index)
        image = features.images_of(index)
        cells, near = corners(rows, columns, n)
        into = (which[image][:, :, None] * n * n + cells[:, None]).flatten(1)
        weight = (share[image][:, :, None] * near[:, None]).flatten(1)
        spread = sparse.csc_matrix(
            (
                weight.flatten().double().numpy(),
                into.flatten().numpy(),
                np.arange(len(index) + 1) * into.shape[1],
            ),
            shape=(len(counts), len(index)),
        )
        sums += spread @ vectors.double().numpy()
        counts += np.asarray(spread.sum(axis=1)).ravel()
    of_parts = torch.from_numpy(sums).view(tables, n, n, channels)
    count = torch.from_numpy(counts).view(tables, n, n, 1)

    # What images give a part on average: with so many vectors it was seen once.
    once = len(features) / (_images(features) * n * n)
    whole = of_parts.sum((0, 1, 2)) / count.sum()
    common = (of_parts.sum(0) + _FEW * once * whole) / (count.sum(0) + _FEW * once)
    own = (of_parts + _FEW * once * common) / (count + _FEW * once)
    own[0] = common
    return PlaceMeans(own.float(), aspects)
