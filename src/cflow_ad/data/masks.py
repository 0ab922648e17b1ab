"""Ground-truth masks: a file whose every value but zero is defect, or what sets have instead."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cflow_ad.data._decode import convert, load, upright
from cflow_ad.data.images import PathLike, image_shape
from cflow_ad.errors import DataError, ImageError, MaskError


class MaskSource(Protocol):
    """A ground-truth mask that is not one file whose every value but zero is defect."""

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that it is read from."""

    def read(self, shape: tuple[int, int]) -> NDArray[np.bool_]:
        """Read it, as `read_mask` does."""

    def check(self, shape: tuple[int, int]) -> None:
        """See that it fits its image, as `check_mask` does."""


def read_mask(
    source: PathLike | MaskSource, shape: tuple[int, int], above: int | None = None
) -> NDArray[np.bool_]:
    """Read a ground-truth mask: whatever is not zero is defect.

    That reads 0/1 and 0/255 masks alike. In a colour mask any channel counts; alpha does not.
    EXIF orientation is applied, as it is to the image.

    Args:
        source: The mask file. Not a JPEG: its compression leaves values near, but not at, zero.
            Or a mask that reads itself, such as a `Sample` may have.
        shape: Height and width of the image that the mask belongs to, upright.
        above: Only values above this are defect, in the file's own scale. Of a file only.

    Returns:
        H x W, true where the defect is.

    Raises:
        ImageError: The file cannot be read.
        MaskError: The mask has another size than its image, or is no mask.
    """
    if not isinstance(source, str | os.PathLike):
        return source.read(shape)
    path = Path(source)
    image = load(path)
    if image.format == "JPEG":
        raise MaskError(
            f"{path}: a mask cannot be a JPEG, whose compression blurs zero; save it as PNG"
        )
    name = str(path)
    if image.mode == "F" or image.mode.startswith("I"):
        values = np.asarray(image)[..., None]
        if np.isnan(values).any():
            raise MaskError(f"{path}: the mask contains NaN; save it as 8-bit PNG")
    elif image.mode in ("1", "L"):
        values = np.asarray(image)[..., None]
    else:
        values = np.asarray(convert(image, "RGBA", name))[..., :3]
    defect = values if above is None else values > above
    mask: NDArray[np.bool_] = np.ascontiguousarray(upright(np.any(defect, axis=2), image))
    _require_shape(path, mask.shape, shape)
    return mask


def check_mask(source: PathLike | MaskSource, shape: tuple[int, int]) -> None:
    """See that a mask is as large as its image, from its file's header alone.

    Args:
        source: As for `read_mask`.
        shape: As for `read_mask`.

    Raises:
        ImageError: The file cannot be read, as far as its header shows it.
        MaskError: The mask has another size than its image.
    """
    if isinstance(source, str | os.PathLike):
        _require_shape(source, image_shape(source), shape)
    else:
        source.check(shape)


def _require_shape(path: PathLike, found: tuple[int, ...], shape: tuple[int, int]) -> None:
    if found != tuple(shape):
        raise MaskError(
            f"{path}: the mask is {found[0]} x {found[1]} pixels (height x width) but its image is "
            f"{shape[0]} x {shape[1]}; give a mask of the image's own size"
        )


@dataclass(frozen=True, slots=True)
class MaskFiles:
    """The union of one or several mask files."""

    files: tuple[Path, ...]
    """At least one."""

    above: int = 0
    """Values above this are defect."""

    def read(self, shape: tuple[int, int]) -> NDArray[np.bool_]:
        """As `read_mask`."""
        union = np.zeros(shape, np.bool_)
        for file in self.files:
            union |= read_mask(file, shape, self.above)
        return union

    def check(self, shape: tuple[int, int]) -> None:
        """As `check_mask`."""
        for file in self.files:
            check_mask(file, shape)


@dataclass(frozen=True, slots=True)
class MaskSlice:
    """One frame of a ``.npy`` file of shape frames x H x W: whatever is not zero is defect."""

    file: Path
    index: int

    @property
    def files(self) -> tuple[Path, ...]:
        """The one file."""
        return (self.file,)

    def read(self, shape: tuple[int, int]) -> NDArray[np.bool_]:
        """As `read_mask`; only this frame is read from the disk."""
        defect: NDArray[np.bool_] = np.asarray(self._frames(shape)[self.index]) != 0
        return defect

    def check(self, shape: tuple[int, int]) -> None:
        """As `check_mask`."""
        self._frames(shape)

    def _frames(self, shape: tuple[int, int]) -> NDArray[Any]:
        frames = open_array(self.file)
        if frames.shape[1:] != tuple(shape):
            raise MaskError(
                f"{self.file}: its masks are {' x '.join(map(str, frames.shape[1:]))} pixels "
                f"(height x width) but the frame is {shape[0]} x {shape[1]}; give masks of the "
                "frames' own size"
            )
        return frames


def open_array(file: Path) -> NDArray[Any]:
    """Open a ``.npy`` file without reading it, and without running what it may have pickled.

    Args:
        file: holds at least one dimension of numbers.

    Raises:
        DataError: it cannot be opened so.
    """
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(
            f"{file}: this is no array of numbers ({error}); copy it again from its source"
        ) from error
    if not isinstance(array, np.ndarray) or array.ndim == 0:
        raise DataError(f"{file}: this is no array of numbers; copy it again from its source")
    return array


def read_region(path: Path, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Read the mask of one image of height and width `shape`; it has the same shape.

    Raises:
        ImageError: the mask cannot be read, or is empty.
        MaskError: the mask does not fit the image.
    """
    mask = read_mask(path, shape)
    if not mask.any():
        raise ImageError(f"{path}: the region of interest is empty; mark what matters in white")
    return mask
