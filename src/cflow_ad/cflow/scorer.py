"""The network arranged for scoring: the same function, with all that no image changes done once.

Batch normalisation is folded into the convolutions before it. Of each coupling block, the position
term is a table for the size of the map, the global scale is part of the rotation, and the factor of
the subnet's output part of its weights. The last rotation changes no likelihood and is left out.
"""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from cflow_ad.cflow.flow import CouplingBlock
from cflow_ad.cflow.folding import dtype_of, fold_encoder
from cflow_ad.cflow.model import CflowNetwork, Level
from cflow_ad.cflow.position import at_places, axis_places
from cflow_ad.cflow.tiles import Tiling
from cflow_ad.scoring.canvas import Shape
from cflow_ad.settings import Precision, Settings

_KEPT = 256 * 2**20  # bytes of position tables kept for sizes seen before
_SHAPES = 4  # of inputs that the encoder is compiled for
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
        dtype = dtype_of(precision)
        self.encoder = fold_encoder(network.encoder, dtype)
        self._tiling = Tiling(self.encoder, tile)
        self._levels = [FoldedLevel(cast(Level, level), dtype) for level in network.levels]

    def compile(self, shape: tuple[int, int]) -> None:
        """Let `torch.compile` make code for the encoder, which takes about a minute.

        Args:
            shape: height and width of the input. Three other sizes are compiled when they first
                come; the encoder runs as it is for more.
        """
        from torch._inductor import config  # slow, and hardly ever wanted

        device = self.encoder.mean.device
        pixels = torch.zeros(1, *shape, 3, dtype=torch.uint8, device=device)
        self(pixels)  # what is found out at the first image is no part of the code
        self.encoder.network = _CompiledForSome(self.encoder.network)
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
        grids = self.encoder.spec.grids((height, width))
        maps = [pixels.new_empty((len(pixels), *grid), dtype=torch.float32) for grid in grids]
        with self._tiling.alone():
            for number, rows, columns, z in self._tiling.pieces(pixels):
                normality = self._levels[number](z, (rows.start, columns.start), grids[number])
                maps[number][:, rows, columns] = normality
        return maps


def scorer_of(network: CflowNetwork, settings: Settings) -> Scorer:
    """`Scorer`, as a model's settings have it."""
    return Scorer(network, precision=settings.precision, tile=settings.tile_shape)


class _CompiledForSome(nn.Module):
    """A network that is compiled for the first input shapes that come, and else runs as it is: each
    takes a minute, and beyond a few torch gives up with a warning.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.plain = network
        self.compiled = cast(nn.Module, torch.compile(network, dynamic=False))
        self._shapes: set[torch.Size] = set()

    def forward(self, x: Tensor) -> list[Tensor]:
        if x.shape not in self._shapes and len(self._shapes) == _SHAPES:
            return cast(list[Tensor], self.plain(x))
        self._shapes.add(x.shape)
        return cast(list[Tensor], self.compiled(x))


@dataclass(frozen=True, slots=True)
class _Affine:
    """`x * scale + offset`, of shape `(n, 1)` each."""

    scale: Tensor
    offset: Tensor


@dataclass(frozen=True, slots=True)
class _FoldedBlock:
    """One coupling block, its factors multiplied out, for vectors that are columns."""

    first: Tensor
    """Of the subnet's first layer, the part of `x1`: `(hidden, n1)`."""
    of_row: Tensor
    """The part of the position's row, `(hidden, P / 2)`, and of its column."""
    of_column: Tensor
    bias: Tensor
    """`(hidden,)`"""
    second: Tensor
    """`(2 * n2, hidden)`, and its bias `(2 * n2, 1)`."""
    second_bias: Tensor
    before: _Affine | None
    """What `x2` has still to go through, `(n2, 1)`; None if nothing."""
    rotation: tuple[Tensor, Tensor] | None
    """`(C, C)` and an offset `(C, 1)`, where channels are mixed afterwards."""
    order: Tensor | None
    """Where they are only reordered."""
    clamp: float


