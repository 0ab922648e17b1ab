"""The feature vectors of good images, level by level, as training reads them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cflow_ad.cflow.place_means import PlaceMeans, aspect_of
from cflow_ad.scoring.canvas import Shape

CHUNK = 16384
"""Vectors that statistics read at once."""

_CPU = torch.device("cpu")


class LevelFeatures:
    """The cached vectors of one level, of all images or of some of them.

    Args:
        vectors: shape `(M, C)`, float32.
        positions: shape `(M, 2)`, row and column of each vector on its image's grid, as
            `position.axis_places` numbers them.
    """

    def __init__(self, vectors: NDArray[np.float32], positions: NDArray[np.int16]) -> None:
        self.vectors = vectors
        self.positions = positions
        self.bounds: NDArray[np.int64] = np.empty((0, 2), np.int64)
        """Where the vectors of each image begin and end, by its number among the images."""
        self._moved: NDArray[np.int64] | None = None
        """Of each image, how far its vectors lie behind `bounds` in the arrays; unset, nowhere."""
        self.grids: list[Shape] = []
        """Of each image, height and width of this level in positions."""
        self.means: PlaceMeans | None = None
        """Subtracted from the vectors when they are read."""
        self._factors: Tensor = torch.empty(0)
        """Of each image, what the vectors are then multiplied by."""
        self._sent: PlaceMeans | None = None
        """The means on the device that vectors were last read to."""

    def __len__(self) -> int:
        if self._moved is None:
            return len(self.vectors)
        return int((self.bounds[:, 1] - self.bounds[:, 0]).sum())

    @property
    def channels(self) -> int:
        """Of a vector."""
        return int(self.vectors.shape[1])

    @cached_property
    def aspects(self) -> Tensor:
        """Of each image's grid, see `place_means.aspect_of`."""
        return torch.tensor([aspect_of(*grid) for grid in self.grids])

    def of_image(self, number: int) -> slice:
        """Find the vectors of an image; beyond the budget it may have none."""
        begin, end = self.bounds[number]
        return slice(int(begin), int(end))

    def take(
        self, index: NDArray[np.int64], device: torch.device = _CPU
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Read vectors `(n, C)`, rows `(n,)` and columns `(n,)` at these indices, on a device."""
        at = index if self._moved is None else index + self._moved[self.images_of(index).numpy()]
        places = torch.from_numpy(self.positions[at].astype(np.int64)).to(device)
        rows, columns = places.unbind(1)
        z = torch.from_numpy(self.vectors[at]).to(device)
        if self.means is not None:
            image = self.images_of(index)
            aspects, factors = self.aspects[image].to(device), self._factors[image].to(device)
            z -= self._means_on(device).of_vectors(aspects, rows, columns)
            z *= factors[:, None]
        return z, rows, columns

    def _means_on(self, device: torch.device) -> PlaceMeans:
        assert self.means is not None
        if self.means.tables.device == device:
            return self.means
        if self._sent is None or self._sent.tables.device != device:
            self._sent = copy.deepcopy(self.means).to(device)
        return self._sent

    def chunks(self, device: torch.device = _CPU) -> Iterator[Tensor]:
        """Read all vectors, in order, a block at a time, on a device."""
        for start in range(0, len(self), CHUNK):
            yield self.take(np.arange(start, min(len(self), start + CHUNK)), device)[0]

    def images_of(self, index: NDArray[np.int64]) -> Tensor:
        """Find which image each of these vectors is of."""
        order, begins = self._in_order
        return torch.from_numpy(order[np.searchsorted(begins, index, side="right") - 1])

    @cached_property
    def _in_order(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The images in the order of their vectors, and where those begin."""
        # Of images that begin at one place the last has the vectors.
        order = np.lexsort((self.bounds[:, 1], self.bounds[:, 0]))
        return order, self.bounds[order, 0]

    def of_images(self, numbers: Sequence[int]) -> LevelFeatures:
        """Share the vectors of some images, which are numbered anew in this order."""
        some = LevelFeatures(self.vectors, self.positions)
        begin, end = self.bounds[list(numbers)].T
        ends = np.cumsum(end - begin)
        some.bounds = np.stack([ends - (end - begin), ends], axis=1)
        some._moved = begin - some.bounds[:, 0]
        if self._moved is not None:
            some._moved += self._moved[list(numbers)]
        some.grids = [self.grids[number] for number in numbers]
        if self.means is not None:
            some.means, some._factors = self.means, self._factors[list(numbers)]
        return some

    def less(self, means: PlaceMeans, factors: Tensor) -> LevelFeatures:
        """Share the vectors, less the means of their places, the rest times a factor per image."""
        others = copy.copy(self)
        others.means, others._factors, others._sent = means, factors, None
        return others
