"""Predictions as pictures in plain arrays: defects outlined in red, the anomaly map in jet.

Nothing here needs matplotlib. A score has the same colour in every image.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cflow_ad.scoring.prediction import Prediction

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]

RED = (255, 0, 0)

_JET = (
    ((0.0, 0.35, 0.66, 0.89, 1.0), (0.0, 0.0, 1.0, 1.0, 0.5)),
    ((0.0, 0.125, 0.375, 0.64, 0.91, 1.0), (0.0, 0.0, 1.0, 1.0, 0.0, 0.0)),
    ((0.0, 0.11, 0.34, 0.65, 1.0), (0.5, 1.0, 1.0, 0.0, 0.0)),
)
"""Red, green and blue of jet: positions on the scale, and the values there."""


def map_scale(map_threshold: float) -> tuple[float, float]:
    """The scores of the first and the last colour, for every map of a model.

    The scale runs from 0 to twice the map's threshold, so that the threshold is in the middle, at
    green: colder colours are below it and warmer ones above, whatever the model. Without a finite
    threshold above 0 the scale is 0 to 1.

    >>> map_scale(1.75)
    (0.0, 3.5)
    """
    top = 2 * map_threshold
    return (0.0, top) if top > 0 and math.isfinite(top) else (0.0, 1.0)


@cache
def jet_table() -> Pixels:
    """The colours from the lower to the upper end of the scale, shape `(256, 3)`, read-only."""
    position = np.linspace(0, 1, 256)
    channels = [np.interp(position, *bends) for bends in _JET]
    table = np.rint(np.stack(channels, axis=1) * 255).astype(np.uint8)
    table.setflags(write=False)
    return table


def heatmap(anomaly_map: NDArray[Any], scale: tuple[float, float]) -> Pixels:
    """Colour an anomaly map, shape `(H, W)`, as RGB, shape `(H, W, 3)`.

    Scores beyond the scale (see `map_scale`) have its first or last colour.

    Raises:
        ValueError: the scale does not rise.

    >>> heatmap(np.array([[0.0, 9.0]]), (0.0, 2.0)).tolist()
    [[[0, 0, 128], [128, 0, 0]]]
    """
    low, high = scale
    if not low < high:
        raise ValueError(f"the scale must rise, not run from {low} to {high}")
    position = (np.asarray(anomaly_map, dtype=np.float32) - np.float32(low)) * np.float32(
        255 / (high - low)
    )
    colours: Pixels = jet_table()[np.rint(np.clip(position, 0, 255)).astype(np.uint8)]
    return colours


def overlay(image: NDArray[Any], prediction: Prediction) -> Pixels:
    """Outline the predicted mask in red, and dim what is outside the region of interest.

    The image is RGB, shape `(H, W, 3)`, 0 to 255. A good one has an empty mask and no outline.

    Raises:
        ValueError: the prediction belongs to an image of another size.
    """
    if prediction.inside is not None and prediction.inside.shape == image.shape[:2]:
        dimmed = to_uint8(image).copy()
        dimmed[~prediction.inside] //= 2
        image = dimmed
    return outline(image, prediction.mask)


def outline(image: NDArray[Any], mask: Mask, width: int | None = None) -> Pixels:
    """Draw a red line around the regions of a mask.

    The line is just outside a region and covers none of it; where a region reaches the image's
    edge, the line is on the edge.

    Args:
        image: RGB, shape `(H, W, 3)`, 0 to 255; not modified.
        mask: shape `(H, W)`.
        width: of the line, in pixels; by default one for every 256 pixels of the longer side.

    Raises:
        ValueError: the mask has another size than the image.
    """
    if image.shape != (*mask.shape, 3):
        raise ValueError(f"image {image.shape} and mask {mask.shape} must be of one size")
    drawn = to_uint8(image).copy()
    if not mask.any():
        return drawn
    opacity = _line(mask, width or max(1, round(max(mask.shape) / 256)))
    on_line = opacity > 0
    share = opacity[on_line][:, None]
    drawn[on_line] = np.rint(drawn[on_line] * (1 - share) + np.array(RED, np.float32) * share)
    return drawn


def _line(mask: Mask, width: int) -> NDArray[np.float32]:
    """Opacity in `[0, 1]` of a line around a mask, shape `(H, W)`, anti-aliased."""
    from scipy import ndimage  # slow to import, and needed for drawing only

    opacity = np.zeros(mask.shape, dtype=np.float32)
    near = ndimage.maximum_filter(mask, 2 * width + 3)
    # Distances are slow on a large image, and needed only near the regions.
    for part in ndimage.find_objects(ndimage.label(near)[0]):
        inside = mask[part]
        if inside.all():
            continue
        distance = ndimage.distance_transform_edt(~inside)
        line = np.where(inside, 0, np.clip(width + 1 - distance, 0, 1))
        opacity[part] = np.maximum(opacity[part], line)
    for edge in (np.s_[:width], np.s_[-width:], np.s_[:, :width], np.s_[:, -width:]):
        opacity[edge][mask[edge]] = 1
    return opacity


def to_uint8(image: NDArray[Any]) -> Pixels:
    """Round pixels of 0 to 255 to whole numbers; `uint8` is returned itself."""
    if image.dtype != np.uint8:
        image = np.rint(np.clip(image, 0, 255)).astype(np.uint8)
    return image


def shrink_image(image: NDArray[Any], longest: int) -> Pixels:
    """Scale an RGB image, `(H, W, 3)`, down to `longest` pixels on its longer side."""
    pixels = to_uint8(image)
    size = _fitted(pixels.shape, longest)
    if size is None:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


def shrink_map(anomaly_map: NDArray[Any], longest: int) -> NDArray[np.float32]:
    """Scale a map, `(H, W)`, down to `longest` pixels on its longer side, by means."""
    scores = np.ascontiguousarray(anomaly_map, dtype=np.float32)
    size = _fitted(scores.shape, longest)
    if size is None:
        return scores
    return np.asarray(Image.fromarray(scores).resize(size, Image.Resampling.BOX))


def shrink_mask(mask: Mask, longest: int) -> Mask:
    """Scale a mask, `(H, W)`, down; a pixel is set if any pixel it covers is."""
    found: Mask = shrink_map(mask, longest) > 0
    return found


def _fitted(shape: tuple[int, ...], longest: int) -> tuple[int, int] | None:
    """The width and height after scaling, or None if the image is small enough."""
    height, width = shape[:2]
    ratio = longest / max(height, width)
    if ratio >= 1:
        return None
    return max(1, round(width * ratio)), max(1, round(height * ratio))
