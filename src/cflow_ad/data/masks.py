"""Ground-truth masks that are not simply one file whose every value but zero is defect."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cflow_ad.data.images import check_mask, read_mask
from cflow_ad.errors import DataError, MaskError


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
