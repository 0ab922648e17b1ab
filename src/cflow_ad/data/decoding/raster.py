"""What an image file holds, and its way to RGB on one scale from black to white.

The depth of a data set says which value of its 16-bit files is white: 4095 for 12 bits. It is never
taken from one image alone, so that a value is the same brightness in every image.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cflow_ad.errors import DepthWarning, ImageError

Bayer: TypeAlias = Literal["none", "rggb", "bggr", "grbg", "gbrg"]

_LIKE_GOOD = 1.2  # times as bright as the brightest good image, or as dark as the darkest
_WHOLE = 1e-3  # of a grey level: as near to whole numbers are the values of 8 bits
_APART = 101  # compared first: most pictures of more bits show it there

WHITE = 255
"""The value of white in pixels that are ready to use."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How the images of a data set are read, where their files do not say it."""

    bits: int | None = None
    """Depth of 16-bit files and arrays that do not state one: white is `2**bits - 1`. None: 16."""

    page: int | None = None
    """Which image of a file that holds several, from 1."""

    bayer: Bayer = "none"
    """Colours of the first two rows of a sensor's mosaic, such as ``rggb``."""

    brightness: tuple[float, float] | None = None
    """Means of the darkest and the brightest good image, as shares of white. Images are compared
    with them, see `find_fewer_bits`."""


class Header(NamedTuple):
    """What the header of an image file says."""

    shape: tuple[int, int]
    """Height and width, upright."""

    mode: str
    """Kind of the samples, as Pillow names it: ``L``, ``I;16``; ``RGB;16`` for 16-bit colour."""

    bits: int | None
    """The depth, where it is certain: 8 for all 8-bit files, 12 for packed 12-bit ones. None for a
    file with 16 bits a sample that may hold fewer, and for float."""

    hint: int | None = None
    """The depth that a PNG states in ``sBIT``. Its samples may still be scaled to 16 bits."""


@dataclass(frozen=True, slots=True, eq=False)
class Raster:
    """The samples of an image, upright."""

    samples: NDArray[Any]
    """H x W x C, integers or float: grey, grey and alpha, RGB, or RGB and alpha."""

    header: Header

    kind: str = ""
    """The file format, such as ``JPEG``; empty for an image from memory."""

    is_palette: bool = False
    """Whether its colours come from a palette."""

    @property
    def colours(self) -> NDArray[Any]:
        """The samples without alpha, H x W x 1 or H x W x 3."""
        return self.samples[..., : 3 if self.samples.shape[2] >= 3 else 1]


def to_pixels(raster: Raster, reading: Reading, name: str) -> NDArray[Any]:
    """Bring samples to RGB from 0 to 255; transparent pixels are blended with black.

    The first image of a data set that seems to hold fewer bits is named by a `DepthWarning`.

    Args:
        raster: The image.
        reading: The depth of samples whose header does not state one; none is 16.
        name: Of the image, for errors.

    Returns:
        H x W x 3, contiguous and writeable, ``uint8`` for 8-bit samples, else ``float32``.

    Raises:
        ImageError: The samples are float, negative, or above white.
    """
    why = "" if reading in _NAMED else find_fewer_bits(raster, reading)
    if why and _NAMED.setdefault(reading, why) is why:  # no other thread was first
        text = f"{name}: {why}. Other such images are not named"
        warnings.warn(text, DepthWarning, stacklevel=2)
    samples = raster.samples
    if samples.dtype.kind == "f":
        raise _no_white(raster, name)
    if samples.dtype == np.uint8:
        pixels = _blended(samples, WHITE)
    else:
        white = _white(raster, reading.bits, name)
        if white == WHITE:
            pixels = _blended(np.clip(samples, 0, WHITE).astype(np.uint8), WHITE)
        else:
            pixels = _blended(samples.astype(np.float32), white)
            pixels = shorten(pixels * np.float32(WHITE) / np.float32(white))
    if pixels.shape[2] == 1:
        pixels = pixels.repeat(3, axis=2)
    return pixels if pixels.flags.carray else np.array(pixels, order="C")


_NAMED: dict[Reading, str] = {}  # of which an image was named, and what was said


