"""A few facts of one image: size, mode, hash of its pixels, thumbnail, brightness and the like."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cflow_ad.data.decoding.files import read_raster
from cflow_ad.data.decoding.raster import Reading, find_fewer_bits, to_pixels
from cflow_ad.data.images import AS_STORED, PathLike

THUMBNAIL = 32
"""Height and width of a thumbnail."""

MEASURES = ("brightness", "contrast", "sharpness", "difference from the median image")
"""What good images are compared by; the last, of thumbnails, is of use where parts are aligned."""

_MEASURED_AT = 512  # the longer side, at most
_ALIKE = 0.02
_AT_ONCE = 256
_LEAST_SPREAD = np.array([1.0, 1.0, 0.2, 0.5], np.float32)  # grey levels
_LEAST_SHARE = 0.02  # of the median
_MAD_TO_SIGMA = 1.4826


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """One image, without its pixels."""

    shape: tuple[int, int]
    """Height and width."""

    mode: str
    """The file's pixel mode, as Pillow names it: ``L``, ``RGB``, ``I;16``."""

    digest: bytes
    """A hash of size and pixels."""

    thumbnail: NDArray[np.uint8]
    """Grey, `THUMBNAIL` x `THUMBNAIL`."""

    measures: tuple[float, float, float]
    """Mean, standard deviation and root mean square of the Laplacian, in grey levels of 0..255."""

    doubt: str
    """Why it seems to have another depth, see `find_fewer_bits`; empty where it does not."""


def look_at(path: PathLike, reading: Reading = AS_STORED) -> Look:
    """Read an image.

    Raises:
        ImageError: As `read_image`.
    """
    raster = read_raster(Path(path), reading)
    pixels = to_pixels(raster, dataclasses.replace(reading, brightness=None), str(path))
    height, width = pixels.shape[:2]
    digest = hashlib.blake2b(f"{height} {width} {pixels.dtype}".encode(), digest_size=16)
    digest.update(pixels.tobytes())
    # Float, so that neither 16 bits nor averages are cut to 8.
    grey = Image.fromarray(pixels.mean(axis=2, dtype=np.float32))
    thumbnail = np.asarray(grey.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX))
    scale = min(1.0, _MEASURED_AT / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    values = np.asarray(grey.resize(size, Image.Resampling.BOX))
    return Look(
        (height, width),
        raster.header.mode,
        digest.digest(),
        np.rint(thumbnail).astype(np.uint8),
        (float(values.mean()), float(values.std()), _laplacian(values)),
        find_fewer_bits(raster, reading),
    )


def distances(looks: Sequence[Look]) -> NDArray[np.float32]:
    """Compute how far each of N good images lies from the others.

    Returns:
        N x 4, for each of `MEASURES` the distance from the median in robust standard deviations,
        at least 0 for the last: 1.4826 times the median absolute deviation, or, if it is less, 2%
        of the median or a few tenths of a grey level, so that among equal images a slight change
        does not count.
    """
    thumbnails = np.stack([look.thumbnail for look in looks]).astype(np.float32)
    apart = thumbnails - np.median(thumbnails, axis=0)
    distance = np.sqrt((apart**2).mean(axis=(1, 2)))
    measures = np.column_stack([np.array([look.measures for look in looks]), distance])
    median = np.median(measures, axis=0)
    centred = measures - median
    least = np.maximum(_LEAST_SHARE * median, _LEAST_SPREAD)
    spread = np.maximum(_MAD_TO_SIGMA * np.median(np.abs(centred), axis=0), least)
    found: NDArray[np.float32] = (centred / spread).astype(np.float32)
    found[:, -1] = found[:, -1].clip(min=0)
    return found


def nearly_alike(ones: Sequence[Look], others: Sequence[Look]) -> list[tuple[int, int]]:
    """Find pairs that are nearly one image, such as a photograph that was saved twice.

    They have one size, and the root mean square difference of their thumbnails is at most 2% of
    the thumbnails' standard deviation, or half a grey level if that is more.

    Returns:
        The index in `ones`, and that of the nearest in `others`, of each pair.
    """
    if not ones or not others:
        return []
    against = _flat(others)
    norms = (against**2).sum(axis=1)
    shapes = np.array([look.shape for look in others])
    found = []
    for first in range(0, len(ones), _AT_ONCE):
        some = ones[first : first + _AT_ONCE]
        flat = _flat(some)
        products = flat @ against.T
        for row, look in enumerate(some):
            squares = (norms - 2 * products[row] + (flat[row] ** 2).sum()) / flat.shape[1]
            squares[(shapes != look.shape).any(axis=1)] = np.inf
            nearest = int(squares.argmin())
            if squares[nearest] <= max(0.5, _ALIKE * float(flat[row].std())) ** 2:
                found.append((first + row, nearest))
    return found


def _flat(looks: Sequence[Look]) -> NDArray[np.float32]:
    """Thumbnails, N x `THUMBNAIL`**2, about zero, where float32 is most exact."""
    return np.stack([look.thumbnail.ravel() for look in looks]).astype(np.float32) - 128


def _laplacian(values: NDArray[Any]) -> float:
    if min(values.shape) < 3:
        return 0.0
    inner = values[1:-1, 1:-1]
    around = values[:-2, 1:-1] + values[2:, 1:-1] + values[1:-1, :-2] + values[1:-1, 2:]
    return float(np.sqrt(np.mean((around - 4 * inner) ** 2)))
