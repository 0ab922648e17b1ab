"""CFLOW-AD as one module: from the pixels of a batch to the normality of every position.

Nothing in it depends on the batch, the test set or the clock, so a score belongs to its image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from cflow_ad.cflow.encoder import Encoder
from cflow_ad.cflow.flow import ConditionalFlow, standard_normal_log_prob
from cflow_ad.cflow.place_means import PlaceMeans
from cflow_ad.cflow.position import at_places
from cflow_ad.cflow.whitening import InputLayer


class Level(nn.Module):
    """One level of the pyramid: input layer, flow, and what counts as likely for good images.

    Args:
        input_layer: fixed, fitted on good vectors.
        flow: conditioned on the position.
        parts: along either side of an image, that each have a scale of their own, for a flow whose
            positions are relative; unset, there is one scale for all places.
        means: of good vectors at each place, which are taken from a vector first; unset, nothing
            is.
    """

    reference: Tensor
    spread: Tensor

    def __init__(
        self,
        input_layer: InputLayer,
        flow: ConditionalFlow,
        parts: int | None = None,
        means: PlaceMeans | None = None,
    ) -> None:
        super().__init__()
        self.means = means
        self.input_layer = input_layer
        self.flow = flow
        shape = () if parts is None else (parts, parts)
        self.register_buffer("reference", torch.zeros(shape))
        self.register_buffer("spread", torch.ones(shape))

    def forward(self, z: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Log-likelihood per dimension of vectors at their positions, in nats.

        Args:
            z: feature vectors, `centred`, shape `(..., C)`.
            rows: integer rows; with `columns`, broadcasts to the leading shape of `z`.
            columns: integer columns.

        Returns:
            `l = log p(z | c) / C`, shape `(...)`, in the coordinates of the input layer: its
            log-determinant, a constant, is left out; `log_prob` has it.
        """
        u, log_det = self.flow.forward(self.input_layer(z), rows, columns)
        return (standard_normal_log_prob(u) + log_det) / self.flow.channels

    def centred(self, z: Tensor) -> Tensor:
        """A map of feature vectors, `(B, h, w, C)`, less the means of their places if there are
        any.
        """
        return z if self.means is None else z - self.means(z.shape[1], z.shape[2])

    def log_prob(self, z: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Exact `log p(z | c)` of `centred` feature vectors, in nats."""
        log_det = self.input_layer.log_det
        return self.flow.log_prob(self.input_layer(z), rows, columns) + log_det

    def sample(self, rows: Tensor, columns: Tensor, generator: torch.Generator) -> Tensor:
        """Draw good feature vectors, `centred`, one for each position.

        Args:
            rows: integer rows, any shape.
            columns: integer columns, the same shape.
            generator: the source of chance.

        Returns:
            Shape `(..., C)`.
        """
        u = torch.randn((*rows.shape, self.flow.channels), generator=generator)
        return self.input_layer.inverse(self.flow.inverse(u.to(self.reference), rows, columns))

    def normality(self, log_likelihood: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """How normal a log-likelihood is: 1 at the reference and above, towards 0 below it.

        Args:
            log_likelihood: `l`, any shape.
            rows: as for `forward`.
            columns: as for `forward`.

        Returns:
            `min(1, exp((l - reference) / spread))`, the same shape.
        """
        reference, spread = (at_places(of, rows, columns) for of in (self.reference, self.spread))
        return ((log_likelihood - reference) / spread).exp().clamp(max=1.0)


class CflowNetwork(nn.Module):
    """Encoder and one `Level` per stride.

    Args:
        encoder: frozen.
        levels: in the order of the encoder's strides.
    """

    def __init__(self, encoder: Encoder, levels: Sequence[Level]) -> None:
        super().__init__()
        self.encoder = encoder
        self.levels = nn.ModuleList(levels)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Normality of every position of every level.

        Args:
            pixels: shape `(B, H, W, 3)`, RGB in 0..255, sides multiples of the largest stride.

        Returns:
            For each level, shape `(B, H / stride, W / stride)`, in `[0, 1]`.
        """
        return [
            level.normality(values, *level.flow.places(*values.shape[1:]))
            for level, values in zip(self._levels, self.log_likelihoods(pixels), strict=True)
        ]

    def log_likelihoods(
        self, pixels: Tensor, encoder: Callable[[Tensor], list[Tensor]] | None = None
    ) -> list[Tensor]:
        """Log-likelihood per dimension of every position of every level; see `Level.forward`.

        Args:
            pixels: as for `forward`.
            encoder: to encode with, in another form than this network's own.
        """
        pyramid = (encoder or self.encoder)(pixels)
        maps = []
        for level, z in zip(self._levels, pyramid, strict=True):
            places = level.flow.places(*z.shape[1:3])
            maps.append(level.forward(level.centred(z), *places))
        return maps

    @property
    def _levels(self) -> list[Level]:
        return cast(list[Level], list(self.levels))
