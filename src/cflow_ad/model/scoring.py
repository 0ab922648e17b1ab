"""From the levels' normalities to one anomaly map, on a scale that belongs to the model.

The levels' normalities (see `network.Level.normality`) are brought to the image's own size and
averaged; the anomaly map is minus the logarithm of that average: 0 where every level is as likely
as good images typically are, and without an upper end to saturate at.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cflow_ad.data.sizing import Canvas, Shape, cells_inside
from cflow_ad.settings import Settings

Floats = NDArray[np.float32]

LEAST = np.float32(1e-30)
"""The least mean normality told apart from none: near the end of single precision."""


def anomaly_map(
    normalities: Sequence[Floats],
    strides: Sequence[int],
    *,
    valid: Shape,
    original: Shape,
    smoothing: float = 0.0,
) -> Floats:
    """Minus the log of the levels' mean, sampled at the pixels of the image as it came.

    Upsampling from a level's grid, cutting off the canvas beyond the image, resizing to the
    image's own size and smoothing are all linear along each axis, so that together they are one
    matrix on either side of a level's grid.

    Args:
        normalities: per level, shape `(h, w)`, in `[0, 1]`.
        strides: of the levels, in pixels of the canvas.
        valid: height and width of the part of the canvas that is image.
        original: height and width of the image as it came.
        smoothing: standard deviation of a Gaussian, in pixels of the canvas.

    Returns:
        Shape `original`, in `[0, 69.1]`: 0 where all levels are entirely normal.

    Example:
        >>> grid = np.array([[1.0, 0.0]], np.float32)
        >>> anomaly_map([grid], [2], valid=(2, 4), original=(1, 4)).tolist()
        [[0.0, 0.2876..., 1.3862..., 69.07...]]
    """
    columns = []
    for grid, stride in zip(normalities, strides, strict=True):
        rows = _resampling(original[0], valid[0], grid.shape[0], stride, smoothing)
        columns.append(rows @ grid)
    back = [
        _resampling(original[1], valid[1], grid.shape[1], stride, smoothing)
        for grid, stride in zip(normalities, strides, strict=True)
    ]
    # All levels in one product: their columns side by side.
    total = np.concatenate(columns, axis=1) @ np.concatenate(back, axis=1).T
    # 0 - log, since -log(1) is -0.
    result: Floats = 0 - np.log(np.clip(total / len(normalities), LEAST, 1.0))
    return result


def canvas_map(normalities: Sequence[Floats], canvas: Canvas, settings: Settings) -> Floats:
    """`anomaly_map` of an image on its canvas, as a model's settings have it."""
    return anomaly_map(
        normalities,
        settings.strides,
        valid=canvas.valid,
        original=canvas.original,
        smoothing=settings.smoothing,
    )


@lru_cache(maxsize=64)
def _resampling(pixels: int, valid: int, cells: int, stride: int, smoothing: float) -> Any:
    """Bilinear interpolation along one axis, from cell centres to pixel centres: a matrix
    `(pixels, cells)` whose rows sum to 1. Beyond the outermost centres in the image the value
    stays: the cells further out see its reflection, and no flow was trained there.
    """
    centres = (np.arange(pixels) + 0.5) * (valid / pixels)
    inside = cells_inside(valid, stride)
    position = np.clip(centres / stride - 0.5, 0, inside - 1)
    left = np.minimum(position.astype(np.intp), max(inside - 2, 0))
    share = position - left
    matrix = np.zeros((pixels, cells))
    index = np.arange(pixels)
    matrix[index, left] = 1.0 - share
    if inside > 1:
        matrix[index, left + 1] += share
    if smoothing > 0:
        weights = gaussian_weights(smoothing * pixels / valid)
        padded = np.pad(matrix, ((len(weights) // 2,) * 2, (0, 0)), mode="edge")
        for column in range(cells):
            matrix[:, column] = np.convolve(padded[:, column], weights, mode="valid")
    matrix = matrix.astype(np.float32)
    matrix.setflags(write=False)
    return matrix


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
