"""Feature caches made of maps of vectors."""

from __future__ import annotations

import numpy as np

from cflow_ad.cflow.position import axis_places
from cflow_ad.fitting.features import LevelFeatures


def random_maps(count, shape=(8, 8), seed=0, pattern=0.0):
    """Maps of 3 channels: noise, and a pattern that all share."""
    rng = np.random.default_rng(seed)
    own = rng.normal(size=(*shape, 3)) * pattern
    return [own + rng.normal(size=(*shape, 3)) for _ in range(count)]


def cache_of(maps):
    """The cache of images whose feature maps are these, shape `(h, w, C)` each."""
    vectors, positions, ends = [], [], [0]
    for one in maps:
        rows, columns = (axis_places(side, "relative").numpy() for side in one.shape[:2])
        grid = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1)
        vectors.append(one.reshape(-1, one.shape[2]))
        positions.append(grid.reshape(-1, 2))
        ends.append(ends[-1] + len(vectors[-1]))
    made = LevelFeatures(
        np.concatenate(vectors).astype(np.float32), np.concatenate(positions).astype(np.int16)
    )
    made.bounds = np.stack([ends[:-1], ends[1:]], axis=1)
    made.grids = [one.shape[:2] for one in maps]
    return made


def take_all(features):
    """All vectors, less their means."""
    return features.take(np.arange(len(features)))[0]
