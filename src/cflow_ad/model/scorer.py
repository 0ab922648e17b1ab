"""The network arranged for scoring: the same function, with all that no image changes done once.

Batch normalisation is folded into the convolutions before it. Of each coupling block, the position
term is a table for the size of the map, the global scale is part of the rotation, and the factor of
the subnet's output part of its weights. The last rotation changes no likelihood and is left out.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from cflow_ad.data.sizing import Shape
from cflow_ad.model.flow import CouplingBlock
from cflow_ad.model.folding import fold_encoder
from cflow_ad.model.network import CflowNetwork, Level
from cflow_ad.model.positions import at_places, axis_places
from cflow_ad.model.tiles import Tiling
from cflow_ad.model.whitening import InputLayer

Precision = Literal["fp32", "bf16"]

_KEPT = 256 * 2**20  # bytes of position tables kept for sizes seen before
_AT_ONCE = 16384  # cells whose position tables are kept whole; more go in blocks of rows


class Scorer:
    """Pixels to the normality of every position, as `CflowNetwork.forward`.

    Takes a copy of what it needs: later changes to the network are not seen. May be called from
    several threads.

    Args:
        network: encoder and levels, fitted.
        precision: `fp32`, or `bf16` for the encoder and the subnets, which are most of the work.
            Whitening, couplings and likelihoods stay in single precision.
        tile: see `Tiling`.
    """

    def __init__(
        self, network: CflowNetwork, *, precision: Precision = "fp32", tile: Shape | None = None
    ) -> None:
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self.encoder = fold_encoder(network.encoder, dtype)
        self._tiling = Tiling(self.encoder, tile)
        self._levels = [FoldedLevel(cast(Level, level), dtype) for level in network.levels]

    def compile(self, shape: tuple[int, int]) -> None:
        """Let `torch.compile` make code for the encoder, which takes about a minute.

        Args:
            shape: height and width of the input; another size is compiled when it first comes.
        """
        from torch._inductor import config  # slow, and hardly ever wanted

        self.encoder.network = cast(nn.Module, torch.compile(self.encoder.network, dynamic=False))
        device = self.encoder.mean.device
        pixels = torch.zeros(1, *shape, 3, dtype=torch.uint8, device=device)
        threads = torch.get_num_threads()
        torch.set_num_threads(1 if device.type == "cpu" else threads)  # as in `run_over`
        try:
            # Weights become constants of the code, laid out for it.
            with config.patch(freezing=True):
                self(pixels)
        finally:
            torch.set_num_threads(threads)

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> list[Tensor]:
        """Normality of every position of every level.

        Args:
            pixels: shape `(B, H, W, 3)`, RGB in 0..255, sides multiples of the largest stride.

        Returns:
            For each level, shape `(B, H / stride, W / stride)`, in `[0, 1]`.
        """
        height, width = pixels.shape[1:3]
        if not self._tiling.is_large((height, width)):
            pyramid = self.encoder(pixels)
            return [level(z) for level, z in zip(self._levels, pyramid, strict=True)]
        strides = self.encoder.spec.strides
        maps = [
            pixels.new_empty((len(pixels), height // s, width // s), dtype=torch.float32)
            for s in strides
        ]
        with self._tiling.alone():
            for tile in self._tiling.plan((height, width)):
                levels = self._tiling.encode(pixels, tile)
                for level, z, into, s in zip(self._levels, levels, maps, strides, strict=True):
                    rows, columns = tile.place(s)
                    grid = (into.shape[1], into.shape[2])
                    into[:, rows, columns] = level(z, (rows.start, columns.start), grid)
        return maps


@dataclass(frozen=True, slots=True)
class _FoldedBlock:
    """One coupling block, its factors multiplied out."""

    first: Tensor
    """Of the subnet's first layer, the part of `x1`: `(n1, hidden)`."""
    of_row: Tensor
    """The part of the position's row, with the bias, `(P / 2, hidden)` and `(hidden,)`."""
    of_column: Tensor
    bias: Tensor
    second: Tensor
    """`(hidden, 2 * n2)`."""
    second_bias: Tensor
    rotation: Tensor | None
    """`(C, C)`, the global scale in it; None where channels are only reordered, or at the end."""
    scale: Tensor
    offset: Tensor
    order: Tensor | None
    clamp: float


