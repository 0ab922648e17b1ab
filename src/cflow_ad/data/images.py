"""Image files as arrays, on one scale that never depends on the image.

A pixel is a number from 0 (black) to 255 (white), whatever file it came from: the same grey is the
same number in every image. 8-bit sources stay ``uint8``. 16-bit grey becomes ``float32`` on the
same scale (divided by 257), which keeps its precision. 16-bit colour is read as 8 bits a channel,
because Pillow decodes no more.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cflow_ad.data._decode import check_size, convert, finish, load, read_shape, upright
from cflow_ad.errors import ImageError

PathLike: TypeAlias = "str | os.PathLike[str]"
ImageSource: TypeAlias = "str | os.PathLike[str] | Image.Image | NDArray[Any] | ComputedImage"


class ComputedImage(ABC):
    """An image that is computed when it is needed, and not kept."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The path of the file that it is computed from; empty for an image from memory."""

    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """Height and width."""

    @abstractmethod
    def pixels(self) -> NDArray[Any]:
        """The image, as `as_image` returns it."""


def read_image(path: PathLike) -> NDArray[Any]:
    """Read an image file as RGB, upright.

    Grey is repeated to three channels; palette, CMYK, YCbCr, LAB and HSV are converted;
    transparent pixels are blended with black; EXIF orientation is applied; of several frames the
    first is read.

    Args:
        path: A PNG, JPEG, BMP, TIFF or WebP file.

    Returns:
        Pixels, H x W x 3, from 0 to 255: ``uint8``, or ``float32`` for 16-bit grey.

    Raises:
        ImageError: The file is missing, a folder, empty, unreadable, not an image, damaged,
            truncated, larger than 500 megapixels, or has float pixels, which have no fixed white.
    """
    return read_image_and_mode(path)[0]


def read_image_and_mode(path: PathLike) -> tuple[NDArray[Any], str]:
    """Read as `read_image`, and return the file's own pixel mode too, as Pillow names it: ``L``."""
    path = Path(path)
    image = load(path)
    return to_rgb(image, str(path)), image.mode


def source_name(source: ImageSource) -> str:
    """Return a file's path; empty for an image from memory."""
    if isinstance(source, ComputedImage):
        return source.name
    return os.fspath(source) if isinstance(source, str | os.PathLike) else ""


def as_image(source: ImageSource) -> NDArray[Any]:
    """Return the pixels of an image, whatever form it has.

    Args:
        source: A path (see `read_image`); a Pillow image, treated as its file would be; or an
            array, H x W, H x W x 1, H x W x 3 (RGB) or H x W x 4 (RGBA), of ``uint8``, ``uint16``
            (white is 65535), ``float32`` or ``float64`` (white is 255).

    Returns:
        Pixels, H x W x 3, from 0 to 255, contiguous and writeable: ``uint8`` for 8-bit sources,
        else ``float32``. An array that is so already is returned itself, not copied.

    Raises:
        ImageError: The source cannot be used as an image; the message says why. A float array
            that seems to be on the scale 0 to 1 is one of these.

    >>> as_image(np.full((2, 3), 65535, np.uint16))[0, 0]
    array([255., 255., 255.], dtype=float32)
    """
    match source:
        case str() | os.PathLike():
            return read_image(source)
        case Image.Image():
            name = str(getattr(source, "filename", "") or "the Pillow image")
            finish(source, name)
            return to_rgb(source, name)
        case np.ndarray():
            return _array_to_rgb(source)
        case ComputedImage():
            return source.pixels()
    raise ImageError(
        f"an image is a path, a Pillow image or a numpy array, not {type(source).__name__}; "
        "convert it to one of these"
    )


def image_shape(source: ImageSource) -> tuple[int, int]:
    """Return height and width as `as_image` would, without decoding a file's pixels.

    Raises:
        ImageError: The source cannot be used, as far as its header shows it.
    """
    if isinstance(source, str | os.PathLike):
        return read_shape(Path(source))
    if isinstance(source, ComputedImage):
        return source.shape()
    height, width, _ = as_image(source).shape
    return height, width


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


