"""Connected parts of a mask, in numpy alone: prediction must run where there is no scipy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Runs:
    """The mask as horizontal runs of set pixels, in the order of reading."""

    row: NDArray[np.intp]
    start: NDArray[np.intp]
    stop: NDArray[np.intp]
    """One past the last pixel."""
    part: NDArray[np.intp]
    """Which connected part each run belongs to, from 0."""

    @property
    def length(self) -> NDArray[np.intp]:
        """Pixels of each run."""
        return self.stop - self.start

    @property
    def n_parts(self) -> int:
        """How many connected parts there are."""
        return int(self.part.max()) + 1 if len(self.part) else 0


def label_runs(mask: NDArray[np.bool_]) -> Runs:
    """Find the connected parts of a mask; pixels that touch at a corner are connected, as in
    MVTec's own evaluation.

    Args:
        mask: shape `(H, W)`.

    Example:
        >>> label_runs(np.array([[1, 0, 0], [0, 1, 0], [0, 0, 0], [1, 0, 1]], bool)).part.tolist()
        [0, 0, 1, 2]
    """
    edges = np.diff(mask.astype(np.int8), axis=1, prepend=0, append=0)
    row, start = np.nonzero(edges == 1)
    stop = np.nonzero(edges == -1)[1]
    # The runs of the row above that reach to within one pixel of a run lie next to one another.
    width = mask.shape[1] + 1
    first = np.searchsorted(row * width + stop, (row - 1) * width + start, side="left")
    last = np.searchsorted(row * width + start, (row - 1) * width + stop, side="right")
    count = last - first
    lower = np.repeat(np.arange(len(row)), count)
    upper = np.arange(len(lower)) - np.repeat(np.cumsum(count) - count, count)
    return Runs(row, start, stop, _components(len(row), lower, upper + np.repeat(first, count)))


def _components(n: int, a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.intp]:
    """Number the components of a graph of `n` nodes with edges `a - b`, by their first nodes."""
    root = np.arange(n)
    while True:
        lowest = np.minimum(root[a], root[b])
        if np.array_equal(root[a], root[b]):
            break
        np.minimum.at(root, root[a], lowest)
        np.minimum.at(root, root[b], lowest)
        while not np.array_equal(root, root[root]):
            root = root[root]
    part: NDArray[np.intp] = np.unique(root, return_inverse=True)[1]
    return part
