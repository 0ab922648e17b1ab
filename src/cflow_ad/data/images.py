"""Image files as arrays, on one scale that never depends on the image.

A pixel is a number from 0 (black) to 255 (white), whatever file it came from: the same grey is the
same number in every image of a data set. 8-bit sources stay ``uint8``. Deeper ones become
``float32`` on the same scale, which keeps their precision.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cflow_ad.data.arrays import ArrayImage, Tensor
from cflow_ad.data.decoding.files import read_header, read_raster
from cflow_ad.data.decoding.pillow import finish, header_of, raster_of
from cflow_ad.data.decoding.raster import Raster, Reading, to_pixels
from cflow_ad.errors import ImageError

PathLike: TypeAlias = "str | os.PathLike[str]"
ImageSource: TypeAlias = (
    "str | os.PathLike[str] | Image.Image | NDArray[Any] | Tensor | ArrayImage | ComputedImage"
)

AS_STORED = Reading()
"""16-bit files have 16 bits, a file holds one image, and no sensor's mosaic."""


class ComputedImage(ABC):
    """An image that is computed when it is needed, and not kept."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The path of the file that it is computed from; empty for an image from memory."""

    @abstractmethod
    def shape(self, reading: Reading = AS_STORED) -> tuple[int, int]:
        """Height and width."""

    @abstractmethod
    def pixels(self, reading: Reading = AS_STORED) -> NDArray[Any]:
        """The image, as `as_image` returns it."""

    def raster(self, reading: Reading) -> Raster | None:
        """The samples, where they are those of a file; else None."""
        return None


@dataclass(frozen=True, slots=True, eq=False)
class ReadAs(ComputedImage):
    """An image, and how it is read."""

    source: ImageSource
    """No other `ReadAs`."""

    reading: Reading

    @property
    def name(self) -> str:
        """The path of the file; empty for an image from memory."""
        return source_name(self.source)

    def shape(self, reading: Reading = AS_STORED) -> tuple[int, int]:
        """Height and width."""
        return image_shape(self.source, self.reading)

    def pixels(self, reading: Reading = AS_STORED) -> NDArray[Any]:
        """The image, as `as_image` returns it."""
        return as_image(self.source, self.reading)

    def raster(self, reading: Reading) -> Raster | None:
        """The samples, where they are those of a file; else None."""
        return image_raster(self.source, self.reading)


def read_as(source: ImageSource, reading: Reading) -> ReadAs:
    """Say how an image is read, in place of what was said before."""
    return ReadAs(original(source), reading)


def original(source: ImageSource) -> ImageSource:
    """Return the image that a `ReadAs` holds; any other is returned itself."""
    return source.source if isinstance(source, ReadAs) else source


def read_image(path: PathLike, reading: Reading = AS_STORED) -> NDArray[Any]:
    """Read an image file as RGB, upright.

    Grey is repeated to three channels; palette, CMYK, YCbCr and HSV are converted; transparent
    pixels are blended with black; EXIF orientation is applied.

    Args:
        path: A PNG, JPEG, BMP, TIFF, WebP or PNM (PBM, PGM, PPM) file.
        reading: What the file does not say.

    Returns:
        Pixels, H x W x 3, from 0 to 255: ``uint8``, or ``float32`` for more than 8 bits.

    Raises:
        ImageError: The file is missing, a folder, empty, unreadable, not an image, damaged,
            truncated, of an unsupported kind, larger than 500 megapixels, brighter than its depth
            allows, or has float pixels, which have no fixed white.
        DependencyError: A library that its kind needs is not installed.
    """
    return to_pixels(read_raster(Path(path), reading), reading, str(path))


def source_name(source: ImageSource) -> str:
    """Return a file's path; empty for an image from memory."""
    if isinstance(source, ComputedImage):
        return source.name
    return os.fspath(source) if isinstance(source, str | os.PathLike) else ""


