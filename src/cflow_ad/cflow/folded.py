"""The model folded for scoring: the same function, with all that no image changes computed once.

This is the one form that images are scored in: by `Scorer` on a CPU or a GPU, and by every export.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cflow_ad.cflow.folded_density import FoldedFlow, FoldedMemory, at_each_position, kernel, layout
from cflow_ad.cflow.folding import FoldedEncoder
from cflow_ad.cflow.level import Level
from cflow_ad.cflow.memory import Memory
from cflow_ad.cflow.model import CflowModel
from cflow_ad.cflow.position import at_places, axis_places, encode_axis
from cflow_ad.cflow.precision import dtype_of
from cflow_ad.scoring.canvas import Shape
from cflow_ad.settings import Precision

_ALL = slice(None)


class Tables(NamedTuple):
    """What depends on the position alone, for the positions of a map or of some of its rows."""

    shift: Tensor
    """Added to a vector after whitening: minus its mean, `(C, h, w)` or `(C, 1, 1)`."""
    terms: list[Tensor]
    """For each block the position's share of the subnet's hidden layer, `(hidden, h, w)`."""
    location: Tensor
    """Of log-likelihoods, `(h, w)` or a scalar."""
    scale: Tensor
    """Of log-likelihoods, `(h, w)` or a scalar."""

    @property
    def tensors(self) -> list[Tensor]:
        """All of them."""
        return [self.shift, *self.terms, self.location, self.scale]

    def laid_out(self) -> Tables:
        """Arrange them in memory as maps are on their device."""
        memory_format = layout(self.shift.device)
        shift, *terms = (
            of[None].contiguous(memory_format=memory_format)[0] for of in (self.shift, *self.terms)
        )
        return Tables(shift, terms, self.location, self.scale)


class FoldedLevel(nn.Module):
    """Features to log-likelihoods and energies.

    Args:
        level: fitted.
        dtype: of the subnets' products.
    """

    mean: Tensor
    whitening: Tensor | None
    location: Tensor
    scale: Tensor

    def __init__(self, level: Level, dtype: torch.dtype) -> None:
        super().__init__()
        level = _contiguous(level)
        density = level.density
        self.density: FoldedFlow | FoldedMemory
        if isinstance(density, Memory):
            self.density = FoldedMemory(density)
        else:
            self.density = FoldedFlow(density, dtype)
        self.channels, self.frame, self.stride = density.channels, level.frame, level.stride
        self.axis_channels = density.condition_channels // 2
        self.means = level.means
        mean, matrix = level.input_layer.mean, level.input_layer.matrix
        if matrix is not None:  # of the means of places too: interpolation is linear
            mean = matrix @ mean
            if self.means is not None:
                self.means.tables = F.linear(self.means.tables, matrix)
        self.register_buffer("mean", mean)
        self.register_buffer("whitening", None if matrix is None else kernel(matrix))
        self.register_buffer("location", level.location)
        self.register_buffer("scale", level.scale)
        self._fixed = 0  # tables that the module has
        self.requires_grad_(False)

    def fix(self, grid: Shape) -> None:
        """Keep the tables of maps of `grid`, height and width, which are the only ones from now on,
        in the module.
        """
        tensors = self.tables(*grid).tensors
        for number, tensor in enumerate(tensors):
            self.register_buffer(f"table{number}", tensor.clone())
        self._fixed = len(tensors)

    def tables(self, height: int, width: int, rows: slice = _ALL) -> Tables:
        """Compute what depends on the position alone, for these rows of a map of `height x width`
        positions.
        """
        if self._fixed:
            shift, *terms, location, scale = (
                self.get_buffer(f"table{number}") for number in range(self._fixed)
            )
            return Tables(shift, terms, location, scale)
        row_places, column_places = (axis_places(side, self.frame) for side in (height, width))
        row_places = row_places[rows]
        row_code, column_code = (
            encode_axis(places, self.axis_channels, stride=self.stride).to(self.mean)
            for places in (row_places, column_places)
        )
        mean = self.mean[:, None, None]
        if self.means is not None:
            mean = mean + self.means(height, width, rows).permute(2, 0, 1)
        at = row_places[:, None].to(self.mean.device), column_places[None].to(self.mean.device)
        return Tables(
            -mean,
            self.density.terms(row_code, column_code),
            at_places(self.location, *at),
            at_places(self.scale, *at),
        )

    def log_likelihood(self, features: Tensor, tables: Tables) -> Tensor:
        """Compute the log-likelihood per dimension at every position, as `Level.forward`: features
        `(B, C, h, w)`, with the tables of their positions, to `(B, h, w)`.
        """
        y = features.float().contiguous(memory_format=layout(features.device))
        if self.whitening is not None:
            y = at_each_position(y, self.whitening)
        value: Tensor = self.density(y + tables.shift, tables.terms)
        return value / self.channels

    def forward(self, features: Tensor, tables: Tables) -> Tensor:
        """Compute the energy at every position; as `log_likelihood`, then `Level.energy`."""
        value = self.log_likelihood(features, tables)
        return ((tables.location - value) / tables.scale).clamp(min=0)


class FoldedModel(nn.Module):
    """Pixels to the energies of every level.

    Copies what it needs: later changes to the model have no effect on it.

    Args:
        model: fitted.
        precision: `fp32`; `tf32`, in which a CUDA device computes products; or `bf16` for the
            encoder and the subnets, which are most of the work. Whitening, couplings and
            likelihoods stay in single precision.
    """

    def __init__(self, model: CflowModel, precision: Precision = "fp32") -> None:
        super().__init__()
        dtype = dtype_of(precision)
        self.encoder = FoldedEncoder(model.encoder, precision)
        self.levels = nn.ModuleList(FoldedLevel(level, dtype) for level in model)
        self.eval()

    def __iter__(self) -> Iterator[FoldedLevel]:
        return iter(cast(list[FoldedLevel], list(self.levels)))

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Compute the energy of every position of every level.

        Args:
            pixels: shape `(B, H, W, 3)`, RGB in 0..255, sides multiples of the largest stride.

        Returns:
            For each level, shape `(B, H / stride, W / stride)`, at least 0.
        """
        pyramid = self.encoder(pixels)
        return [
            level(features, level.tables(*features.shape[2:]))
            for level, features in zip(self, pyramid, strict=True)
        ]


def _contiguous(level: Level) -> Level:
    """Copy a level into contiguous memory: strides decide how products round, and a model that is
    loaded scores bit for bit as the one that was saved.
    """
    copied = copy.deepcopy(level)
    for tensor in (*copied.parameters(), *copied.buffers()):
        tensor.data = tensor.data.contiguous()
    return copied
