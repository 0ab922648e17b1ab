"""The cells of a level: how a grid of positions lies over the canvas, and which of them matter."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from cflow_ad.scoring.canvas import Shape

Cell: TypeAlias = tuple[float, float]
"""Height and width of the cells of a level, in pixels of the canvas."""


def cells_inside(side: int, cell: float) -> int:
    """Return how many cells of a side have their centre in an image, along one side; at least one.

    >>> cells_inside(64, 16), cells_inside(70, 16), cells_inside(72, 16)
    (4, 4, 5)
    """
    return max(1, math.floor(side / cell + 0.5))


def cell_of(canvas: Shape, grid: Shape) -> Cell:
    """Return the size of one cell of a grid over a canvas."""
    return canvas[0] / grid[0], canvas[1] / grid[1]


def cells_of(inside: NDArray[np.bool_] | None, valid: Shape, cell: Cell) -> NDArray[np.bool_]:
    """Return which cells of a level matter: those with a pixel that matters near their centre.

    Near is within a cell's side, along rows and along columns: bilinear interpolation takes the
    scores of such pixels from the cell.

    Args:
        inside: Where defects matter, of any resolution; None is everywhere.
        valid: Height and width of the image on its canvas.
        cell: Height and width of a cell, in pixels of the canvas.

    Returns:
        Shape `(h, w)`, of the cells whose centre lies in the image.

    >>> cells_of(np.arange(64) < np.full((8, 1), 20), (8, 64), (8, 8)).tolist()
    [[True, True, True, False, False, False, False, False]]
    """
    grid = cells_inside(valid[0], cell[0]), cells_inside(valid[1], cell[1])
    if inside is None:
        return _all_cells(grid)
    touched = np.asarray(inside)
    for axis in (0, 1):
        n = touched.shape[axis]
        pixels = n / valid[axis]  # of `inside` in one pixel of the canvas
        before = (np.arange(grid[axis]) - 0.5) * cell[axis] * pixels
        after = (np.arange(grid[axis]) + 1.5) * cell[axis] * pixels
        sums = np.insert(np.cumsum(touched, axis, dtype=np.int32), 0, 0, axis)
        touched = np.take(sums, np.ceil(after).astype(int).clip(1, n), axis) > np.take(
            sums, np.floor(before).astype(int).clip(0, n - 1), axis
        )
    return touched


@lru_cache(maxsize=256)
def _all_cells(grid: Shape) -> NDArray[np.bool_]:
    """One array for all images of a size, of which there may be many."""
    cells = np.ones(grid, np.bool_)
    cells.setflags(write=False)
    return cells