def to_rgb(image: Image.Image, name: str) -> NDArray[Any]:
    """Convert a decoded image to what `read_image` returns; an error calls it `name`.

    Raises:
        ImageError: Its pixels have no fixed scale.
    """
    mode = image.mode
    if mode == "F":
        nan = ", and this one contains NaN" if np.isnan(np.asarray(image)).any() else ""
        raise ImageError(
            f"{name}: float images have no fixed white{nan}; convert it to 8 or 16 bit"
        )
    if mode == "I" or mode.startswith("I;16"):
        pixels = _grey16_to_rgb(image, name)
    elif image.has_transparency_data:
        pixels = _on_black(np.asarray(convert(image, "RGBA", name)))
    elif mode in ("1", "L"):
        pixels = np.asarray(image.convert("L"))[..., None].repeat(3, axis=2)
    else:
        pixels = np.asarray(convert(image, "RGB", name))
    return _owned(upright(pixels, image))


def _grey16_to_rgb(image: Image.Image, name: str) -> NDArray[Any]:
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
        raise ImageError(
            f"{name}: values run from {values.min()} to {values.max()}, outside 16 bits "
            "(0 to 65535); convert it to 8 or 16 bit"
        )
    grey = values.astype(np.float32) / np.float32(257)
    key = image.info.get("transparency")
    if isinstance(key, int):
        grey[values == key] = 0  # a colour key: these pixels are transparent, so black
    return grey[..., None].repeat(3, axis=2)


def _array_to_rgb(array: NDArray[Any]) -> NDArray[Any]:
    name = "the image array"
    shape = array.shape
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
        raise ImageError(
            f"{name}: its shape is {shape}; it has to be H x W, or H x W x channels with 1, 3 or "
            "4 channels in the last place"
        )
    check_size((shape[1], shape[0]), name)
    kind = (array.dtype.kind, array.dtype.itemsize)
    if kind == ("u", 1):
        pixels = array
    elif kind == ("u", 2):
        pixels = array.astype(np.float32) / np.float32(257)
    elif kind in (("f", 4), ("f", 8)):
        _check_scale(array, name)
        pixels = array.astype(np.float32, copy=False)
    else:
        raise ImageError(
            f"{name}: its type is {array.dtype}; convert it to uint8, uint16 or float32 on the "
            "scale 0 to 255"
        )
    if pixels.shape[2] == 1:
        pixels = pixels.repeat(3, axis=2)
    elif pixels.shape[2] == 4:
        pixels = _on_black(pixels)
    return _owned(pixels)


def _check_scale(array: NDArray[Any], name: str) -> None:
    low, high = array.min(), array.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        what = "NaN" if np.isnan(array).any() else "infinite values"
        raise ImageError(f"{name}: it contains {what}; replace them")
    if low < 0 or high > 255:
        raise ImageError(f"{name}: values run from {low:g} to {high:g}; scale them to 0 to 255")
    if high <= 1 and len(np.unique(array)) > 2:
        raise ImageError(
            f"{name}: values run from {low:g} to {high:g}, so it seems to be on the scale 0 to 1; "
            "multiply it by 255, since white is 255"
        )


def _on_black(rgba: NDArray[Any]) -> NDArray[Any]:
    rgb, alpha = rgba[..., :3], rgba[..., 3:]
    if (alpha == 255).all():
        return rgb
    if rgba.dtype == np.uint8:
        return np.asarray((rgb.astype(np.uint16) * alpha + 127) // 255, np.uint8)
    return np.asarray(rgb * (alpha / np.float32(255)))


def _owned(pixels: NDArray[Any]) -> NDArray[Any]:
    """Return a contiguous and writeable array; Pillow's own are read-only."""
    return pixels if pixels.flags.carray else np.array(pixels, order="C")
