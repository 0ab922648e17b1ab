"""The condition of the flow: where on the feature map a vector was taken.

The 2-D sinusoidal encoding of CFLOW-AD (Sec. 4.2) is the encoding of the column followed by the
encoding of the row. A linear layer applied to it is therefore a term of the column plus a term of
the row, and needs computing only `H + W` times for an `H x W` map, never once per vector.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Frame = Literal["absolute", "relative"]

FRAME = 256
"""Pixels along either side of the image that relative positions refer to."""


def axis_places(cells: int, frame: Frame) -> Tensor:
    """The numbers, from 0, that the cells along one axis of an image go by.

    Args:
        cells: how many there are.
        frame: `absolute` numbers them; `relative` says on which of `FRAME` pixels each one's
            centre falls, the image being scaled to so many.

    Returns:
        Integers, shape `(cells,)`.

    Example:
        >>> axis_places(4, "absolute").tolist(), axis_places(4, "relative").tolist()
        ([0, 1, 2, 3], [32, 96, 160, 224])
    """
    numbers = torch.arange(cells)
    return numbers if frame == "absolute" else (2 * numbers + 1) * FRAME // (2 * cells)


def at_places(values: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """What holds for the parts of an image, at relative places in it.

    Args:
        values: one for each part, shape `(n, n)`; or a scalar, which holds for all of it.
        rows: integer places, see `axis_places`.
        columns: likewise.

    Returns:
        A scalar, or the broadcast shape of the places.

    Example:
        >>> corners = torch.tensor([[1, 2], [3, 4]])
        >>> at_places(corners, torch.tensor([0, 200]), torch.tensor([255])).tolist()
        [2, 4]
    """
    if values.ndim == 0:
        return values
    return values[rows * len(values) // FRAME, columns * len(values) // FRAME]


def axis_encoding(length: int, channels: int, *, stride: int | None = None) -> Tensor:
    """Sinusoidal encoding of the places `0 .. length - 1` along one axis.

    Args:
        length: number of places.
        channels: width of the encoding; even.
        stride: of the level where places are relative, so that the encoding of a cell is that of
            its position `p` in an image of `FRAME` pixels; unset, places are positions.

    Returns:
        Shape `(length, channels)`, in `[-1, 1]`: channel `2i` is `sin(p * w_i)` and channel
        `2i + 1` is `cos(p * w_i)`, with `w_i = exp(-2i * ln(10000) / channels)`.

    Example:
        >>> axis_encoding(3, 4)[0].tolist()
        [0.0, 1.0, 0.0, 1.0]
    """
    even = torch.arange(0, channels, 2, dtype=torch.float64)
    frequency = torch.exp(-even * math.log(10000.0) / channels)
    position = torch.arange(length, dtype=torch.float64)
    if stride is not None:
        position = position / stride - 0.5
    angle = position[:, None] * frequency
    return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(1).float()


def position_encoding(height: int, width: int, channels: int) -> Tensor:
    """2-D sinusoidal encoding of every position of a map.

    Args:
        height: rows of the map.
        width: columns of the map.
        channels: width `P` of the encoding, a multiple of 4; the first half encodes the column,
            the second the row.

    Returns:
        Shape `(height, width, channels)`, in `[-1, 1]`.

    References:
        Gudovskiy et al., CFLOW-AD, WACV 2022, Sec. 4.2.
    """
    columns = axis_encoding(width, channels // 2)[None, :, :].expand(height, -1, -1)
    rows = axis_encoding(height, channels // 2)[:, None, :].expand(-1, width, -1)
    return torch.cat((columns, rows), dim=-1)
