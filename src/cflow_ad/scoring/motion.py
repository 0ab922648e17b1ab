"""How a part lies in its image, compared to a reference image: a shift and a rotation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cflow_ad.data.images import transform


@dataclass(frozen=True, slots=True)
class Motion:
    """How a part lies compared to the reference: turned about the image's centre, then shifted.

    >>> points = np.array([[50.0, 50.0], [60.0, 50.0]])
    >>> Motion(3.0, 0.0, 90.0).of_points(points, (100, 100)).round(6).tolist()
    [[53.0, 50.0], [53.0, 60.0]]
    """

    right: float
    """Pixels of the original image."""

    down: float

    degrees: float
    """Clockwise."""

    def of_points(self, points: NDArray[Any], shape: tuple[int, int]) -> NDArray[np.float64]:
        """Transform points of the reference's frame, `(n, 2)` of `x, y`, to the image's."""
        a, b, c, d, e, f = self._coefficients(shape)
        moved: NDArray[np.float64] = points @ np.array([[a, d], [b, e]]) + (c, f)
        return moved

    def bring(self, image: NDArray[Any]) -> NDArray[Any]:
        """Transform an image, `(H, W, 3)`, 0 to 255, to the reference's frame.

        It is `uint8` or `float32`, and its edge is repeated beyond the border.
        """
        shape = (image.shape[0], image.shape[1])
        reach = self._reach(shape)
        padded = np.pad(image, ((reach, reach), (reach, reach), (0, 0)), mode="edge")
        a, b, c, d, e, f = self._coefficients(shape)
        shifted = (a, b, c + reach, d, e, f + reach)
        moved = transform(padded, shape, shifted, Image.Resampling.BICUBIC)
        return moved if image.dtype == np.uint8 else moved.clip(0, 255)

    def seen(self, shape: tuple[int, int]) -> NDArray[np.bool_]:
        """Return which pixels of the reference's frame the image fills, shape `(H, W)`."""
        return self.bring_mask(np.ones(shape, np.bool_))

    def bring_mask(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Transform a mask, `(H, W)`, to the reference's frame; false beyond its border."""
        shape = (mask.shape[0], mask.shape[1])
        return transform(mask, shape, self._coefficients(shape), Image.Resampling.NEAREST)

    def give_back(self, values: NDArray[Any]) -> NDArray[Any]:
        """Transform a map or mask of the reference's frame, `(H, W)`, to the image's frame.

        A map is interpolated; both are 0 beyond the reference's frame.
        """
        shape = (values.shape[0], values.shape[1])
        a, b, c, d, e, f = self._coefficients(shape)
        # The rotation's inverse is its transpose.
        back = (a, d, -(a * c + d * f), b, e, -(b * c + e * f))
        is_mask = values.dtype == np.bool_
        kernel = Image.Resampling.NEAREST if is_mask else Image.Resampling.BILINEAR
        return transform(values, shape, back, kernel)

    def _coefficients(self, shape: tuple[int, int]) -> tuple[float, ...]:
        """From the reference's frame to the image's: `x' = a x + b y + c`, `y' = d x + e y + f`."""
        cos, sin = math.cos(math.radians(self.degrees)), math.sin(math.radians(self.degrees))
        x, y = shape[1] / 2, shape[0] / 2
        right, down = x + self.right - cos * x + sin * y, y + self.down - sin * x - cos * y
        return cos, -sin, right, sin, cos, down

    def _reach(self, shape: tuple[int, int]) -> int:
        """The most pixels by which the reference's frame extends beyond the image."""
        height, width = shape
        corners = np.array([[0, 0], [width, 0], [0, height], [width, height]])
        moved = self.of_points(corners, shape)
        beyond = float(max(-moved.min(), *(moved.max(0) - (width, height)), 0.0))
        return math.ceil(beyond) + 2
