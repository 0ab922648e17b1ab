"""Resize an image of any size to the network's input, the canvas.

The image is resized and placed at the top left of a canvas whose sides are multiples of the
network's strides. The rest of the canvas is filled with the image's reflection, which looks like
more of the same surface; a flat fill would look like an edge.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cflow_ad.errors import ImageError, SettingsError
from cflow_ad.scoring.motion import Motion

Mode: TypeAlias = Literal["snap", "fit", "pad", "stretch", "native", "longest"]
Interpolation: TypeAlias = Literal["bilinear", "lanczos"]
Shape: TypeAlias = tuple[int, int]

MAX_SIDE = 16384
"""The longest side of a box, in pixels."""

MAX_NATIVE = 131072
"""The longest side, in pixels, of an image that keeps its own size."""


@dataclass(frozen=True, slots=True, eq=False)
class Canvas:
    """An image resized for the network."""

    pixels: NDArray[Any]
    """The canvas, h x w x 3, from 0 to 255, contiguous; ``uint8`` or ``float32``."""

    valid: Shape
    """Height and width of the part at the top left that is image; the rest is its reflection."""

    original: Shape
    """Height and width of the original image."""

    inside: NDArray[np.bool_] | None = None
    """Where in the image defects matter, of shape `original`; None is everywhere."""

    motion: Motion | None = None
    """How the image was aligned before it was resized; `inside` is aligned with it."""

    @property
    def shape(self) -> Shape:
        """Height and width of the canvas."""
        return self.pixels.shape[0], self.pixels.shape[1]


@dataclass(frozen=True, slots=True)
class Sizing:
    """The size that images are resized to.

    >>> sizing = Sizing(256, 256)
    >>> sizing.valid_shape((500, 1250)), sizing.canvas_shape((500, 1250))
    ((102, 256), (128, 256))
    >>> Sizing.parse("native").canvas_shape((500, 1250))
    (512, 1280)
    >>> Sizing.parse("longest=800").valid_shape((500, 1250))
    (320, 800)
    """

    height: int
    """Height of the box, in pixels, from 1 to 16384; 131072 where there is no box."""

    width: int
    """Width of the box, likewise."""

    mode: Mode = "fit"
    """How an image is resized.

    ``fit``: by one factor for both sides, up or down, to the largest size that fits the box; the
    canvas is the smallest that holds it. ``pad``: the same, but the canvas is the whole box, so
    all images have one canvas size. ``snap``: as ``fit``, but each side is then rounded to the
    nearest multiple, so that the image is the whole canvas and there is no reflection. ``stretch``:
    each side to the side of the box. ``native``: not at all. ``longest``: as ``fit``, but never up.
    """

    multiple: int = 32
    """Each side of the canvas is rounded up to a multiple of this, from 1 to 16384."""

    interpolation: Interpolation = "bilinear"
    """The kernel that images are resized with; it is widened where they shrink."""

    def __post_init__(self) -> None:
        for field in ("height", "width", "multiple"):
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int | np.integer):
                raise SettingsError(f"size: {field} is {value!r}; give a whole number of pixels")
            most = MAX_NATIVE if self.mode == "native" else MAX_SIDE
            if not 1 <= value <= most:
                raise SettingsError(f"size: {field} is {value}; give a number from 1 to {most}")
            object.__setattr__(self, field, int(value))
        for field, choices in (
            ("mode", get_args(Mode)),
            ("interpolation", get_args(Interpolation)),
        ):
            if (value := getattr(self, field)) not in choices:
                raise SettingsError(f"size: {field} is {value!r}; give one of {', '.join(choices)}")

    @classmethod
    def parse(
        cls,
        text: str,
        mode: Mode = "fit",
        multiple: int = 32,
        interpolation: Interpolation = "bilinear",
    ) -> Sizing:
        """Parse a size as it is written on a command line.

        Args:
            text: ``"HEIGHTxWIDTH"``, the height first, or one number for a square; ``"native"``;
                or ``"longest=N"``.
            mode: See `Sizing.mode`; ``snap`` or ``fit`` with the latter two, which have no box.
            multiple: See `Sizing.multiple`.
            interpolation: See `Sizing.interpolation`.

        Raises:
            SettingsError: The text is no size, or a value is out of range.

        >>> Sizing.parse("256x512")
        Sizing(height=256, width=512, mode='fit', multiple=32, interpolation='bilinear')
        >>> Sizing.parse("256") == Sizing(256, 256)
        True
        """
        boxless = re.fullmatch(r"\s*(native|longest\s*=\s*(-?[0-9]{1,9}))\s*", text)
        if boxless is not None and mode not in ("snap", "fit"):
            raise SettingsError(
                f"size: {text.strip()} has no box to {mode} images to; give HEIGHTxWIDTH, or "
                "leave resize out"
            )
        if boxless is not None and boxless[1] == "native":
            return cls(MAX_NATIVE, MAX_NATIVE, "native", multiple, interpolation)
        if boxless is not None:
            return cls(int(boxless[2]), int(boxless[2]), "longest", multiple, interpolation)
        match = re.fullmatch(r"\s*(-?[0-9]{1,9})\s*(?:[xX×]\s*(-?[0-9]{1,9})\s*)?", text)
        if match is None:
            raise SettingsError(
                f"size: {text!r} is not a size; write height x width, as in 256x512, "
                "one number for a square, native, or longest=N"
            )
        height, width = match.groups()
        return cls(int(height), int(width or height), mode, multiple, interpolation)

    def valid_shape(self, original: Shape) -> Shape:
        """Compute the size that an image is resized to, from its original height and width.

        Returns:
            Height and width of the image on its canvas: at least 1, at most the box's, or with
            ``snap`` the box's rounded up to the multiple.

        Raises:
            ImageError: The image keeps its size, and a side is longer than 131072 pixels.
        """
        if self.mode == "stretch":
            return self.height, self.width
        height, width = original
        if self.mode == "native" and max(original) > MAX_NATIVE:
            raise ImageError(
                f"the image: it has {height} x {width} pixels (height x width), but an image at "
                f"its own size has at most {MAX_NATIVE} a side; cut it up, or give --size "
                "longest=N",
                code="image.shape",
                height=height,
                width=width,
            )
        if self.mode in ("native", "longest") and max(original) <= self.height:
            return height, width
        if self.height * width <= self.width * height:
            shape = self.height, _scaled(width, self.height, height)
        else:
            shape = _scaled(height, self.width, width), self.width
        if self.mode == "snap":
            height, width = (max(1, round(side / self.multiple)) for side in shape)
            return height * self.multiple, width * self.multiple
        return shape

    def canvas_shape(self, original: Shape) -> Shape:
        """Compute height and width of an image's canvas, each a multiple of `multiple`."""
        height, width = self.valid_shape(original)
        if self.mode == "pad":
            height, width = self.height, self.width
        multiple = self.multiple
        return -(-height // multiple) * multiple, -(-width // multiple) * multiple

    def prepare(self, image: NDArray[Any]) -> Canvas:
        """Put an image, H x W x 3 from 0 to 255, ``uint8`` or ``float32``, on a canvas of its type.

        Where an image shrinks, its pixels are averaged and none is skipped. An image of the right
        size keeps its pixels exactly.

        Raises:
            ImageError: The array has another shape or type.
        """
        if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise ImageError(
                f"the image array: its shape is {image.shape}; it has to be H x W x 3",
                code="image.unsupported",
            )
        if image.dtype not in (np.uint8, np.float32):
            raise ImageError(
                f"the image array: its type is {image.dtype}, not uint8 or float32",
                code="image.unsupported",
            )
        original = (image.shape[0], image.shape[1])
        valid = self.valid_shape(original)
        if valid == original:
            resized = image
        elif image.dtype == np.uint8:
            resized = self._resize(image, valid)
        else:
            resized = np.stack([self._resize(image[..., c], valid) for c in range(3)], axis=2)
            resized = resized.clip(0, 255)  # Lanczos overshoots at edges
        return Canvas(_reflect(resized, self.canvas_shape(original)), valid, original)

    def _resize(self, array: NDArray[Any], shape: Shape) -> NDArray[Any]:
        image = Image.fromarray(np.ascontiguousarray(array))
        kernel = Image.Resampling[self.interpolation.upper()]
        return np.array(image.resize((shape[1], shape[0]), kernel))


def _scaled(side: int, numerator: int, denominator: int) -> int:
    """Scale a side by a fraction, in whole numbers, so that all platforms round alike."""
    return max(1, (2 * side * numerator + denominator) // (2 * denominator))


def _reflect(image: NDArray[Any], shape: Shape) -> NDArray[Any]:
    """Extend an image to the right and downwards by its reflection, repeated as needed."""
    rows, columns = (_mirrored(n, size) for n, size in zip(shape, image.shape[:2], strict=True))
    if shape[1] > image.shape[1]:
        image = image[:, columns]
    if shape[0] > image.shape[0]:
        image = image[rows]
    return np.ascontiguousarray(image)


def _mirrored(length: int, period: int) -> NDArray[np.intp]:
    """Return `length` indices 0, 1, ..., period - 1, period - 1, ..., 1, 0, 0, 1, ..."""
    index = np.arange(length) % (2 * period)
    return np.minimum(index, 2 * period - 1 - index)
