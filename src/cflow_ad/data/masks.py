"""Ground-truth masks: image files in which every value but zero is defect."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cflow_ad.data._decode import convert, load, upright
from cflow_ad.data.images import PathLike, image_shape
from cflow_ad.errors import ImageError, MaskError


@dataclass(frozen=True, slots=True)
class MaskFiles:
    """A mask that is the union of several files, or that starts above another value than zero."""

    files: tuple[Path, ...]
    """At least one."""

    above: int = 0
    """Values above this are defect."""


def read_mask(source: PathLike | MaskFiles, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Read a ground-truth mask: every value but zero is defect.

    So masks of 0 and 1 and masks of 0 and 255 are read alike. In a colour mask any channel counts;
    alpha does not. EXIF orientation is applied, as it is to the image.

    Args:
        source: The mask file, or several. Not a JPEG: its compression blurs zero.
        shape: Height and width of the image that the mask belongs to, upright.

    Returns:
        H x W, true where the defect is.

    Raises:
        ImageError: A file cannot be read.
        MaskError: The mask has another size than its image, or is no mask.
    """
    union = np.zeros(shape, np.bool_)
    for file in _files(source):
        union |= _read(file, shape, source.above if isinstance(source, MaskFiles) else 0)
    return union


def check_mask(source: PathLike | MaskFiles, shape: tuple[int, int]) -> None:
    """Check that a mask is as large as its image, by its file's header alone; see `read_mask`.

    Raises:
        ImageError: A file cannot be read, as far as its header shows it.
        MaskError: The mask has another size than its image.
    """
    for file in _files(source):
        _require_shape(file, image_shape(file), shape)


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


def _read(path: Path, shape: tuple[int, int], above: int) -> NDArray[np.bool_]:
    image = load(path)
    if image.format == "JPEG":
        raise MaskError(
            f"{path}: a mask cannot be a JPEG, whose compression blurs zero; save it as PNG"
        )
    if image.mode in ("F", "1", "L") or image.mode.startswith("I"):
        values = np.asarray(image)[..., None]
    else:
        values = np.asarray(convert(image, "RGBA", str(path)))[..., :3]
    if np.isnan(values).any():
        raise MaskError(f"{path}: the mask contains NaN; save it as 8-bit PNG")
    defect = values > above if above else values
    mask: NDArray[np.bool_] = upright(np.any(defect, axis=2), image)
    _require_shape(path, mask.shape, shape)
    return mask


def _require_shape(path: PathLike, found: tuple[int, ...], shape: tuple[int, int]) -> None:
    if found != tuple(shape):
        raise MaskError(
            f"{path}: the mask is {found[0]} x {found[1]} pixels (height x width) but its image is "
            f"{shape[0]} x {shape[1]}; give a mask of the image's own size"
        )
