"""From the levels' normalities to one anomaly map, on a scale that belongs to the model.

The levels' normalities (see `network.Level.normality`) are brought to the image's own size and
averaged; the anomaly map is minus the logarithm of that average: 0 where every level is as likely
as good images typically are, and without an upper end to saturate at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from cflow_ad.scoring.canvas import Canvas, Cell, Shape, cell_of, cells_inside
from cflow_ad.settings import Settings

Floats = NDArray[np.float32]

LEAST = np.float32(1e-30)
"""The least mean normality told apart from none: near the end of single precision."""

_BAND = 1024  # pixels along an axis that are resampled at once


def anomaly_map(
    normalities: Sequence[Floats],
    cells: Sequence[Cell],
    *,
    valid: Shape,
    original: Shape,
    smoothing: float = 0.0,
    weights: Sequence[float] | None = None,
) -> Floats:
    """Minus the log of the levels' mean, sampled at the pixels of the image as it came.

    Upsampling from a level's grid, cutting off the canvas beyond the image, resizing to the
    image's own size and smoothing are all linear along each axis, so that together they are one
    matrix on either side of a level's grid.

    Args:
        normalities: per level, shape `(h, w)`, in `[0, 1]`.
        cells: of the levels, height and width of each in pixels of the canvas.
        valid: height and width of the part of the canvas that is image.
        original: height and width of the image as it came.
        smoothing: standard deviation of a Gaussian, in pixels of the canvas.
        weights: of the levels in their mean; unset, all alike.

    Returns:
        Shape `original`, in `[0, 69.1]`: 0 where all levels are entirely normal.

    Example:
        >>> grid = np.array([[1.0, 0.0]], np.float32)
        >>> anomaly_map([grid], [(2, 2)], valid=(2, 4), original=(1, 4)).tolist()
        [[0.0, 0.2876..., 1.3862..., 69.07...]]
    """
    weights = weights or [1.0] * len(cells)
    # A level that weighs nothing is not even resampled.
    levels = [
        (np.float32(weight) * grid, cell)
        for grid, cell, weight in zip(normalities, cells, weights, strict=True)
        if weight
    ]
    rows, columns = (
        [_resampling(original[axis], valid[axis], cell[axis], smoothing) for _, cell in levels]
        for axis in (0, 1)
    )
    halfway = [_apply(bands, grid) for bands, (grid, _) in zip(rows, levels, strict=True)]
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
        total /= sum(weights)
        np.log(np.clip(total, LEAST, 1.0, out=total), out=total)
        np.subtract(0, total, out=result[:, pixels])  # 0 - log, since -log(1) is -0
    return result


def model_map(
    normalities: Sequence[Floats],
    settings: Settings,
    *,
    canvas: Shape,
    valid: Shape,
    original: Shape,
) -> Floats:
    """`anomaly_map`, as a model's settings have it, on a canvas of this height and width."""
    return anomaly_map(
        normalities,
        [cell_of(canvas, (grid.shape[0], grid.shape[1])) for grid in normalities],
        valid=valid,
        original=original,
        smoothing=settings.smoothing,
        weights=settings.level_weights,
    )


def canvas_map(normalities: Sequence[Floats], canvas: Canvas, settings: Settings) -> Floats:
    """`model_map` of an image on its canvas."""
    return model_map(
        normalities, settings, canvas=canvas.shape, valid=canvas.valid, original=canvas.original
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Band:
    """The part of a resampling matrix that makes some neighbouring pixels; the rest is 0."""

    pixels: slice
    cells: slice
    matrix: Floats


def _apply(bands: Sequence[_Band], grid: Floats) -> Floats:
    """Resample the first axis of a grid."""
    return np.concatenate([band.matrix @ grid[band.cells] for band in bands])


@lru_cache(maxsize=64)
def _resampling(pixels: int, valid: int, cell: float, smoothing: float) -> tuple[_Band, ...]:
    """Bilinear interpolation along one axis, from cell centres to pixel centres: a matrix
    `(pixels, cells)` whose rows sum to 1, in bands, outside which it is 0. Beyond the outermost
    centres in the image the value
    stays: the cells further out see its reflection, and no flow was trained there.
    """
    weights = gaussian_weights(smoothing * pixels / valid)
    return tuple(
        _band(start, min(pixels, start + _BAND), pixels, valid, cell, weights)
        for start in range(0, pixels, _BAND)
    )


def _band(
    start: int, stop: int, pixels: int, valid: int, cell: float, weights: NDArray[np.float64]
) -> _Band:
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
    return _Band(slice(start, stop), slice(int(first), int(last)), banded)


def gaussian_weights(sigma: float) -> NDArray[np.float64]:
    """A Gaussian at whole numbers, cut off at three standard deviations.

    Args:
        sigma: its standard deviation; 0 gives a single weight.

    Returns:
        Shape `(2 * radius + 1,)`, summing to 1.
    """
    radius = int(3.0 * sigma + 0.5)
    distance = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (distance / max(sigma, 1e-9)) ** 2)
    normalised: NDArray[np.float64] = weights / weights.sum()
    return normalised
