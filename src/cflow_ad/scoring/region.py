"""One region of interest for all images: a mask or polygons, scaled to each image.

A defect matters only inside its image's region. Outside, nothing is learnt, scored or counted.
"""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, PngImagePlugin

from cflow_ad.data.images import PathLike, image_shape
from cflow_ad.data.masks import read_mask
from cflow_ad.errors import DataError, ImageError
from cflow_ad.scoring.canvas import Shape

Mask: TypeAlias = NDArray[np.bool_]
RegionSource: TypeAlias = "PathLike | Mask"

_FRACTIONS_SIDE = 1024  # resolution, along either side, of what is drawn in fractions
_ASPECT = 0.01  # relative difference of aspect ratios that is rounding
_FORM = (
    "write a list of polygons, each a list of [x, y] points in pixels or in fractions of the "
    "image: [[[0.1, 0.1], [0.9, 0.1], [0.5, 0.9]]]"
)


@dataclass(frozen=True, eq=False)
class Region:
    """One region for all images."""

    mask: Mask
    """Shape `(H, W)`, true inside; of any resolution."""

    of_any_shape: bool = False
    """Whether it fits images of every aspect ratio, as polygons in fractions do."""

    name: str = "the region of interest"
    """What an error calls it."""

    def __post_init__(self) -> None:
        if self.mask.ndim != 2 or self.mask.dtype != np.bool_:
            raise DataError(
                f"{self.name}: an array of shape {self.mask.shape} and type {self.mask.dtype}; "
                "give H x W of bool"
            )
        if not self.mask.any():
            raise DataError(f"{self.name}: it covers nothing; mark the region in white")

    @classmethod
    def read(cls, source: RegionSource, shape: Shape) -> Region:
        """Read a region from a file, or take an array.

        Args:
            source: A mask file, where every pixel that is not zero is inside; a `.json` file with a
                list of polygons, each a list of `[x, y]` points, in fractions of width and height
                where no number is above 1 and in pixels otherwise; a LabelMe file, of which all
                polygons and rectangles are taken; or an array `(H, W)` of bool.
            shape: Height and width of the images, for polygons in pixels.

        Raises:
            DataError: The source is none of these, or covers nothing.
        """
        if isinstance(source, np.ndarray):
            return cls(source)
        path = Path(source)
        if not path.is_file():
            raise DataError(
                f"{path}: there is no such file; give a mask, a .json of polygons, or a folder "
                "with a mask for each image"
            )
        if path.suffix.lower() != ".json":
            return cls(read_mask(path, image_shape(path)), name=str(path))
        polygons, drawn_on = _read_polygons(path)
        in_fractions = drawn_on is None and max(map(max, _points(polygons))) <= 1
        if in_fractions:
            scale = float(_FRACTIONS_SIDE)
            polygons = [[(x * scale, y * scale) for x, y in polygon] for polygon in polygons]
            drawn_on = _FRACTIONS_SIDE, _FRACTIONS_SIDE
        mask = _draw(polygons, drawn_on or shape, str(path))
        return cls(mask, of_any_shape=in_fractions, name=str(path))

    def inside(self, shape: Shape, name: str = "") -> Mask:
        """Scale the region to an image of height and width `shape`, which an error calls `name`.

        The array is read-only.

        Raises:
            ImageError: The image has another aspect ratio than the region, or is too small for it.
        """
        height, width = self.mask.shape
        ratio = (shape[1] * height) / (shape[0] * width)
        if not self.of_any_shape and abs(ratio - 1) > max(_ASPECT, 1 / min(shape)):
            raise ImageError(
                f"{name or 'the image'}: {shape[0]} x {shape[1]} pixels (height x width), but "
                f"{self.name} is for images of {height} x {width} or the same aspect ratio; "
                "draw it in fractions, or give a mask for each image"
            )
        mask = self._scaled(shape)
        if not mask.any():
            raise ImageError(f"{name or 'the image'}: too small: {self.name} covers no pixel of it")
        return mask

    @functools.lru_cache(maxsize=8)  # noqa: B019 (a model has one region)
    def _scaled(self, shape: Shape) -> Mask:
        mask = self.mask
        if mask.shape != shape:
            image = Image.fromarray(mask.astype(np.uint8))
            scaled = image.resize((shape[1], shape[0]), Image.Resampling.NEAREST)
            mask = np.asarray(scaled).astype(np.bool_)
        mask.setflags(write=False)
        return mask

    def to_png(self) -> bytes:
        """Return a PNG file of one bit a pixel, which `from_png` reads."""
        about = PngImagePlugin.PngInfo()
        about.add_text("of_any_shape", str(self.of_any_shape))
        file = io.BytesIO()
        Image.fromarray(self.mask).save(file, "PNG", pnginfo=about, optimize=True)
        return file.getvalue()

    @classmethod
    def from_png(cls, data: bytes) -> Region:
        """Read what `to_png` returned.

        Raises:
            OSError: The bytes are no image.
        """
        with Image.open(io.BytesIO(data)) as image:
            mask = np.array(image.convert("1"), dtype=np.bool_)
            return cls(mask, of_any_shape=image.info.get("of_any_shape") == "True")


Polygon: TypeAlias = list[tuple[float, float]]


def _read_polygons(path: Path) -> tuple[list[Polygon], Shape | None]:
    """Return the polygons, and the shape of the image they were drawn on where it is stated."""
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
        drawn_on = None
        if isinstance(found, dict):  # LabelMe
            drawn_on = int(found["imageHeight"]), int(found["imageWidth"])
            found = [_of_labelme(item) for item in found["shapes"]]
        polygons = [[(float(x), float(y)) for x, y in polygon] for polygon in found]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: no polygons can be read from it ({error}); {_FORM}") from error
    if not polygons or min(map(len, polygons)) < 3:
        raise DataError(f"{path}: a polygon has at least three points; {_FORM}")
    if not np.isfinite(_points(polygons)).all():
        raise DataError(f"{path}: a number is not finite; {_FORM}")
    return polygons, drawn_on


def _of_labelme(item: dict[str, Any]) -> list[Any]:
    points: list[Any] = item["points"]
    if item.get("shape_type") == "rectangle":
        (left, top), (right, bottom) = points
        return [(left, top), (right, top), (right, bottom), (left, bottom)]
    return points


def _points(polygons: Iterable[Polygon]) -> Polygon:
    return [point for polygon in polygons for point in polygon]


def _draw(polygons: list[Polygon], shape: Shape, name: str) -> Mask:
    for x, y in _points(polygons):
        if not (-1 <= x <= shape[1] + 1 and -1 <= y <= shape[0] + 1):
            raise DataError(
                f"{name}: the point [{x:g}, {y:g}] lies outside the image, {shape[1]} wide and "
                f"{shape[0]} high; {_FORM}"
            )
    image = Image.new("1", (shape[1], shape[0]))
    draw = ImageDraw.Draw(image)
    for polygon in polygons:
        draw.polygon([(x - 0.5, y - 0.5) for x, y in polygon], fill=1)
    return np.array(image, dtype=np.bool_)