def as_image(source: ImageSource, reading: Reading = AS_STORED) -> NDArray[Any]:
    """Return the pixels of an image, whatever form it has.

    Args:
        source: A path (see `read_image`); a Pillow image, treated as its file would be; an array or
            a torch tensor, H x W, H x W x 1, H x W x 3 (RGB) or H x W x 4 (RGBA), of ``uint8``,
            ``uint16`` or float (white is 255); or an `ArrayImage`, for arrays of another form.
        reading: What the source does not say.

    Returns:
        Pixels, H x W x 3, from 0 to 255, contiguous and writeable: ``uint8`` where 8 bits hold all
        values, else ``float32``. An array that is so already is returned itself, not copied.

    Raises:
        ImageError: The source cannot be used as an image; the message says why. A float array
            that seems to be on the scale 0 to 1 is one of these.
        DependencyError: A library that its kind needs is not installed.

    >>> as_image(np.full((2, 3), 65535, np.uint16))[0, 0]
    array([255, 255, 255], dtype=uint8)
    """
    match source:
        case ComputedImage():
            return source.pixels(reading)
        case str() | os.PathLike():
            return read_image(source, reading)
        case Image.Image():
            return to_pixels(_of_pillow(source, reading), reading, _name(source))
        case ArrayImage():
            return source.pixels(reading)
        case np.ndarray() | Tensor():
            return ArrayImage(source).pixels(reading)
    raise _no_image(source)


def image_raster(source: ImageSource, reading: Reading = AS_STORED) -> Raster | None:
    """Return the samples of an image as they are stored; None where it is brought to 0..255.

    Raises:
        ImageError: As for `as_image`.
    """
    match source:
        case ComputedImage():
            return source.raster(reading)
        case str() | os.PathLike():
            return read_raster(Path(source), reading)
        case Image.Image():
            return _of_pillow(source, reading)
        case ArrayImage():
            return source.raster(reading)
        case np.ndarray() | Tensor():
            return ArrayImage(source).raster(reading)
    raise _no_image(source)


def image_shape(source: ImageSource, reading: Reading = AS_STORED) -> tuple[int, int]:
    """Return height and width as `as_image` would, without decoding a file's pixels.

    Raises:
        ImageError: The source cannot be used, as far as its header shows it.
    """
    match source:
        case ComputedImage():
            return source.shape(reading)
        case str() | os.PathLike():
            return read_header(Path(source), reading).shape
        case Image.Image():
            return header_of(source).shape
        case ArrayImage():
            return source.shape
        case np.ndarray() | Tensor():
            return ArrayImage(source).shape
    raise _no_image(source)


def transform(
    array: NDArray[Any],
    shape: tuple[int, int],
    coefficients: tuple[float, ...],
    kernel: Image.Resampling,
) -> NDArray[Any]:
    """Apply an affine transform to an array `(H, W)` or `(H, W, 3)`; 0 beyond the border.

    The coefficients `a, ..., f` say where a pixel of the result, of height and width `shape`, comes
    from: `x' = a x + b y + c`, `y' = d x + e y + f`.
    """
    if array.dtype == np.bool_:
        return transform(array.astype(np.uint8), shape, coefficients, kernel).astype(np.bool_)
    if array.ndim == 3 and array.dtype != np.uint8:
        channels = [transform(array[..., c], shape, coefficients, kernel) for c in range(3)]
        return np.stack(channels, axis=2)
    image = Image.fromarray(np.ascontiguousarray(array))
    size = (shape[1], shape[0])
    return np.array(image.transform(size, Image.Transform.AFFINE, coefficients, kernel))


def _of_pillow(image: Image.Image, reading: Reading) -> Raster:
    finish(image, _name(image))
    return raster_of(image, header_of(image), _name(image), reading)


def _name(image: Image.Image) -> str:
    return str(getattr(image, "filename", "") or "the Pillow image")


def _no_image(source: object) -> ImageError:
    return ImageError(
        f"an image is a path, a Pillow image, a numpy array or a torch tensor, not "
        f"{type(source).__name__}; convert it to one of these"
    )
