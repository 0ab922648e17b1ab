"""The vectors of the next training steps of a level, on the device where it is trained.

They are drawn for a block of steps at once, so that the steps themselves read nothing but tensors
in fixed places. On an accelerator all vectors of the level lie in its memory, if they fit there;
else those of each block are sent.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cflow_ad.cflow.device import free_memory
from cflow_ad.cflow.level import Level
from cflow_ad.fitting.features import LevelFeatures

BLOCK = 25
"""Steps in a block."""

_SHARE = 0.5  # of an accelerator's free memory, at the most, that vectors may take
_CHUNK = 65536  # vectors sent at once


class _Vectors(NamedTuple):
    """Vectors after the input layer, and their positions."""

    x: Tensor
    rows: Tensor
    columns: Tensor


class Batches:
    """The batches of a block of steps.

    Args:
        level: its input layer fitted.
        features: the level's vectors.
        batch_size: vectors in a step.
        seed: of the draws, whole numbers.
    """

    def __init__(
        self, level: Level, features: LevelFeatures, batch_size: int, seed: tuple[int, ...]
    ) -> None:
        self._level = level
        self._channels = level.density.channels
        self._features = features
        self._seed = seed
        self._device = level.location.device
        self._all = self._send_all() if self._device.type != "cpu" else None
        shape = (BLOCK, batch_size)
        self.x = torch.empty(*shape, self._channels, device=self._device)
        """After the input layer, shape `(BLOCK, batch_size, D)`."""
        self.condition = torch.empty(*shape, level.density.condition_channels, device=self._device)
        """Shape `(BLOCK, batch_size, P)`."""

    @torch.no_grad()
    def draw(self, block: int) -> None:
        """Fill the tensors with the batches of a block, by its number; always the same ones."""
        device = self._device  # wherever the vectors are, or the memory free would decide the draw
        seed = np.random.SeedSequence([*self._seed, block]).generate_state(2)
        generator = torch.Generator(device).manual_seed(int(seed[0]) << 16 ^ int(seed[1]))
        size = self.x.shape[:2]
        index = torch.randint(len(self._features), size, generator=generator, device=device)
        index = index.sort(dim=1).values  # neighbours in memory are read quicker
        index = index.flatten()
        if self._all is None:
            drawn = self._take(index.cpu().numpy())
        else:
            drawn = _Vectors(*(of.index_select(0, index) for of in self._all))
        self.x.copy_(drawn.x.view_as(self.x))
        self.condition.copy_(self._level.condition(drawn.rows.view(size), drawn.columns.view(size)))

    def _take(self, index: np.ndarray) -> _Vectors:
        z, rows, columns = self._features.take(index, self._device)
        return _Vectors(self._level.input_layer(z), rows, columns)

    @torch.no_grad()
    def _send_all(self) -> _Vectors | None:
        """Bring all vectors to the device; None if they do not fit."""
        count, channels = len(self._features), self._channels
        if count * (4 * channels + 16) > _SHARE * free_memory(self._device):
            return None
        try:
            x = torch.empty(count, channels, device=self._device)
            rows, columns = (
                torch.empty(count, dtype=torch.int64, device=self._device) for _ in range(2)
            )
            for start in range(0, count, _CHUNK):
                part = slice(start, min(count, start + _CHUNK))
                taken = self._take(np.arange(part.start, part.stop))
                x[part], rows[part], columns[part] = taken
        except torch.OutOfMemoryError:
            return None
        return _Vectors(x, rows, columns)
