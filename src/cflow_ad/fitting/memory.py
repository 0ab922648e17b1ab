"""Fit a memory: choose the vectors of good images that it keeps."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cflow_ad.cflow.level import Level
from cflow_ad.cflow.memory import Memory, choose_spread
from cflow_ad.fitting.features import LevelFeatures
from cflow_ad.settings import Settings

SameImage: TypeAlias = Callable[[NDArray[np.int64]], Tensor]
"""From indices of a level's vectors, shape `(n,)`, to which of the memory's vectors are of the same
image as each, bool, shape `(n, M)`."""

_DRAWN = 100_000  # vectors that those of the memory are chosen from, at most
_ONE_IN = 20  # of these is kept; more of few images are no better
_LEAST = 500  # vectors are kept where there are so many
_AT_ONCE = 512  # vectors that are compared with the memory; with more, caches hold less


@torch.inference_mode()
def fit_memory(
    level: Level, features: LevelFeatures, settings: Settings, number: int, n_originals: int
) -> SameImage:
    """Fill a level's memory.

    Args:
        level: its input layer fitted.
        features: the level's vectors.
        settings: of the model.
        number: of the level.
        n_originals: images that are not copies; see `subtract_place_means`.

    Returns:
        A function that says which vectors of the memory an image is not to be compared with when it
        stands for a new one.
    """
    rng = np.random.default_rng([settings.seed, number, 2])
    index = np.sort(rng.choice(len(features), min(_DRAWN, len(features)), replace=False))
    x = level.input_layer(features.take(index, level.location.device)[0])
    wanted = max(_LEAST, len(x) // _ONE_IN)
    chosen = choose_spread(x, min(wanted, settings.method.memory, len(x)), settings.seed)
    images = features.images_of(index) % n_originals
    owners = images[chosen.cpu()]
    radii = measure_radii(x, images.to(x.device), chosen)
    level.density = Memory(x[chosen], settings.method.memory_radii * radii.square())

    def find_same(vectors: NDArray[np.int64]) -> Tensor:
        same = features.images_of(vectors)[:, None] % n_originals == owners
        return same & ~same.all(1, keepdim=True)  # an image alone is compared with itself

    return find_same


def measure_radii(vectors: Tensor, images: Tensor, chosen: Tensor) -> Tensor:
    """Measure the distance from each chosen vector to the nearest one of another image.

    Args:
        vectors: shape `(n, D)`.
        images: number of the image of each, shape `(n,)`.
        chosen: indices of vectors, shape `(M,)`.

    Returns:
        Shape `(M,)`; 0 where all vectors are of one image.
    """
    kept, owners = vectors[chosen], images[chosen]
    squares = kept.square().sum(1)
    nearest = torch.full_like(squares, torch.inf)
    parts = (torch.split(of_all, _AT_ONCE) for of_all in (vectors, images))
    for some, of in zip(*parts, strict=True):
        apart = torch.addmm(squares, some, kept.T, alpha=-2)
        apart += some.square().sum(1, keepdim=True)
        apart.masked_fill_(of[:, None] == owners, torch.inf)
        nearest = torch.minimum(nearest, apart.amin(0))
    return torch.where(nearest.isinf(), 0, nearest).clamp(min=0).sqrt()
