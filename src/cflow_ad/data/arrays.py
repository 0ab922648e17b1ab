"""Arrays and tensors as images: their layout, the order of their colours, and what is white."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from cflow_ad.data.decoding.mosaic import demosaic
from cflow_ad.data.decoding.opening import check_size
from cflow_ad.data.decoding.raster import WHITE, Header, Raster, Reading, shorten, to_pixels
from cflow_ad.errors import ImageError, SettingsError

Color: TypeAlias = Literal["rgb", "bgr"]
Layout: TypeAlias = Literal["hwc", "chw"]

_NAME = "the image array"
_ROUNDING = 1e-5  # of white, that arithmetic in float may go beyond black and white


@runtime_checkable
class Tensor(Protocol):
    """What a torch tensor has."""

    def detach(self) -> Any:
        """Leave the graph of gradients."""

    def cpu(self) -> Any:
        """Copy to the CPU."""


@dataclass(frozen=True, slots=True, eq=False)
class ArrayImage:
    """An array that is an image, with what its values mean.

    Args:
        array: Grey or colour, `uint8`, `uint16` or float: of numpy, or a torch tensor on any
            device. It may be read-only or a slice.
        color: Order of the colours: ``bgr`` is OpenCV's.
        layout: ``hwc``, height x width x channels; or ``chw``, channels x height x width, as torch
            has it. An array of height x width is grey in either.
        scale: The value of white; black is 0. Unset, it is 255, or the depth of the data set for
            `uint16`.

    Raises:
        SettingsError: An argument is out of its range.

    Example:
        >>> frame = np.full((3, 2, 4), 0.5, np.float32)
        >>> ArrayImage(frame, layout="chw", scale=1.0).shape
        (2, 4)
    """

    array: NDArray[Any] | Tensor
    color: Color = "rgb"
    layout: Layout = "hwc"
    scale: float | None = None

    def __post_init__(self) -> None:
        if self.color not in ("rgb", "bgr"):
            raise SettingsError(f"color is {self.color!r}: it must be rgb or bgr")
        if self.layout not in ("hwc", "chw"):
            raise SettingsError(f"layout is {self.layout!r}: it must be hwc or chw")
        if self.scale is not None and not 0 < self.scale < np.inf:
            raise SettingsError(f"scale is {self.scale!r}: it must be a number greater than 0")

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        height, width = self.samples().shape[:2]
        return height, width

    def samples(self) -> NDArray[Any]:
        """The array as H x W x C, with colours in the order of RGB; a view of it.

        Raises:
            ImageError: It has another shape.
        """
        array = as_numpy(self.array)
        shape = array.shape
        if array.ndim == 3 and self.layout == "chw":
            array = np.moveaxis(array, 0, 2)
        if array.ndim == 2:
            array = array[..., None]
        if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
            raise ImageError(f"{_NAME}: its shape is {shape}; {_advice(shape, self.layout)}")
        check_size((array.shape[1], array.shape[0]), _NAME)
        if self.color == "bgr" and array.shape[2] >= 3:
            array = array[..., [2, 1, 0, *range(3, array.shape[2])]]
        return array

    def raster(self, reading: Reading) -> Raster | None:
        """The samples, where they are integers without a `scale` of their own; else None."""
        samples = self.samples()
        kind = (samples.dtype.kind, samples.dtype.itemsize)
        is_plain = self.scale is None or (kind == ("u", 1) and self.scale == WHITE)
        if not is_plain or kind not in (("u", 1), ("u", 2)):
            return None
        native = samples.astype(samples.dtype.newbyteorder("="), copy=False)
        samples = demosaic(native, reading, _NAME)
        colour = "RGB" if samples.shape[2] >= 3 else "L"
        header = Header(
            (samples.shape[0], samples.shape[1]),
            colour if kind[1] == 1 else f"{colour};16",
            8 if kind[1] == 1 else None,
        )
        return Raster(samples, header)

    def pixels(self, reading: Reading) -> NDArray[Any]:
        """The image as `as_image` returns it."""
        raster = self.raster(reading)
        if raster is not None:
            return to_pixels(raster, reading, _NAME)
        return self._scaled(reading)

    def _scaled(self, reading: Reading) -> NDArray[Any]:
        samples = self.samples()
        if samples.dtype.kind != "f" and (self.scale is None or samples.dtype.kind not in "iu"):
            raise ImageError(
                f"{_NAME}: its type is {samples.dtype}; convert it to uint8, uint16 or float32, or "
                "give the value of white, scale"
            )
        if reading.bayer != "none":
            raise ImageError(f"{_NAME}: a Bayer pattern is uint8 or uint16; give it without scale")
        scale = WHITE if self.scale is None else self.scale
        _check_range(samples, scale, is_given=self.scale is not None)
        pixels = samples.astype(np.float32, copy=False)
        if scale != WHITE:
            pixels = pixels * np.float32(WHITE / scale)
        white = np.full((1, 1, 1), WHITE, np.float32)
        if samples.shape[2] == 4:
            pixels = pixels[..., :3] * (pixels[..., 3:] / white)
        elif samples.shape[2] == 1:
            pixels = pixels.repeat(3, axis=2)
        pixels = shorten(pixels)
        return pixels if pixels.flags.carray else np.array(pixels, order="C")


def as_numpy(array: NDArray[Any] | Tensor) -> NDArray[Any]:
    """Return a tensor as a numpy array; an array is returned itself."""
    if isinstance(array, np.ndarray):
        return array
    tensor = array.detach().cpu()
    if "bfloat16" in str(tensor.dtype):  # numpy has no such type
        tensor = tensor.float()
    return np.asarray(tensor)


def _advice(shape: tuple[int, ...], layout: str) -> str:
    if len(shape) == 4:
        return "give one image at a time, or a list of them to stream"
    if len(shape) == 3 and shape[2 if layout == "hwc" else 0] == 2:
        return "two channels are neither grey nor colour; give one of them"
    if len(shape) == 3 and layout == "hwc" and shape[0] in (1, 3, 4):
        return 'channels come last; for channels x height x width, give layout="chw"'
    if len(shape) == 3 and layout == "chw" and shape[2] in (1, 3, 4):
        return 'with layout="chw" channels come first; leave it out'
    return "it has to be H x W, or H x W x channels with 1, 3 or 4 channels in the last place"


def _check_range(array: NDArray[Any], scale: float, *, is_given: bool) -> None:
    low, high = array.min(), array.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        what = "NaN" if np.isnan(array).any() else "infinite values"
        raise ImageError(f"{_NAME}: it contains {what}; replace them")
    if low < -_ROUNDING * scale or high > scale * (1 + _ROUNDING):
        way_out = "give their white as scale" if low >= 0 else "give values from 0 up"
        raise ImageError(
            f"{_NAME}: values run from {low:g} to {high:g}, but black is 0 and white {scale:g}; "
            f"{way_out}, or clip them"
        )
    if not is_given and high <= 1 and len(np.unique(array)) > 2:
        raise ImageError(
            f"{_NAME}: values run from {low:g} to {high:g}, so it seems to be on the scale 0 to 1; "
            "give scale=1.0 (or scale=255.0 where so dark an image is meant)"
        )
