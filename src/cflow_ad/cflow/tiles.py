"""Large images through the encoder in overlapping tiles, whose seams do not show.

What a feature vector says depends on the pixels within some reach of it. A tile therefore brings a
margin of that reach along, and only the cells inside the margin are kept. At the border of the
image a tile ends where the image does, so that there too the encoder sees what it would see.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from cflow_ad.cflow.encoder import Encoder
from cflow_ad.errors import SettingsError
from cflow_ad.process import give_memory_back
from cflow_ad.scoring.canvas import Shape

WHOLE = 3072 * 4096
"""Pixels that an image may have to be encoded whole, where no tile was asked for, and that a tile
then has at the most. The default backbone needs less than 1 GiB for so many."""

LARGE = 2048 * 2048
"""An image of more pixels is encoded by all cores, and no other beside it."""

_UNIT = 32  # tiles begin and end at multiples of this, and of the largest stride
_CHANGE = 3e-4  # of a feature, relative to its level's standard deviation: beyond reach
_PROBE = (128, 2048)  # pixels


class Span(NamedTuple):
    """A stretch along one axis, in pixels."""

    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Tile:
    """One tile of an image."""

    rows: Span
    """Of pixels, margins included."""
    columns: Span
    core_rows: Span
    """Of pixels whose cells are kept."""
    core_columns: Span

    def crop(self, level: Tensor, stride: int) -> Tensor:
        """The cells kept of one of the tile's levels, shape `(B, h, w, C)`."""
        top, left = self.core_rows.start - self.rows.start, self.core_columns.start
        left -= self.columns.start
        height = self.core_rows.stop - self.core_rows.start
        width = self.core_columns.stop - self.core_columns.start
        return level[
            :,
            top // stride : (top + height) // stride,
            left // stride : (left + width) // stride,
        ]

    def place(self, stride: int) -> tuple[slice, slice]:
        """Where the cells kept belong in the whole level."""
        rows, columns = self.core_rows, self.core_columns
        return (
            slice(rows.start // stride, rows.stop // stride),
            slice(columns.start // stride, columns.stop // stride),
        )


class Piece(NamedTuple):
    """What one tile gives of one level."""

    level: int
    rows: slice
    """Of the level's cells."""
    columns: slice
    vectors: Tensor
    """Shape `(B, h, w, C)`."""


def _pieces(
    tile: Tile, levels: Sequence[Tensor], strides: Sequence[int], *, first: int
) -> Iterator[Piece]:
    for number, (level, stride) in enumerate(zip(levels, strides, strict=True), start=first):
        yield Piece(number, *tile.place(stride), tile.crop(level, stride))


def cut(shape: Shape, tile: Shape, margin: int, unit: int) -> list[Tile]:
    """Cut an image into tiles of one size, whose cores cover it without overlap.

    Args:
        shape: height and width of the image, multiples of `unit`.
        tile: the largest height and width of a tile, at least `2 * margin + unit` along a side
            that is longer than the tile.
        margin: a multiple of `unit`.
        unit: all borders are multiples of it.

    Example:
        >>> [(t.rows, t.core_rows) for t in cut((128, 32), (96, 96), 32, 32)]
        [(Span(start=0, stop=96), Span(start=0, stop=64)), \
(Span(start=32, stop=128), Span(start=64, stop=128))]
    """
    of_rows, of_columns = (
        _cut_side(side, most, margin, unit) for side, most in zip(shape, tile, strict=True)
    )
    return [
        Tile(rows, columns, core_rows, core_columns)
        for rows, core_rows in of_rows
        for columns, core_columns in of_columns
    ]


def _cut_side(side: int, tile: int, margin: int, unit: int) -> list[tuple[Span, Span]]:
    if side <= tile:
        return [(Span(0, side), Span(0, side))]
    inside = side - 2 * margin
    step = (tile - 2 * margin) // unit * unit
    # As few tiles as that, and then no larger than they have to be.
    step = -(-math.ceil(inside / math.ceil(inside / step)) // unit) * unit
    count = math.ceil(inside / step)
    edges = [0, *(number * step + margin for number in range(1, count)), side]
    length = step + 2 * margin
    starts = [min(number * step, side - length) for number in range(count)]
    return [
        (Span(start, start + length), Span(edges[number], edges[number + 1]))
        for number, start in enumerate(starts)
    ]


class Tiling:
    """An encoder for images of any size, in bounded memory.

    Args:
        encoder: whose features are wanted.
        tile: the largest height and width encoded at once, margins included; `(0, 0)` for any;
            None to let an image's size decide.
    """

    def __init__(self, encoder: Encoder, tile: Shape | None = None) -> None:
        self.encoder = encoder
        self._tile = tile
        self._unit = math.lcm(_UNIT, *encoder.spec.own_strides)
        self._threads = torch.get_num_threads()
        self._alone = threading.Lock()
        self._margin: int | None = None
        if tile is not None and any(tile):
            self._check(tile)

    @property
    def margin(self) -> int:
        """Pixels that a tile brings along on either side; measured when it is first needed.

        Raises:
            SettingsError: the encoder's features depend on the whole image.
        """
        if self._margin is None:
            self._margin = -(-measure_reach(self.encoder) // self._unit) * self._unit
        return self._margin

    def plan(self, shape: Shape) -> list[Tile]:
        """The tiles of an image of this size; a single one if it is encoded whole.

        Raises:
            SettingsError: it has to be cut, and the encoder's features depend on the whole image.
        """
        tile = self._tile
        if tile is None:
            side = 0 if shape[0] * shape[1] <= WHOLE else math.isqrt(WHOLE)
            tile = (side, side)
        if not any(tile) or (shape[0] <= tile[0] and shape[1] <= tile[1]):
            return cut(shape, shape, 0, 1)
        return cut(shape, tile, self.margin, self._unit)

    def is_large(self, shape: Shape) -> bool:
        """Whether images of this size are to be encoded `alone`."""
        return shape[0] * shape[1] > LARGE or len(self.plan(shape)) > 1

    def pieces(self, pixels: Tensor) -> Iterator[Piece]:
        """The levels of images of one size, tile by tile.

        The small image that coarse levels are of is another image: cut where it is large itself,
        with the margin that the network needs.

        Args:
            pixels: shape `(B, H, W, 3)`.
        """
        spec = self.encoder.spec
        own = len(spec.own_strides)
        for tile in self.plan((pixels.shape[1], pixels.shape[2])):
            part = pixels[:, slice(*tile.rows), slice(*tile.columns)]
            levels = self.encoder.own_levels(self.encoder.scaled(part))
            yield from _pieces(tile, levels, spec.own_strides, first=0)
        if spec.coarse:
            small = self.encoder.shrunk(pixels)
            for tile in self.plan((small.shape[2], small.shape[3])):
                part = small[:, :, slice(*tile.rows), slice(*tile.columns)]
                yield from _pieces(
                    tile, self.encoder.small_levels(part), spec.small_strides, first=own
                )

    def __call__(self, pixels: Tensor) -> list[Tensor]:
        """Encode images, as `Encoder.forward`."""
        shape = (pixels.shape[1], pixels.shape[2])
        if not self.is_large(shape):
            return self.encoder.forward(pixels)
        whole: list[Tensor] = []
        grids = self.encoder.spec.grids(shape)
        with self.alone():
            if len(self.plan(shape)) == 1:
                return self.encoder.forward(pixels)
            for piece in self.pieces(pixels):
                if piece.level == len(whole):
                    channels = piece.vectors.shape[3]
                    size = (len(pixels), *grids[piece.level], channels)
                    whole.append(piece.vectors.new_empty(size))
                whole[piece.level][:, piece.rows, piece.columns] = piece.vectors
        return whole

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """One large image at a time, on all cores, so that its memory is needed once."""
        with self._alone:
            threads = torch.get_num_threads()
            torch.set_num_threads(self._threads)
            try:
                yield
            finally:
                torch.set_num_threads(threads)
                give_memory_back()

    def _check(self, tile: Shape) -> None:
        least = 2 * self.margin + self._unit
        if min(tile) < least:
            raise SettingsError(
                f"tile is {tile[0]}x{tile[1]}: what {self.encoder.spec.backbone} says of a place "
                f"depends on {self.margin} pixels around it, so that a tile must be at least "
                f"{least}x{least}"
            )


@torch.no_grad()
def measure_reach(encoder: Encoder) -> int:
    """How far from a change of the image its features still change noticeably, in pixels.

    Coarse levels are not asked: of their small image it is as many of its pixels.

    One half of a noisy strip is replaced by black. A feature notices if it changes by more than a
    three ten-thousandths of its level's standard deviation.

    Args:
        encoder: with its weights.

    Raises:
        SettingsError: all of them change, as where attention or pooling spans the image.
    """
    height, width = _PROBE
    half = width // 2
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (1, height, width, 3), generator=generator, dtype=torch.uint8)
    cut_off = noise.clone()
    cut_off[:, :, half:] = 0
    reach = 0
    for level, changed, stride in zip(
        *(
            encoder.own_levels(encoder.scaled(image.to(encoder.mean.device)))
            for image in (noise, cut_off)
        ),
        encoder.spec.own_strides,
        strict=True,
    ):
        change = (level - changed).abs().amax((0, 1, 3)) / level.std()
        seen = (change[: half // stride] > _CHANGE).nonzero()
        if len(seen):
            reach = max(reach, half - int(seen[0]) * stride)
    if reach >= half:
        raise SettingsError(
            f"tile: the features of {encoder.spec.backbone} depend on the whole image, so that it "
            "cannot be cut into tiles; give a smaller size, or tile=0 to encode it whole"
        )
    return reach
