"""CFLOW-AD as one module: a frozen encoder and one level per feature map.

Nothing in it depends on the batch, the test set or the clock, so a score belongs to its image.
Images are scored by its folded form, see `folded`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import nn

from cflow_ad.cflow.encoder import Encoder
from cflow_ad.cflow.level import Level


class CflowModel(nn.Module):
    """All parameters of a model.

    Args:
        encoder: frozen.
        levels: in the order of the encoder's levels.
    """

    def __init__(self, encoder: Encoder, levels: Sequence[Level]) -> None:
        super().__init__()
        self.encoder = encoder
        self.levels = nn.ModuleList(levels)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.encoder.mean.device

    def __iter__(self) -> Iterator[Level]:
        return iter(cast(list[Level], list(self.levels)))
