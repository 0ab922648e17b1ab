"""Anomaly maps on the device of the network: `scoring.anomaly_map` for a batch.

The resampling matrices are the same; only the products run elsewhere.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from cflow_ad.cflow.precision import products_in
from cflow_ad.scoring.anomaly_map import LEAST, Band, resampling
from cflow_ad.scoring.canvas import Canvas, Shape
from cflow_ad.scoring.cells import Cell, cell_of

_KEPT = 16  # sizes of images whose matrices are kept
_AT_ONCE = 2**25  # pixels of maps that are made together


class _Matrices(NamedTuple):
    """The bands of the resampling along either axis, of each level, on the device."""

    rows: list[list[tuple[Band, Tensor]]]
    """For each level."""
    columns: list[tuple[list[Band], Tensor]]
    """For each band, those of all levels, and their matrices side by side, transposed."""


class MapBuilder:
    """Makes anomaly maps of batches; for several threads.

    Args:
        smoothing: see `compute_anomaly_map`.
        device: where energies come and maps are left.
    """

    def __init__(self, smoothing: float, device: torch.device) -> None:
        self._smoothing = smoothing
        self._device = device
        self._kept: OrderedDict[tuple[Shape, Shape, tuple[Cell, ...]], _Matrices] = OrderedDict()
        self._lock = threading.Lock()

    @torch.no_grad()
    def __call__(self, energies: Sequence[Tensor], canvases: Sequence[Canvas]) -> list[Tensor]:
        """Make the map of each image.

        Args:
            energies: per level, shape `(B, h, w)`, at least 0; images beyond the canvases' are
                ignored.
            canvases: of the images, all of one shape.

        Returns:
            For each canvas, shape `canvas.original`.
        """
        together: dict[tuple[Shape, Shape], list[int]] = {}
        for number, canvas in enumerate(canvases):
            together.setdefault((canvas.valid, canvas.original), []).append(number)
        maps: dict[int, Tensor] = {}
        cells = tuple(
            cell_of(canvases[0].shape, (grid.shape[1], grid.shape[2])) for grid in energies
        )
        for (valid, original), numbers in together.items():
            matrices = self._matrices(valid, original, cells)
            count = max(1, _AT_ONCE // math.prod(original))
            for start in range(0, len(numbers), count):
                part = numbers[start : start + count]
                some = [torch.stack([grid[number] for number in part]) for grid in energies]
                with products_in("fp32", self._device):
                    maps |= zip(part, _join(some, matrices, original), strict=True)
        return [maps[number] for number in range(len(canvases))]

    def _matrices(self, valid: Shape, original: Shape, cells: tuple[Cell, ...]) -> _Matrices:
        key = (valid, original, cells)
        with self._lock:
            if key not in self._kept:
                self._kept[key] = self._send(valid, original, cells)
                while len(self._kept) > _KEPT:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(key)
            return self._kept[key]

    def _send(self, valid: Shape, original: Shape, cells: tuple[Cell, ...]) -> _Matrices:
        def bands(axis: int) -> list[tuple[Band, ...]]:
            return [
                resampling(original[axis], valid[axis], cell[axis], self._smoothing)
                for cell in cells
            ]

        def send(band: Band) -> Tensor:
            return torch.from_numpy(band.matrix.copy()).to(self._device)

        return _Matrices(
            [[(band, send(band)) for band in of_level] for of_level in bands(0)],
            [
                (list(of_levels), torch.cat([send(band) for band in of_levels], dim=1).T)
                for of_levels in zip(*bands(1), strict=True)
            ],
        )


def _join(energies: Sequence[Tensor], matrices: _Matrices, original: Shape) -> Tensor:
    """Join the levels' energies `(b, h, w)` to maps `(b, *original)`."""
    halfway = []
    for grid, bands in zip(energies, matrices.rows, strict=True):
        weight = (-grid).exp()
        halfway.append(torch.cat([matrix @ weight[:, band.cells] for band, matrix in bands], dim=1))
    maps = energies[0].new_empty(len(energies[0]), *original)
    for of_levels, matrix in matrices.columns:
        parts = [half[:, :, band.cells] for band, half in zip(of_levels, halfway, strict=True)]
        mean = torch.cat(parts, dim=2) @ matrix / len(energies)
        maps[:, :, of_levels[0].pixels] = 0 - mean.clamp(float(LEAST), 1.0).log()
    return maps
