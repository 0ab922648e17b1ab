"""Plain measures of a picture, whose drift has a plain cause: light, focus, colour, position."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_SIDE = 256  # pixels of the longer side, at most


def compute_measures(pixels: NDArray[Any]) -> dict[str, float]:
    """Measure a picture.

    Args:
        pixels: shape `(H, W, 3)`, 0 to 255.

    Returns:
        `brightness`, the mean grey; `sharpness`, the mean square of the Laplacian; `red`, `green`
        and `blue`, the share of each in the brightness; `x` and `y`, the centre of what differs
        from the mean grey, from 0 to 1.

    >>> found = compute_measures(np.full((8, 8, 3), 51, np.uint8))
    >>> found["brightness"], found["red"], found["x"]
    (51.0, 0.333..., 0.5)
    """
    step = max(1, -(-max(pixels.shape[:2]) // _SIDE))
    small = pixels[::step, ::step].astype(np.float32)
    colour = small.mean((0, 1))
    grey = small.mean(2)
    total = float(colour.sum()) or 1.0
    height, width = grey.shape
    weight = np.abs(grey - grey.mean())
    mass = float(weight.sum())
    x = float(weight.sum(0) @ (np.arange(width) + 0.5)) / (mass * width) if mass else 0.5
    y = float(weight.sum(1) @ (np.arange(height) + 0.5)) / (mass * height) if mass else 0.5
    sharpness = 0.0
    if min(grey.shape) > 2:
        laplacian = (
            grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
        ) - 4 * grey[1:-1, 1:-1]
        sharpness = float(np.square(laplacian).mean())
    return {
        "brightness": float(grey.mean()),
        "sharpness": sharpness,
        "red": float(colour[0]) / total,
        "green": float(colour[1]) / total,
        "blue": float(colour[2]) / total,
        "x": x,
        "y": y,
    }
