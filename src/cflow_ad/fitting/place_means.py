"""The mean of good vectors at each place, fitted on the feature cache."""

from __future__ import annotations

import copy

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from cflow_ad.cflow.place_means import PlaceMeans, corners, nearest
from cflow_ad.fitting.features import CHUNK, LevelFeatures

_FEW = 4.0
"""Images at which means of their own have half of the weight."""


def subtract_place_means(features: LevelFeatures, parts: int, n_originals: int) -> LevelFeatures:
    """Fit the means, and subtract from each vector what the other images have at its place.

    A new image has no part in the means that are subtracted from it. A training image has, so its
    residuals are too small: they are divided by 1 less the image's own share, which gives about the
    difference from the means of the other images (leave-one-out residuals of linear regression).
    Augmented copies have no part in the means, and take the factor of their image.

    Args:
        features: of a level.
        parts: along either side of an image, that have means of their own.
        n_originals: images that are not copies; the copies of image `i` are the images
            `i + n_originals`, `i + 2 * n_originals` and so on.
    """
    begin, end = torch.from_numpy(features.bounds).unbind(1)
    fitted = end > begin  # the means are fitted to images that have vectors and are not copies
    fitted[n_originals:] = False
    means = fit_means(features, parts, fitted)
    own = own_shares(features, means.aspects, fitted)
    of_original = torch.arange(len(own)) % n_originals
    return features.less(means, 1 / (1 - own[of_original]))


def subtract_known_means(means: PlaceMeans, features: LevelFeatures) -> LevelFeatures:
    """Subtract from a level's vectors its means that were fitted to other images."""
    return features.less(copy.deepcopy(means).cpu(), torch.ones(len(features.aspects)))


def own_shares(features: LevelFeatures, aspects: Tensor, fitted: Tensor) -> Tensor:
    """Compute each image's own share in the means that are subtracted from it, in `[0, 1)`.

    Args:
        features: that the means were fitted to.
        aspects: of the means.
        fitted: which images they were fitted to, shape `(n,)`; the others have no share.
    """
    which, share = nearest(features.aspects, aspects)
    seen = torch.zeros(len(aspects) + 1, dtype=torch.float64).index_add_(
        0, which[fitted].flatten(), share[fitted].flatten().double()
    )
    in_own = share / (seen[which] + _FEW)
    in_common = _FEW / (seen[which] + _FEW) / (int(fitted.sum()) + _FEW)
    return torch.where(fitted, (share * (in_own + in_common)).sum(1), 0).float()


def fit_means(features: LevelFeatures, n: int, fitted: Tensor) -> PlaceMeans:
    """Fit the means of a level, for `n` parts along either side of an image, to some of the images:
    `fitted` says to which, shape `(images,)`.
    """
    index_all = np.concatenate(
        [np.arange(*features.bounds[i]) for i in torch.nonzero(fitted).flatten().tolist()]
    )
    own_aspects = features.aspects[fitted]
    low = own_aspects.floor()
    used = torch.cat((low, (low + 1)[own_aspects > low]))
    aspects = torch.unique(used)
    which, share = nearest(features.aspects, aspects)

    tables, channels = len(aspects) + 1, features.channels
    sums = np.zeros((tables * n * n, channels))
    counts = np.zeros(tables * n * n)
    for index in np.array_split(index_all, max(1, len(index_all) // CHUNK)):
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
    once = len(index_all) / (int(fitted.sum()) * n * n)
    whole = of_parts.sum((0, 1, 2)) / count.sum()
    common = (of_parts.sum(0) + _FEW * once * whole) / (count.sum(0) + _FEW * once)
    own = (of_parts + _FEW * once * common) / (count + _FEW * once)
    own[0] = common
    return PlaceMeans(own.float(), aspects)