def find_fewer_bits(raster: Raster, reading: Reading) -> str:
    """Say that an image seems to hold fewer bits than it is read with; empty where it does not.

    Written into 16 bits, a picture of 12 bits is 16 times as dark as the same of 16. So an image is
    meant that has no value above the white of 12 bits, and that is as bright as good images when it
    is read with 12. Where good images differ by more than a factor of 4, the root of these 16, it
    may as well be dark: nothing is said.
    """
    given, is_stated = reading.bits or 16, raster.header.bits is not None
    if reading.brightness is None or is_stated or raster.samples.dtype.kind == "f":
        return ""
    (low, high), largest = reading.brightness, int(raster.colours.max())
    depths = [bits for bits in range(given - 2, 7, -2) if largest < 2**bits]
    if not depths or low <= 0:
        return ""
    mean = float(raster.colours.mean()) / (2**given - 1)
    for bits in depths:
        factor = 2 ** (given - bits)
        is_like_good = low / _LIKE_GOOD <= mean * factor <= high * _LIKE_GOOD
        if is_like_good and high <= low * math.sqrt(factor):
            return (
                f"it is read with {given} bits and seems to hold {bits}: no value is above "
                f"{2**bits - 1}, and good images are about {factor} times as bright. If it does, "
                f"give --bits {bits} (in Python: read_as(bits={bits})); else look at the light"
            )
    return ""


def shorten(pixels: NDArray[Any]) -> NDArray[Any]:
    """Return pixels of float that are whole numbers as ``uint8``, others as they are.

    So a picture of 8 bits scores the same from a file of 16 bits, or from an array of float.
    """
    some = pixels.ravel()[::_APART]
    if np.abs(some - np.rint(some)).max(initial=0) > _WHOLE:
        return pixels
    whole = np.rint(pixels)
    return pixels if np.abs(pixels - whole).max() > _WHOLE else whole.astype(np.uint8)


def _white(raster: Raster, bits: int | None, name: str) -> int:
    """The value of white of integer samples, none of which is negative or brighter."""
    stated = raster.header.bits
    given = stated or bits or 16
    if stated and bits and stated > bits:
        raise ImageError(
            f"{name}: its pixels have {stated} bits, but those of this data set {bits}; if these "
            f"images are meant, give their depth with --bits {stated} (in Python: bits)",
            code="image.bits",
            name=name,
            bits=stated,
            expected=bits,
        )
    white = int(2**given - 1)
    low, high = raster.colours.min(), raster.colours.max()
    if low < 0:
        raise ImageError(
            f"{name}: signed values from {low} to {high}: which of them is black is not known; "
            "add an offset, and save it as unsigned 16 bit",
            code="image.signed",
            name=name,
        )
    if high > 65535:
        raise ImageError(
            f"{name}: values run from {low} to {high}, outside 16 bits (0 to 65535); convert it to "
            "8 or 16 bit",
            code="image.white",
            name=name,
            value=float(high),
            white=65535,
        )
    if high > white:
        raise ImageError(
            f"{name}: its largest value is {high}, above white, which is {white}: "
            + _above_white(raster, given),
            code="image.white",
            name=name,
            value=float(high),
            white=white,
        )
    return white


def _above_white(raster: Raster, given: int) -> str:
    """Say what to do about an image that is brighter than white at a depth."""
    if raster.header.bits:
        return f"the file states {given} bits; correct what it states"
    unused = 16 - given
    if not (raster.colours & (2**unused - 1)).any():
        white = (2**given - 1) << unused
        return (
            f"this data set has {given} bits, and here they seem to lie at the top of 16; read "
            f"such files with --bits 16 (in Python: read_as(bits=16)), such arrays with "
            f"scale={white}"
        )
    return (
        f"this data set has {given} bits; give the depth of these images with --bits "
        f"{bits_for(int(raster.colours.max()))} (in Python: read_as(bits=...)), or leave them out"
    )


def bits_for(value: int) -> int:
    """Return the least depth that cameras have, of 8, 10, 12, 14 and 16 bits, for a value."""
    return next(bits for bits in (8, 10, 12, 14, 16) if value < 2**bits or bits == 16)


def _blended(samples: NDArray[Any], white: int) -> NDArray[Any]:
    """Blend transparent pixels with black."""
    if samples.shape[2] in (1, 3):
        return samples
    colours, alpha = samples[..., :-1], samples[..., -1:]
    if (alpha >= white).all():
        return colours
    if samples.dtype == np.uint8:
        return np.asarray((colours.astype(np.uint16) * alpha + 127) // WHITE, np.uint8)
    return np.asarray(colours * (np.minimum(alpha, white) / np.float32(white)))


def _no_white(raster: Raster, name: str) -> ImageError:
    nan = ", and this one contains NaN" if np.isnan(raster.samples).any() else ""
    return ImageError(
        f"{name}: float images have no fixed white{nan}; convert it to 8 or 16 bit, or in Python "
        "give the array and the value of white, scale",
        code="image.float",
        name=name,
    )
