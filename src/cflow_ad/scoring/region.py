"""One region of interest for all images: a mask or polygons, scaled to each image.

A defect matters only inside its image's region. Outside, nothing is learnt, scored or counted.
"""

from __future__ import annotations

import functools
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from cflow_ad.data.annotations import draw_polygons, read_polygons
from cflow_ad.data.images import PathLike, image_shape
from cflow_ad.data.masks import read_mask
from cflow_ad.errors import DataError, ImageError
from cflow_ad.scoring.canvas import Shape

Mask: TypeAlias = NDArray[np.bool_]
RegionSource: TypeAlias = "PathLike | Mask"

_FRACTIONS_SIDE = 1024  # resolution, along either side, of what is drawn in fractions
_ASPECT = 0.01  # relative difference of aspect ratios that is rounding


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
            source: A mask file, as `read_mask` reads it; a `.json` file with a list of polygons,
                each a list of `[x, y]` points, in fractions of width and height
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
        polygons, drawn_on = read_polygons(path)
        largest = max(value for polygon in polygons for point in polygon for value in point)
        in_fractions = drawn_on is None and largest <= 1
        if in_fractions:
            scale = float(_FRACTIONS_SIDE)
            polygons = [[(x * scale, y * scale) for x, y in polygon] for polygon in polygons]
            drawn_on = _FRACTIONS_SIDE, _FRACTIONS_SIDE
        mask = draw_polygons(polygons, drawn_on or shape, str(path))
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
                "draw it in fractions, or give a mask for each image",
                code="image.shape",
                name=name,
                height=shape[0],
                width=shape[1],
            )
        mask = self._scaled(shape)
        if not mask.any():
            raise ImageError(
                f"{name or 'the image'}: too small: {self.name} covers no pixel of it",
                code="image.small",
                name=name,
            )
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
