"""What is watched for drift: a few numbers of each image, and its score."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 2**14
_LINES = 96  # rows, and as many columns, whose neighbouring pixels are compared
_LONGEST = (
    96  # pixels of the longer side of the sparse image that colour and position are read from
)


@dataclass(frozen=True, slots=True)
class Measure:
    """A number of each part, and the fixed grid that it is rounded to."""

    name: str
    low: float
    high: float
    logarithmic: bool = False

    def scale(self, value: float) -> float:
        """The value, or the nearer end of the grid; its logarithm if the measure is logarithmic."""
        value = min(max(value, self.low), self.high)
        return math.log(value) if self.logarithmic else value

    def unscale(self, value: float) -> float:
        """The inverse of `scale`, on the grid."""
        return math.exp(value) if self.logarithmic else value

    def key(self, value: float) -> int:
        """The bin of a value, from 0 to `BINS - 1`.

        >>> Measure("x", 0.0, 1.0).key(0.5) == BINS // 2
        True
        """
        low, high = self.scale(self.low), self.scale(self.high)
        return min(BINS - 1, int((self.scale(value) - low) / (high - low) * BINS))


MEASURES = (
    Measure("score", 1e-4, 1e4, logarithmic=True),
    Measure("brightness", 0.0, 256.0),
    Measure("sharpness", 1e-4, 1e2, logarithmic=True),
    Measure("warmth", -1.0, 1.0),
    Measure("tint", -1.0, 1.0),
    Measure("x", 0.0, 1.0),
    Measure("y", 0.0, 1.0),
)
"""All that is watched. The grids do not depend on the data, so that rounding to them keeps
exchangeable parts exchangeable; they bound the memory of the reference."""


def compute_measures(image: NDArray[Any]) -> dict[str, float]:
    """Compute the measures of an image: all but the score.

    Some rows, columns and pixels stand for the image, so that the time depends little on its size.

    Args:
        image: RGB, shape `(H, W, 3)`, 0 to 255.

    Returns:
        brightness: mean, 0 to 255.
        sharpness: mean difference of neighbouring pixels, in per cent of the brightness.
        warmth: red less blue, as a share of the sum of red, green and blue.
        tint: green less the mean of red and blue, as a share of that sum.
        x, y: centre of what differs from the border's colour, as shares of width and height.

    >>> grey = compute_measures(np.full((40, 60, 3), 128, np.uint8))
    >>> grey["brightness"], grey["sharpness"], grey["warmth"], grey["x"], grey["y"]
    (128.0, 0.0, 0.0, 0.5, 0.5)
    """
    step = max(1, math.ceil(max(image.shape[:2]) / _LONGEST))
    top, left = ((length - 1) % step // 2 for length in image.shape[:2])
    sparse = image[top::step, left::step].astype(np.float32)
    red, green, blue = (float(sparse[..., channel].mean()) for channel in range(3))
    total = red + green + blue
    x, y = _centre(sparse)
    return {
        "brightness": total / 3,
        "sharpness": 100 * _difference(image) / (total / 3 + 1),
        "warmth": (red - blue) / (total + 1),
        "tint": (green - (red + blue) / 2) / (total + 1),
        "x": x,
        "y": y,
    }


def _difference(image: NDArray[Any]) -> float:
    """The mean absolute difference of neighbours, in full resolution, along some lines."""
    height, width = image.shape[:2]
    rows = image[:: max(1, height // _LINES), :, 1].astype(np.float32)
    columns = image[:, :: max(1, width // _LINES), 1].astype(np.float32)
    steps = np.abs(np.diff(rows, axis=1)).sum(), np.abs(np.diff(columns, axis=0)).sum()
    pairs = rows.shape[0] * (width - 1) + columns.shape[1] * (height - 1)
    return float(sum(map(float, steps)) / max(1, pairs))


def _centre(sparse: NDArray[np.float32]) -> tuple[float, float]:
    """The centre of the pixels, each weighed by its difference from the border's colour."""
    height, width = sparse.shape[:2]
    border = np.concatenate((sparse[0], sparse[-1], sparse[:, 0], sparse[:, -1]))
    red, green, blue = np.moveaxis(np.abs(sparse - np.median(border, axis=0)), 2, 0)
    weight = np.maximum(np.maximum(red, green), blue)  # a sixth of the time of max(axis=2)
    across, down = weight.sum(axis=0), weight.sum(axis=1)
    total = float(across.sum())
    if total == 0:
        return 0.5, 0.5
    x = float(across @ (np.arange(width, dtype=np.float32) + 0.5)) / (total * width)
    y = float(down @ (np.arange(height, dtype=np.float32) + 0.5)) / (total * height)
    return x, y
