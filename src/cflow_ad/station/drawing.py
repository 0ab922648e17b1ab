"""A result as PNG files, drawn without more than numpy and Pillow."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from cflow_ad.evaluation.overlay import heatmap, map_scale, to_uint8
from cflow_ad.scoring.prediction import Prediction

KINDS = ("heat", "map", "mask", "overlay")
_THUMBNAIL = 192
_RED = (230, 0, 38)


def draw(kind: str, prediction: Prediction, pixels: NDArray[Any]) -> bytes:
    """Draw a result, of the size of the picture.

    Args:
        kind: `heat`, the map in colours, with the threshold in the middle of the scale,
            transparent where it is 0 and opaque from the threshold on; `map`, the map in 16 bits,
            thousandths; `mask`, 0 and 255; `overlay`, the picture with the mask
            outlined in red.
        prediction: the result.
        pixels: of the picture, shape `(H, W, 3)`, 0 to 255.
    """
    if kind == "heat":
        low, high = map_scale(prediction.map_threshold)
        share = np.clip(2 * prediction.anomaly_map / (high - low), 0, 1)
        colours = heatmap(prediction.anomaly_map, (low, high))
        alpha = np.rint(255 * share).astype(np.uint8)
        return to_png(Image.fromarray(np.dstack((colours, alpha))))
    if kind == "map":
        scaled = np.clip(np.rint(prediction.anomaly_map * 1000), 0, 65535).astype(np.uint16)
        return to_png(Image.fromarray(scaled))
    mask = Image.fromarray(prediction.mask.astype(np.uint8) * 255)
    if kind == "mask":
        return to_png(mask)
    pixels = to_uint8(pixels).copy()
    line = 2 * max(1, round(max(pixels.shape[:2]) / 256)) + 1
    around = np.asarray(mask.filter(ImageFilter.MaxFilter(line))) > 0
    pixels[around & ~prediction.mask] = _RED
    return to_png(Image.fromarray(pixels))


def shrink_to_jpeg(pixels: NDArray[Any], longest: int = _THUMBNAIL) -> bytes:
    """Shrink a picture `(H, W, 3)` to so many pixels on its longer side, as JPEG."""
    image = Image.fromarray(to_uint8(pixels))
    image.thumbnail((longest, longest), Image.Resampling.BILINEAR, reducing_gap=2)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=85)
    return file.getvalue()


def to_png(image: Image.Image) -> bytes:
    """Write an image as a PNG file, fast rather than small."""
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()
