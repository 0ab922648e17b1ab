"""Variants of a good image: turned, shifted, brighter or darker, within limits that are set.

A handful of images shows too little of how good parts differ. Variants add what is known about it:
how far a part may be turned or shifted in its fixture, and how far the light varies. Beyond the
border of an image lies its own reflection.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cflow_ad.data.decoding.raster import Reading
from cflow_ad.data.images import (
    AS_STORED,
    ComputedImage,
    ImageSource,
    as_image,
    image_shape,
    source_name,
    transform,
)


@dataclass(frozen=True, slots=True, eq=False)
class Variant(ComputedImage):
    """An image with a small change, computed each time it is needed."""

    source: ImageSource
    """The unchanged image."""
    rotation: float
    """Degrees, counter-clockwise, about the centre of the image."""
    shift: tuple[float, float]
    """Down and to the right, as fractions of height and width."""
    brightness: float
    """The factor that pixels are multiplied by."""

    @property
    def name(self) -> str:
        """The path of the unchanged image."""
        return source_name(self.source)

    def shape(self, reading: Reading = AS_STORED) -> tuple[int, int]:
        """Height and width."""
        return image_shape(self.source, reading)

    def pixels(self, reading: Reading = AS_STORED) -> NDArray[Any]:
        """The changed image, as `as_image` returns it."""
        image = as_image(self.source, reading)
        if self.rotation or any(self.shift):
            image = _moved(image, self.rotation, self.shift)
        if self.brightness != 1:
            brighter = np.clip(image * np.float32(self.brightness), 0, 255)
            image = np.rint(brighter).astype(np.uint8) if image.dtype == np.uint8 else brighter
        return np.ascontiguousarray(image)


def variants(
    sources: Sequence[ImageSource],
    copies: int,
    *,
    rotation: float,
    shift: float,
    brightness: float,
    seed: int,
) -> list[Variant]:
    """Draw so many random variants of each image, uniformly within the limits to either side.

    The limits are degrees of rotation, a shift as a fraction of height and width, and a change of
    brightness as a fraction.

    Returns:
        The first variant of every image, then the second of every image, and so on.

    Example:
        >>> black = np.zeros((4, 4, 3), np.uint8)
        >>> drawn = variants([black], 2, rotation=5, shift=0, brightness=0.1, seed=0)
        >>> len(drawn), all(abs(variant.rotation) <= 5 for variant in drawn)
        (2, True)
    """
    drawn = []
    for copy in range(copies):
        for number, source in enumerate(sources):
            rng = np.random.default_rng([seed, number, copy, 5])
            turn, down, right, light = rng.uniform(-1, 1, 4).tolist()
            drawn.append(
                Variant(
                    source, turn * rotation, (down * shift, right * shift), 1 + light * brightness
                )
            )
    return drawn


def _moved(image: NDArray[Any], degrees: float, shift: tuple[float, float]) -> NDArray[Any]:
    """Turn and shift by bilinear interpolation, with the image's reflection beyond its border."""
    height, width = image.shape[:2]
    down, right = shift[0] * height, shift[1] * width
    angle = math.radians(degrees)
    cos, sin = math.cos(angle), math.sin(angle)
    # The farthest that a pixel comes from beyond the border; numpy reflects as often as needed.
    reach = math.hypot(height, width) / 2 * abs(2 * math.sin(angle / 2)) + math.hypot(down, right)
    margin = math.ceil(reach) + 1
    padded = np.pad(image, ((margin, margin), (margin, margin), (0, 0)), mode="symmetric")
    # Where a pixel of the result comes from: x' = cos x - sin y + c, y' = sin x + cos y + f.
    x, y = width / 2 + right, height / 2 + down
    c = margin + width / 2 - cos * x + sin * y
    f = margin + height / 2 - sin * x - cos * y
    comes_from = (cos, -sin, c, sin, cos, f)
    return transform(padded, (height, width), comes_from, Image.Resampling.BILINEAR)
