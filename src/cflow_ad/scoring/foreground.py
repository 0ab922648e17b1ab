"""Find the part on a plain background.

A pixel belongs to the part where its colour differs from the background's by more than Otsu's
threshold; the background's colour is the median of the image's border. The foreground is the convex
hull of those pixels and a margin around it: holes and notches, which may be defects, lie within the
hull, and burrs at the part's edge within the margin.

References:
    Otsu, A threshold selection method from gray-level histograms, IEEE Trans. SMC, 1979.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

MARGIN = 0.04
"""Width of the margin around the part's hull, as a share of the longer side."""

_SIDE = 256  # the longer side, in pixels, of the copy that is examined
_BORDER = 0.02  # width of the border, as a share of the longer side
_CLEAR = 0.7  # least share of the variance of distances that two classes must explain
_ON_BORDER = 0.25  # most of the border that may look like the part
_LEAST = 0.002  # least share of the image that a part takes


def find_foreground(image: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Separate the part from a plain background in an image, `(H, W, 3)`, 0 to 255.

    Returns:
        Shape `(H, W)`, true on the part and a margin around it; None where that is not possible:
        the border is not plain, or nothing differs from it.
    """
    height, width = image.shape[:2]
    factor = min(1.0, _SIDE / max(height, width))
    small = (max(1, round(width * factor)), max(1, round(height * factor)))
    pixels = Image.fromarray(np.clip(np.rint(image), 0, 255).astype(np.uint8))
    # The median removes single specks, which would stretch the hull.
    shrunk = pixels.resize(small, Image.Resampling.BOX).filter(ImageFilter.MedianFilter(5))
    part = _find_part(np.asarray(shrunk, dtype=np.float32))
    if part is None:
        return None
    corners = _convex_hull(part)
    if len(corners) < 3:
        return None
    hull = Image.new("L", small)
    ImageDraw.Draw(hull).polygon(corners, fill=255)
    reach = max(1, round(MARGIN * max(small)))
    grown = hull.filter(ImageFilter.MaxFilter(2 * reach + 1))
    full = np.asarray(grown.resize((width, height), Image.Resampling.BILINEAR)) > 0
    return None if full.all() else full


def _find_part(pixels: NDArray[np.float32]) -> NDArray[np.bool_] | None:
    n = max(1, round(_BORDER * max(pixels.shape[:2])))
    on_border = np.ones(pixels.shape[:2], np.bool_)
    on_border[n:-n, n:-n] = False
    distance = np.sqrt(np.square(pixels - np.median(pixels[on_border], axis=0)).sum(-1))
    threshold, explained = _otsu(distance)
    part: NDArray[np.bool_] = distance > threshold
    if explained < _CLEAR or part.mean() < _LEAST or part[on_border].mean() > _ON_BORDER:
        return None
    return part


def _otsu(values: NDArray[np.float32]) -> tuple[float, float]:
    """Return the threshold between two classes, and the share of the variance between them."""
    counts, edges = np.histogram(values, 256)
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1]
    above = values.size - below
    sums = np.cumsum(counts * centres)
    total = sums[-1]
    low, high = sums[:-1] / np.maximum(below, 1), (total - sums[:-1]) / np.maximum(above, 1)
    between = below * above * np.square(high - low) / values.size**2
    best = int(between.argmax())
    return float(edges[best + 1]), float(between[best] / max(float(values.var()), 1e-9))


def _convex_hull(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return the corners `(x, y)` of a mask's convex hull, by Andrew's monotone chain."""
    rows = np.flatnonzero(mask.any(1))
    first, last = mask[rows].argmax(1), mask.shape[1] - 1 - mask[rows, ::-1].argmax(1)
    columns = np.concatenate([first, last]).tolist()
    ends = sorted(set(zip(columns, [*rows.tolist(), *rows.tolist()], strict=True)))

    def half(points: list[tuple[int, int]]) -> list[tuple[int, int]]:
        chain: list[tuple[int, int]] = []
        for x, y in points:
            while len(chain) > 1:
                (ax, ay), (bx, by) = chain[-2:]
                if (bx - ax) * (y - ay) - (by - ay) * (x - ax) > 0:
                    break
                chain.pop()
            chain.append((x, y))
        return chain[:-1]

    return half(ends) + half(ends[::-1])
