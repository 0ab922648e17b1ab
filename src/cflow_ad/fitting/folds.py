"""Which good images a model is fitted to, and which set its threshold."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cflow_ad.scoring.threshold import MOST

FEW = 100
"""Good images below which there are 10 folds where `Settings.folds` is unset: models that are
fitted to fewer images give good ones higher scores. With 40 images, the 90 % quantile of
out-of-fold scores was 1.13, 1.17 and 1.06 times that of new images with 3, 5 and 10 folds (mean of
three development sets)."""

MANY = 500
"""Good images from which on a calibration set is held out where `Settings.folds` is unset: a fifth
of them allows a false-alarm rate of 1 %, and training hardly misses it."""


class Split(NamedTuple):
    """Numbers of good images, by whether a model is fitted to them."""

    fitted_to: list[int]
    unseen: list[int]


def split_good(n: int, folds: int | None, seed: int) -> list[Split]:
    """Choose which of `n` good images each model is fitted to, and which it scores.

    - With several folds, each model is fitted without one of the folds and scores it: every image
      is scored once. The model that is kept is another, fitted to all images.
    - With one, a fifth of the images is the calibration set. The model that is kept is fitted to
      the others.
    - With none, or a single image, nothing is split.

    Args:
        n: at least 1.
        folds: at most `n` count; unset, 10; from `FEW` images on, 4; from `MANY` on, 1.
        seed: of the random order.

    Returns:
        One split for each model that scores images that it is not fitted to.

    Example:
        >>> [len(split.unseen) for split in split_good(100, None, seed=0)]
        [25, 25, 25, 25]
        >>> [len(split.unseen) for split in split_good(500, None, seed=0)]
        [100]
    """
    if folds is None:
        folds = 10 if n < FEW else 4 if n < MANY else 1
    folds = min(folds, n)
    if n < 2 or folds == 0:
        return []
    order = np.random.default_rng([seed, n]).permutation(n)
    held = min(max(1, n // 5), MOST)
    parts = np.array_split(order, folds) if folds > 1 else [order[:held]]
    return [Split(np.setdiff1d(order, part).tolist(), np.sort(part).tolist()) for part in parts]
