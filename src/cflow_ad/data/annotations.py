"""Outlines of defects or regions that a person drew: LabelMe files, lists of polygons; see `coco`.

References:
    LabelMe: `shapes`, each with `points` and `shape_type`, on an image of `imageHeight` x
    `imageWidth`.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from cflow_ad.errors import DataError

Point: TypeAlias = tuple[float, float]
Polygon: TypeAlias = list[Point]
Shape: TypeAlias = tuple[int, int]

FORM = (
    "write a list of polygons, each a list of [x, y] points in pixels or in fractions of the "
    "image: [[[0.1, 0.1], [0.9, 0.1], [0.5, 0.9]]]"
)
_CIRCLE_POINTS = 64
UNREADABLE = (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError)


@dataclass(frozen=True, slots=True, eq=False)
class Patch:
    """Pixels that are marked one by one, with their place in the image."""

    left: int
    top: int
    mask: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Outlines:
    """What is marked in one image: the union of polygons and patches."""

    file: Path
    """Where it is written."""

    shape: Shape | None
    """Height and width of the image that it was drawn on, where they are stated."""

    polygons: tuple[Polygon, ...] = ()
    """Points in pixels, x before y; the centre of the first pixel is at 0.5, 0.5."""

    patches: tuple[Patch, ...] = ()

    def draw(self, shape: Shape) -> NDArray[np.bool_]:
        """Return the marked pixels of an image of height and width `shape`.

        Raises:
            DataError: A point lies outside the image.
        """
        mask = draw_polygons(self.polygons, shape, str(self.file))
        for patch in self.patches:
            height, width = patch.mask.shape
            inside = mask[patch.top : patch.top + height, patch.left : patch.left + width]
            inside |= patch.mask[: inside.shape[0], : inside.shape[1]]
        return mask


def read_labelme(path: Path) -> Outlines:
    """Read a LabelMe file; every shape in it counts, whatever its label.

    Raises:
        DataError: It cannot be read, or has a shape that covers no area, such as a line.
    """
    found = load_json(path)
    try:
        drawn_on = int(found["imageHeight"]), int(found["imageWidth"])
        polygons, patches = [], []
        for item in found["shapes"]:
            if item.get("mask"):
                patches.append(_patch_of(item))
            else:
                polygons.append(_polygon_of(item, path))
    except UNREADABLE as error:
        raise DataError(f"{path}: no LabelMe file, or a damaged one ({error})") from error
    check_polygons(polygons, path)
    return Outlines(path, drawn_on, tuple(polygons), tuple(patches))


def is_labelme(path: Path) -> bool:
    """Return whether a file is of LabelMe."""
    return "shapes" in keys_of(path)


def read_polygons(path: Path) -> tuple[list[Polygon], Shape | None]:
    """Read a list of polygons, or a LabelMe file.

    Returns:
        The polygons, and height and width of the image they were drawn on where they are stated.

    Raises:
        DataError: There are none, or they cannot be read.
    """
    found = load_json(path)
    if isinstance(found, dict):
        outlines = read_labelme(path)
        polygons, drawn_on = list(outlines.polygons), outlines.shape
        if outlines.patches:
            raise DataError(f"{path}: it has masks among its shapes; {FORM}")
    else:
        drawn_on = None
        try:
            polygons = [[(float(x), float(y)) for x, y in polygon] for polygon in found]
        except UNREADABLE as error:
            raise DataError(f"{path}: no polygons can be read from it ({error}); {FORM}") from error
    if not polygons:
        raise DataError(f"{path}: a polygon has at least three points; {FORM}")
    check_polygons(polygons, path)
    return polygons, drawn_on


def draw_polygons(polygons: Sequence[Polygon], shape: Shape, name: str) -> NDArray[np.bool_]:
    """Mark the pixels of an image of height and width `shape` whose centre a polygon contains.

    Raises:
        DataError: A point lies more than a pixel outside the image.
    """
    for x, y in (point for polygon in polygons for point in polygon):
        if not (-1 <= x <= shape[1] + 1 and -1 <= y <= shape[0] + 1):
            raise DataError(
                f"{name}: the point [{x:g}, {y:g}] lies outside the image, {shape[1]} wide and "
                f"{shape[0]} high; {FORM}"
            )
    mask = np.zeros(shape, np.bool_)
    for polygon in polygons:
        mask |= _fill(polygon, shape)
    return mask


def _fill(polygon: Polygon, shape: Shape) -> NDArray[np.bool_]:
    """Return the pixels whose centre lies inside: those with an odd number of edges before them."""
    height, width = shape
    edges = np.zeros((height, width + 1), np.int32)
    for (x, y), (to_x, to_y) in zip(polygon, polygon[1:] + polygon[:1], strict=True):
        first, last = sorted((y, to_y))
        rows = np.arange(max(0, math.ceil(first - 0.5)), min(height, math.ceil(last - 0.5)))
        if len(rows):
            crossed = x + (rows + 0.5 - y) * ((to_x - x) / (to_y - y))
            edges[rows, np.ceil(crossed - 0.5).astype(int).clip(0, width)] += 1
    return np.asarray(edges.cumsum(axis=1)[:, :width] % 2 == 1)


def load_json(path: Path) -> Any:
    """Read a file of JSON; raises DataError where it is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: no polygons can be read from it ({error}); {FORM}") from error


def keys_of(path: Path) -> set[str]:
    """Return the names in the object that a file of JSON holds; none where it holds another."""
    try:
        found = load_json(path)
    except DataError:
        return set()
    return set(found) if isinstance(found, dict) else set()


def check_polygons(polygons: Sequence[Polygon], path: Path) -> None:
    """Raise DataError if one has fewer than three points, or a number that is not finite."""
    if any(len(polygon) < 3 for polygon in polygons):
        raise DataError(f"{path}: a polygon has at least three points; {FORM}")
    if not all(math.isfinite(value) for polygon in polygons for p in polygon for value in p):
        raise DataError(f"{path}: a number is not finite; {FORM}")


def _polygon_of(item: dict[str, Any], path: Path) -> Polygon:
    kind = item.get("shape_type") or "polygon"
    points = [(float(x), float(y)) for x, y in item["points"]]
    if kind == "rectangle":
        (left, top), (right, bottom) = points
        return [(left, top), (right, top), (right, bottom), (left, bottom)]
    if kind == "circle":
        (x, y), edge = points
        radius = math.dist((x, y), edge)
        turns = (2 * math.pi * n / _CIRCLE_POINTS for n in range(_CIRCLE_POINTS))
        return [(x + radius * math.cos(turn), y + radius * math.sin(turn)) for turn in turns]
    if kind != "polygon":
        raise DataError(f"{path}: a shape of type {kind}, which covers no area; draw a polygon")
    return points


def _patch_of(item: dict[str, Any]) -> Patch:
    (left, top), _ = item["points"]
    try:
        with Image.open(io.BytesIO(base64.b64decode(item["mask"]))) as image:
            mask = np.asarray(image.convert("L")) > 0
    except (binascii.Error, UnidentifiedImageError) as error:
        raise ValueError(f"a mask that cannot be decoded: {error}") from error
    return Patch(max(0, int(left)), max(0, int(top)), mask)