class FoldedLevel:
    """Input layer, flow and normality of one level.

    Args:
        level: fitted.
        dtype: of the subnets' products.
    """

    def __init__(self, level: Level, dtype: torch.dtype) -> None:
        self._channels = level.flow.channels
        self._flow = level.flow
        self._dtype = dtype
        self._reference, self._spread = level.reference.clone(), level.spread.clone()
        self._mean, self._input = _input_of(level.input_layer)
        blocks = [cast(CouplingBlock, block) for block in level.flow.blocks]
        self._blocks = [_fold(block, dtype, last=block is blocks[-1]) for block in blocks]
        constant = sum(float(block.scale.log().sum()) for block in self._blocks)
        self._constant = constant - 0.5 * self._channels * math.log(2 * math.pi)
        self._tables: OrderedDict[tuple[int, int], list[Tensor]] = OrderedDict()

    def __call__(
        self, z: Tensor, at: tuple[int, int] = (0, 0), grid: tuple[int, int] | None = None
    ) -> Tensor:
        """Normality of the vectors of a map or of a part of it.

        Args:
            z: shape `(B, h, w, C)`.
            at: row and column of the first in the map.
            grid: height and width of the map; unset, `z` is all of it.

        Returns:
            Shape `(B, h, w)`.
        """
        height, width = z.shape[1:3]
        if grid is None and height * width <= _AT_ONCE:
            places = self._flow.places(height, width)
            return self._normality(z, self._tables_of(height, width), *places)
        codes = self._codes(*(grid or (height, width)))
        rows, columns = self._flow.places(*(grid or (height, width)))
        columns = columns[:, at[1] : at[1] + width]
        block = max(1, _AT_ONCE // width)
        parts = []
        for start in range(0, height, block):
            part = z[:, start : start + block]
            first = at[0] + start
            tables = [
                (of_row[first : first + part.shape[1], None] + of_column[at[1] : at[1] + width])
                .flatten(0, 1)
                .to(self._dtype)
                for of_row, of_column in codes
            ]
            parts.append(
                self._normality(part, tables, rows[first : first + part.shape[1]], columns)
            )
        return torch.cat(parts, dim=1)

    def _normality(
        self, z: Tensor, tables: Sequence[Tensor], rows: Tensor, columns: Tensor
    ) -> Tensor:
        count, height, width, channels = z.shape
        x = z.reshape(count, height * width, channels).float() - self._mean
        x = x @ self._input if self._input.ndim == 2 else x * self._input
        log_det = x.new_full(x.shape[:2], self._constant)
        for block, table in zip(self._blocks, tables, strict=True):
            n2 = block.second.shape[1] // 2
            n1 = channels - n2
            hidden = torch.baddbmm(
                table.expand(count, -1, -1),
                x[..., :n1].to(self._dtype),
                block.first.expand(count, -1, -1),
            ).relu_()
            a = (hidden @ block.second).float() + block.second_bias
            log_scale = a[..., :n2].tanh_().mul_(block.clamp)
            log_det += log_scale.sum(-1)
            x[..., n1:].mul_(log_scale.exp_()).add_(a[..., n2:])
            if block.rotation is not None:
                x = x @ block.rotation + block.offset
            else:
                x = x * block.scale + block.offset
                if block.order is not None:
                    x = x[..., block.order]
        likelihood = (log_det - 0.5 * x.square().sum(-1)) / channels
        reference, spread = (at_places(of, rows, columns) for of in (self._reference, self._spread))
        normality = (likelihood.view(count, height, width) - reference) / spread
        return normality.exp_().clamp_(max=1.0)

    def _tables_of(self, height: int, width: int) -> list[Tensor]:
        """For each block the position's share of the hidden layer, `(h * w, hidden)`."""
        # Threads may make the same tables twice; one of them is kept.
        tables = self._tables.get((height, width))
        if tables is None:
            tables = [
                (of_row[:, None] + of_column).flatten(0, 1).to(self._dtype)
                for of_row, of_column in self._codes(height, width)
            ]
            self._tables[height, width] = tables
            while len(self._tables) > 1 and sum(map(_bytes, self._tables.values())) > _KEPT:
                self._tables.popitem(last=False)
        return tables

    def _codes(self, height: int, width: int) -> list[tuple[Tensor, Tensor]]:
        """For each block the shares of the rows `(height, hidden)`, and of the columns."""
        rows, columns = (
            self._flow.axis_code(int(places[-1]) + 1).to(self._mean)[places]
            for places in (axis_places(side, self._flow.frame) for side in (height, width))
        )
        return [
            (rows @ block.of_row + block.bias, columns @ block.of_column) for block in self._blocks
        ]


def _input_of(layer: InputLayer) -> tuple[Tensor, Tensor]:
    """Mean and matrix, the matrix to be multiplied from the right."""
    return layer.mean, layer.matrix if layer.matrix.ndim == 1 else layer.matrix.T.contiguous()


def _fold(block: CouplingBlock, dtype: torch.dtype, *, last: bool) -> _FoldedBlock:
    weight = block.first.weight.detach()
    of_column, of_row = weight[:, block.n1 :].chunk(2, dim=1)
    scale = block.global_scale().detach()
    offset, rotation, order = block.offset.detach(), None, None
    if not last:
        if block.permutation.is_floating_point():
            # y = W (x g + o), with vectors as rows.
            rotation = (block.permutation * scale).T.contiguous()
            offset = block.permutation @ offset
        else:
            order = block.permutation
    return _FoldedBlock(
        first=weight[:, : block.n1].T.contiguous().to(dtype),
        of_row=of_row.T.contiguous(),
        of_column=of_column.T.contiguous(),
        bias=cast(Tensor, block.first.bias).detach(),
        second=(0.1 * block.second.weight.detach()).T.contiguous().to(dtype),
        second_bias=0.1 * cast(Tensor, block.second.bias).detach(),
        rotation=rotation,
        scale=scale,
        offset=offset,
        order=order,
        clamp=block.clamp,
    )


def _bytes(tables: list[Tensor]) -> int:
    return sum(table.nbytes for table in tables)
