"""Score with a folded model: tables of positions are kept, large maps go in blocks of rows."""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from cflow_ad.cflow.device import wait_for_own_work
from cflow_ad.cflow.folded import FoldedLevel, FoldedModel, Tables
from cflow_ad.cflow.graphs import OneAtATime
from cflow_ad.cflow.model import CflowModel
from cflow_ad.cflow.precision import products_in
from cflow_ad.scoring.canvas import Shape
from cflow_ad.settings import Precision

_KEPT = 256 * 2**20  # bytes of position tables kept for sizes seen before
_AT_ONCE = 2**14  # positions whose tables are kept; a larger map goes in blocks of rows
_GRAPHED = 2**20  # pixels of an image, at the most, for whose size a CUDA graph is kept

_OfLevel = Callable[[FoldedLevel, Tensor, Tables], Tensor]


class Scorer:
    """A folded model that keeps the tables of the sizes it has seen; for several threads.

    Args:
        model: fitted.
        precision: see `FoldedModel`.
    """

    def __init__(self, model: CflowModel, *, precision: Precision = "fp32") -> None:
        self.folded = FoldedModel(model, precision)
        self._tables: OrderedDict[tuple[int, Shape], Tables] = OrderedDict()
        self._lock = threading.Lock()
        # Not a method: the scorer, and so the graphs' memory, is to go once it is out of use.
        self._one_at_a_time = OneAtATime(partial(_for_one_size, self.folded), self.device)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.folded.encoder.mean.device

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> list[Tensor]:
        """Compute energies, as `FoldedModel.forward`."""
        is_small = len(pixels) == 1 and pixels.shape[1] * pixels.shape[2] <= _GRAPHED
        if is_small and self.device.type == "cuda":
            return self._one_at_a_time(pixels)
        return self._over(pixels, FoldedLevel.forward)

    @torch.no_grad()
    def with_vectors(self, pixels: Tensor) -> tuple[list[Tensor], Tensor]:
        """Compute energies, and for each image `(B, C)` the mean of each level's feature vectors,
        scaled to length 1, one level after another.
        """
        means: list[Tensor] = []

        def note(features: Tensor) -> None:
            means.append(F.normalize(features.float().mean((2, 3)), dim=1))

        return self._over(pixels, FoldedLevel.forward, note), torch.cat(means, dim=1)

    @torch.no_grad()
    def log_likelihoods(self, pixels: Tensor) -> list[Tensor]:
        """Compute log-likelihoods per dimension, in nats, of the same shapes."""
        return self._over(pixels, FoldedLevel.log_likelihood)

    def _over(
        self, pixels: Tensor, compute: _OfLevel, note: Callable[[Tensor], None] | None = None
    ) -> list[Tensor]:
        """Compute each level's map before the next level's features, which `note` sees first."""

        def of_level(number: int, features: Tensor) -> Tensor:
            if note is not None:
                note(features)
            return self._of_level(number, features, compute)

        encoder = self.folded.encoder
        with products_in(encoder.precision, self.device):
            # A loop's variable would keep a level while the next one is computed.
            return list(map(of_level, itertools.count(), encoder.each_level(pixels)))

    def _of_level(self, number: int, features: Tensor, compute: _OfLevel) -> Tensor:
        """Compute a level's map, some rows at a time where it is large."""
        level = cast(FoldedLevel, self.folded.levels[number])
        height, width = features.shape[2:]
        if height * width <= _AT_ONCE:
            return compute(level, features, self._tables_of(number, (height, width)))
        parts = []
        block = max(1, _AT_ONCE // width)
        for start in range(0, height, block):
            rows = slice(start, min(height, start + block))
            tables = level.tables(height, width, rows)
            parts.append(compute(level, features[:, :, rows], tables))
        return torch.cat(parts, dim=1)

    def _tables_of(self, number: int, grid: Shape) -> Tables:
        key = number, grid
        with self._lock:
            if key not in self._tables:
                level = cast(FoldedLevel, self.folded.levels[number])
                self._tables[key] = level.tables(*grid).laid_out()
                wait_for_own_work(self.device)
                while len(self._tables) > 1 and self._bytes() > _KEPT:
                    self._tables.popitem(last=False)
            self._tables.move_to_end(key)
            return self._tables[key]

    def _bytes(self) -> int:
        return sum(tensor.nbytes for tables in self._tables.values() for tensor in tables.tensors)


def _for_one_size(folded: FoldedModel) -> Callable[[Tensor], list[Tensor]]:
    """Build a function of images of one size, with tables of its own, for as long as it is."""
    tables: list[Tables] = []

    @torch.no_grad()
    def run(pixels: Tensor) -> list[Tensor]:
        pyramid = folded.encoder(pixels)
        with products_in(folded.encoder.precision, pixels.device):
            if not tables:  # all or none of them: memory may run out between two
                tables[:] = [
                    level.tables(*features.shape[2:]).laid_out()
                    for level, features in zip(folded, pyramid, strict=True)
                ]
            return [
                level(features, own)
                for level, features, own in zip(folded, pyramid, tables, strict=True)
            ]

    return run