class _Tables(NamedTuple):
    """What depends on the place alone, for the `h * w` cells of a map or of a part of it."""

    mean: Tensor
    """That is taken from the vectors, `(h * w, C)`; or `(C,)`, where it is one for all places."""
    of_blocks: list[Tensor]
    """For each block the position's share of the hidden layer, `(hidden, h * w)`."""


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
        self._means = copy.deepcopy(level.means)
        self._mean, self._input = _copy(level.input_layer.mean), _copy(level.input_layer.matrix)
        blocks = [cast(CouplingBlock, block) for block in level.flow.blocks]
        self._blocks, self._last = _fold(blocks, dtype)
        constant = sum(float(block.global_scale().log().sum()) for block in blocks)
        self._constant = constant - 0.5 * self._channels * math.log(2 * math.pi)
        self._tables: OrderedDict[tuple[int, int], _Tables] = OrderedDict()

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
        grid = grid or (height, width)
        codes = self._codes(*grid)
        rows, columns = self._flow.places(*grid)
        across = slice(at[1], at[1] + width)
        block = max(1, _AT_ONCE // width)
        parts = []
        for start in range(0, height, block):
            part = z[:, start : start + block]
            down = slice(at[0] + start, at[0] + start + part.shape[1])
            tables = self._tables_at(codes, grid, down, across)
            parts.append(self._normality(part, tables, rows[down], columns[:, across]))
        return torch.cat(parts, dim=1)

    def _normality(self, z: Tensor, tables: _Tables, rows: Tensor, columns: Tensor) -> Tensor:
        # Vectors are columns from here on: halves of the channels are then whole pieces of memory,
        # and a reordering moves rows.
        x = (z.flatten(1, 2).float() - tables.mean).flatten(0, 1).T
        x = self._input @ x if self._input.ndim == 2 else (x * self._input[:, None]).contiguous()
        log_det = x.new_full(x.shape[1:], self._constant)
        for block, table in zip(self._blocks, tables.of_blocks, strict=True):
            n2 = len(block.second) // 2
            x1, x2 = x[:-n2], x[-n2:]
            # Not expanded: a table of one image is taken as it is.
            table = table if len(z) == 1 else table.repeat(1, len(z))
            hidden = torch.addmm(table, block.first, x1.to(self._dtype)).relu_()
            a = (block.second @ hidden).float().add_(block.second_bias)
            # clamp * tanh, of which `second` holds twice the argument: a sigmoid is far quicker.
            log_scale = a[:n2].sigmoid_().mul_(2 * block.clamp).sub_(block.clamp)
            log_det += log_scale.sum(0)
            if block.before is not None:
                x2.mul_(block.before.scale).add_(block.before.offset)
            x2.mul_(log_scale.exp_()).add_(a[n2:])
            if block.rotation is not None:
                x = torch.addmm(block.rotation[1], block.rotation[0], x)
            elif block.order is not None:
                x = x.index_select(0, block.order)
        x = x.mul_(self._last.scale).add_(self._last.offset)
        likelihood = (log_det - 0.5 * x.square_().sum(0)) / self._channels
        reference, spread = (at_places(of, rows, columns) for of in (self._reference, self._spread))
        normality = (likelihood.view(z.shape[:3]) - reference) / spread
        return normality.exp_().clamp_(max=1.0)

    def _tables_of(self, height: int, width: int) -> _Tables:
        # Threads may make the same tables twice; one of them is kept.
        tables = self._tables.get((height, width))
        if tables is None:
            grid = (height, width)
            tables = self._tables_at(self._codes(*grid), grid, slice(height), slice(width))
            self._tables[grid] = tables
            while len(self._tables) > 1 and sum(map(_bytes, self._tables.values())) > _KEPT:
                self._tables.popitem(last=False)
        return tables

    def _tables_at(
        self, codes: Sequence[tuple[Tensor, Tensor]], grid: Shape, rows: slice, columns: slice
    ) -> _Tables:
        """For a part of a map of this size, whose `_codes` are given."""
        mean = self._mean
        if self._means is not None:
            mean = mean + self._means(*grid, rows, columns).flatten(0, 1)
        of_blocks = [
            (of_row[:, rows, None] + of_column[:, None, columns]).flatten(1).to(self._dtype)
            for of_row, of_column in codes
        ]
        return _Tables(mean, of_blocks)

    def _codes(self, height: int, width: int) -> list[tuple[Tensor, Tensor]]:
        """For each block the shares of the rows `(hidden, height)`, and of the columns."""
        rows, columns = (
            self._flow.axis_code(int(places[-1]) + 1).to(self._mean)[places].T
            for places in (axis_places(side, self._flow.frame) for side in (height, width))
        )
        return [
            (block.of_row @ rows + block.bias[:, None], block.of_column @ columns)
            for block in self._blocks
        ]


def _fold(
    blocks: Sequence[CouplingBlock], dtype: torch.dtype
) -> tuple[list[_FoldedBlock], _Affine]:
    """Blocks that put off their global scale and offset, and what is put off to the end.

    A block leaves its channels as they are, and hands on what should be done to them: to the first
    layer of the next, whose weights and bias take it up, and to its second half of the channels.
    """
    like = blocks[0].offset
    pending = _Affine(torch.ones_like(like)[:, None], torch.zeros_like(like)[:, None])
    folded: list[_FoldedBlock] = []
    for number, block in enumerate(blocks):
        n1, last = block.n1, number == len(blocks) - 1
        weight, permutation = _copy(block.first.weight), _copy(block.permutation)
        of_column, of_row = weight[:, n1:].chunk(2, dim=1)
        of_x1, before = weight[:, :n1], _Affine(pending.scale[n1:], pending.offset[n1:])
        scale, offset = block.global_scale().detach()[:, None], block.offset.detach()[:, None]
        # The second half has been brought up to date by then.
        done = _Affine(pending.scale.clone(), pending.offset.clone())
        done.scale[n1:], done.offset[n1:] = 1, 0
        after = _Affine(scale * done.scale, scale * done.offset + offset)
        rotation, order = None, None
        if not last and permutation.is_floating_point():
            rotation = (permutation * after.scale.T, permutation @ after.offset)
            after = _Affine(torch.ones_like(scale), torch.zeros_like(scale))
        elif not last:
            order = permutation
            after = _Affine(after.scale[order], after.offset[order])
        second = 0.1 * torch.cat((block.second.weight, block.second.bias[:, None]), dim=1).detach()
        second[: block.n2] *= 2
        folded.append(
            _FoldedBlock(
                first=(of_x1 * pending.scale[:n1].T).to(dtype),
                of_row=_copy(of_row),
                of_column=_copy(of_column),
                bias=cast(Tensor, block.first.bias).detach() + (of_x1 @ pending.offset[:n1])[:, 0],
                second=_copy(second[:, :-1].to(dtype)),
                second_bias=_copy(second[:, -1:]),
                before=before if folded and folded[-1].rotation is None else None,
                rotation=rotation,
                order=order,
                clamp=block.clamp,
            )
        )
        pending = after
    return folded, pending


def _copy(values: Tensor) -> Tensor:
    """In memory laid out anew: how it lies decides how products round, and a model that was loaded
    should score bit for bit as the one that was saved.
    """
    return values.detach().clone(memory_format=torch.contiguous_format)


def _bytes(tables: _Tables) -> int:
    return tables.mean.nbytes + sum(table.nbytes for table in tables.of_blocks)
