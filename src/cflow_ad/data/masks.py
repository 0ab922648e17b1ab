"""Ground-truth masks: image files, or outlines that a person drew.

In an image file, a pixel is defect where its brightest channel has at least half of white: 128 of
255. So soft edges, a dark background and the noise of a JPEG do not count. Where no pixel is so
bright, the values are numbers of classes, as in masks of 0 and 1: all but 0 are defect. In a
palette of colours, all but black are.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cflow_ad.data.annotations import Outlines, is_labelme, read_labelme
from cflow_ad.data.decoding.files import read_raster
from cflow_ad.data.decoding.raster import Raster, Reading
from cflow_ad.data.images import PathLike, image_shape
from cflow_ad.errors import DataError, ImageError, MaskError

OUTLINES_SUFFIX = ".json"
"""The suffix of a LabelMe file, in lower case."""


@dataclass(frozen=True, slots=True)
class MaskFiles:
    """A mask that is the union of several files."""

    files: tuple[Path, ...]
    """At least one."""


def read_mask(source: PathLike | MaskFiles | Outlines, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Read a ground-truth mask.

    Transparent pixels are no defect, unless the whole mask is transparent. EXIF orientation is
    applied, as it is to the image.

    Args:
        source: The mask file, or several; a LabelMe file (.json); or outlines.
        shape: Height and width of the image that the mask belongs to, upright.

    Returns:
        H x W, true where the defect is.

    Raises:
        ImageError: A file cannot be read.
        DataError: Outlines cannot be read.
        MaskError: The mask has another size than its image, or is no mask.
    """
    if isinstance(source, Outlines):
        return _draw(source, shape)
    union = np.zeros(shape, np.bool_)
    for file in _files(source):
        union |= _read(file, shape)
    return union


def check_mask(source: PathLike | MaskFiles | Outlines, shape: tuple[int, int]) -> None:
    """Check that a mask is as large as its image, by its file's header alone; see `read_mask`.

    Raises:
        ImageError: A file cannot be read, as far as its header shows it.
        DataError: Outlines cannot be read.
        MaskError: The mask has another size than its image.
    """
    if isinstance(source, Outlines):
        _require_shape(source.file, source.shape or shape, shape)
        return
    for file in _files(source):
        if file.suffix.lower() == OUTLINES_SUFFIX:
            check_mask(read_labelme(file), shape)
        else:
            _require_shape(file, image_shape(file), shape)


def is_blank(path: Path) -> bool:
    """Return whether a mask marks nothing; raises as `read_mask` does."""
    if path.suffix.lower() == OUTLINES_SUFFIX:
        outlines = read_labelme(path)
        return not (outlines.polygons or outlines.patches)
    return not _marked(read_raster(path, Reading()), path).any()


def outlines_beside(image: Path) -> Path | None:
    """Return the LabelMe file that lies beside an image, where there is one."""
    path = image.with_suffix(OUTLINES_SUFFIX)
    return path if path.is_file() and is_labelme(path) else None


def read_region(path: Path, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Read the region of interest of one image of height and width `shape`; it has that shape too.

    Raises:
        ImageError: The mask cannot be read, or is empty.
        MaskError: The mask does not fit the image.
    """
    mask = read_mask(path, shape)
    if not mask.any():
        raise ImageError(f"{path}: the region of interest is empty; mark it in white")
    return mask


def _files(source: PathLike | MaskFiles) -> tuple[Path, ...]:
    return (Path(source),) if isinstance(source, str | os.PathLike) else source.files


def _read(path: Path, shape: tuple[int, int]) -> NDArray[np.bool_]:
    if path.suffix.lower() == OUTLINES_SUFFIX:
        return _draw(read_labelme(path), shape)
    mask = _marked(read_raster(path, Reading()), path)
    _require_shape(path, mask.shape, shape)
    return mask


def _marked(raster: Raster, path: Path) -> NDArray[np.bool_]:
    colours = raster.colours
    if colours.dtype.kind == "f" and np.isnan(colours).any():
        raise MaskError(f"{path}: the mask contains NaN; save it as 8-bit PNG")
    brightest, half = colours.max(axis=2), _half_of_white(raster)
    if raster.samples.shape[2] in (2, 4) and (seen := raster.samples[..., -1] >= half).any():
        brightest = np.where(seen, brightest, 0)
    is_coloured = colours.shape[2] > 1 and bool((colours != colours[..., :1]).any())
    if raster.is_palette and is_coloured:
        return np.asarray(brightest > 0)
    if raster.kind != "JPEG" and brightest.max() < half:
        return np.asarray(brightest > 0)
    return np.asarray(brightest >= half)


def _half_of_white(raster: Raster) -> float:
    if raster.samples.dtype.kind == "f":
        return 0.5 if raster.samples.max() <= 1 else 127.5
    bits = raster.header.bits or (16 if raster.samples.max() > 255 else 8)
    return float(2 ** (bits - 1))


def _draw(outlines: Outlines, shape: tuple[int, int]) -> NDArray[np.bool_]:
    if outlines.shape is not None:
        _require_shape(outlines.file, outlines.shape, shape)
    try:
        return outlines.draw(shape)
    except DataError as error:
        raise MaskError(str(error)) from error


def _require_shape(path: PathLike, found: tuple[int, ...], shape: tuple[int, int]) -> None:
    if found != tuple(shape):
        raise MaskError(
            f"{path}: the mask is {found[0]} x {found[1]} pixels (height x width) but its image is "
            f"{shape[0]} x {shape[1]}; give a mask of the image's own size"
        )
