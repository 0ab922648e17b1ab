"""From the levels' energies to one anomaly map, on a scale that belongs to the model.

The energy of a position is how many of its level's scales its log-likelihood lies below the level's
location, at least 0. Each level's `exp(-energy)` is resampled to the image's own size and averaged
over the levels; the anomaly map is minus the logarithm of that average: 0 where every level is as
likely as good images typically are, at most 69.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from cflow_ad.scoring.canvas import Shape
from cflow_ad.scoring.cells import Cell, cells_inside

Floats = NDArray[np.float32]

LEAST = np.float32(1e-30)
"""The least mean of `exp(-energy)` that is distinguished from 0; it bounds the map by 69.1."""

_BAND = 1024  # pixels along an axis that are resampled at once


def compute_anomaly_map(
    energies: Sequence[Floats],
    cells: Sequence[Cell],
    *,
    valid: Shape,
    original: Shape,
    smoothing: float = 0.0,
) -> Floats:
    """Join the levels: minus the logarithm of the mean of `exp(-energy)`, at each pixel.

    Upsampling from a level's grid, cutting off the canvas beyond the image, resizing to the
    image's own size and smoothing are all linear along each axis. Together they are one matrix on
    either side of a level's grid.

    Args:
        energies: per level, shape `(h, w)`, at least 0.
        cells: of the levels, height and width of one position in pixels of the canvas.
        valid: height and width of the part of the canvas that is image.
        original: height and width of the map wanted: those of the image.
        smoothing: standard deviation of a Gaussian, in pixels of the canvas.

    Returns:
        Shape `original`, in `[0, 69.1]`: 0 where all levels have energy 0.

    Example:
        >>> grid = np.array([[0.0, np.inf]], np.float32)
        >>> compute_anomaly_map([grid], [(2, 2)], valid=(2, 4), original=(1, 4)).tolist()
        [[0.0, 0.2876..., 1.3862..., 69.07...]]
    """
    weights = [np.exp(-grid) for grid in energies]
    rows, columns = (
        [resampling(original[axis], valid[axis], cell[axis], smoothing) for cell in cells]
        for axis in (0, 1)
    )
    halfway = [
        np.concatenate([band.matrix @ grid[band.cells] for band in bands])
        for bands, grid in zip(rows, weights, strict=True)
    ]
    result = np.empty(original, np.float32)
    for bands in zip(*columns, strict=True):
        pixels = bands[0].pixels
        # All levels in one product: their columns side by side.
        total = (
            np.concatenate(
                [half[:, band.cells] for band, half in zip(bands, halfway, strict=True)], axis=1
            )
            @ np.concatenate([band.matrix for band in bands], axis=1).T
        )
        total /= len(cells)
        np.log(np.clip(total, LEAST, 1.0, out=total), out=total)
        np.subtract(0, total, out=result[:, pixels])  # 0 - log, since -log(1) is -0
    return result


@dataclass(frozen=True, slots=True, eq=False)
class Band:
    """The part of a resampling matrix that makes some neighbouring pixels; the rest is 0."""

    pixels: slice
    cells: slice
    matrix: Floats


@lru_cache(maxsize=64)
def resampling(pixels: int, valid: int, cell: float, smoothing: float) -> tuple[Band, ...]:
    """Bilinear interpolation along one axis, from cell centres to pixel centres: a matrix
    `(pixels, cells)` whose rows sum to 1, in bands, outside which it is 0. Beyond the outermost
    centres in the image the value stays: the cells further out see its reflection, and no flow was
    trained there.
    """
    weights = gaussian_weights(smoothing * pixels / valid)
    return tuple(
        _band(start, min(pixels, start + _BAND), pixels, valid, cell, weights)
        for start in range(0, pixels, _BAND)
    )


def _band(
    start: int, stop: int, pixels: int, valid: int, cell: float, weights: NDArray[np.float64]
) -> Band:
    radius = len(weights) // 2
    # The pixels that the smoothing takes from; beyond the edge the outermost one again.
    taken = np.clip(np.arange(start - radius, stop + radius), 0, pixels - 1)
    inside = cells_inside(valid, cell)
    position = np.clip((taken + 0.5) * (valid / pixels) / cell - 0.5, 0, inside - 1)
    left = np.minimum(position.astype(np.intp), max(inside - 2, 0))
    share = position - left
    first, last = left[0], min(left[-1] + 2, inside)
    matrix = np.zeros((len(taken), last - first))
    index = np.arange(len(taken))
    matrix[index, left - first] = 1.0 - share
    if inside > 1:
        matrix[index, left - first + 1] += share
    smooth = np.stack([np.convolve(column, weights, mode="valid") for column in matrix.T], axis=1)
    banded = smooth.astype(np.float32)
    banded.setflags(write=False)
    return Band(slice(start, stop), slice(int(first), int(last)), banded)


def gaussian_weights(sigma: float) -> NDArray[np.float64]:
    """A Gaussian of standard deviation `sigma` at whole numbers, cut off at three of them.

    The weights, shape `(2 * radius + 1,)`, sum to 1; there is a single one for a `sigma` of 0.
    """
    radius = int(3.0 * sigma + 0.5)
    distance = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (distance / max(sigma, 1e-9)) ** 2)
    normalised: NDArray[np.float64] = weights / weights.sum()
    return normalised
