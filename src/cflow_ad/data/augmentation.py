"""Variants of a good image: turned, shifted, lighter or darker, as far as good parts are.

A handful of images shows too little of how good parts differ. Variants add what is known of it
beforehand: how far a part may be turned or shifted in its fixture, and how far the light varies.
What comes in at the border is the image's own reflection.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cflow_ad.data.images import ImageSource, MadeImage, as_image, image_shape


@dataclass(frozen=True, slots=True, eq=False)
class Variant(MadeImage):
    """An image changed a little; made anew each time it is asked for."""

    source: ImageSource
    """The image it is of."""
    rotation: float
    """Degrees, counter-clockwise, about the image's middle."""
    shift: tuple[float, float]
    """Down and to the right, as fractions of height and width."""
    brightness: float
    """What pixels are multiplied with."""

    def shape(self) -> tuple[int, int]:
        """That of the image it is of."""
        return image_shape(self.source)

    def pixels(self) -> NDArray[Any]:
        """The image itself, as `as_image` gives it."""
        image = as_image(self.source)
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
    """Draw variants, evenly between no change and the most to either side.

    Args:
        sources: the images.
        copies: of each image.
        rotation: the most degrees.
        shift: the most that an image moves, as a fraction of its height and width.
        brightness: the most that pixels become lighter or darker, as a fraction.
        seed: of what is drawn for each image and copy.

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
            turn, down, right, light = np.random.default_rng([seed, number, copy, 5]).uniform(
                -1, 1, 4
            )
            moved = (float(down * shift), float(right * shift))
            drawn.append(
                Variant(source, float(turn * rotation), moved, float(1 + light * brightness))
            )
    return drawn


def _moved(image: NDArray[Any], degrees: float, shift: tuple[float, float]) -> NDArray[Any]:
    """Turn and shift by bilinear interpolation, with the image's reflection beyond its border."""
    height, width = image.shape[:2]
    down, right = shift[0] * height, shift[1] * width
    angle = math.radians(degrees)
    cos, sin = math.cos(angle), math.sin(angle)
    # How far a corner is fetched from beyond the border; numpy reflects as often as need be.
    reach = math.hypot(height, width) / 2 * abs(2 * math.sin(angle / 2)) + math.hypot(down, right)
    margin = math.ceil(reach) + 1
    padded = np.pad(image, ((margin, margin), (margin, margin), (0, 0)), mode="symmetric")
    middle_x, middle_y = margin + width / 2, margin + height / 2
    # Where a pixel of the result comes from: x' = a x + b y + c, y' = d x + e y + f.
    a, b, d, e = cos, -sin, sin, cos
    x0, y0 = width / 2 + right, height / 2 + down
    c = middle_x - a * x0 - b * y0
    f = middle_y - d * x0 - e * y0
    channels = [
        np.asarray(
            Image.fromarray(np.ascontiguousarray(padded[..., channel])).transform(
                (width, height),
                Image.Transform.AFFINE,
                (a, b, c, d, e, f),
                Image.Resampling.BILINEAR,
            )
        )
        for channel in range(image.shape[2])
    ]
    return np.stack(channels, axis=2)
