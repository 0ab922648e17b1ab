"""The condition of the flow: where on the feature map a vector was taken.

The 2-D sinusoidal encoding of CFLOW-AD (Gudovskiy et al., WACV 2022, Sec. 4.2) is the encoding of
the column followed by the encoding of the row. A linear layer applied to it is therefore a term of
the column plus a term of the row, and needs computing only `H + W` times for an `H x W` map, never
once per vector.
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
    """Number the places of the positions along one axis of an image.

    Args:
        cells: how many positions.
        frame: `absolute` numbers them from 0, as the paper does; `relative` gives the pixel on
            which each one's centre lies in the image scaled to `FRAME` pixels.

    Returns:
        Integers, shape `(cells,)`.

    Example:
        >>> axis_places(4, "absolute").tolist(), axis_places(4, "relative").tolist()
        ([0, 1, 2, 3], [32, 96, 160, 224])
    """
    numbers = torch.arange(cells)
    return numbers if frame == "absolute" else (2 * numbers + 1) * FRAME // (2 * cells)


def at_places(values: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Look up a value of each part of an image at relative places in it.

    Args:
        values: one for each part, shape `(n, n)`; or a scalar, the same for all.
        rows: integer places, see `axis_places`.
        columns: integer places.

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


def encode_axis(places: Tensor, channels: int, *, stride: int | None = None) -> Tensor:
    """Encode places along one axis by sines and cosines.

    Args:
        places: integers, shape `(n,)`, as `axis_places` numbers them.
        channels: width of the encoding; even.
        stride: of the level where places are relative, so that the encoding is that of the
            position `p` in an image of `FRAME` pixels; unset, places are positions.

    Returns:
        Shape `(n, channels)`, in `[-1, 1]`: channel `2i` is `sin(p * w_i)` and channel
        `2i + 1` is `cos(p * w_i)`, with `w_i = exp(-2i * ln(10000) / channels)`.

    Example:
        >>> encode_axis(torch.arange(3), 4)[0].tolist()
        [0.0, 1.0, 0.0, 1.0]
    """
    even = torch.arange(0, channels, 2, dtype=torch.float64, device=places.device)
    frequency = torch.exp(-even * math.log(10000.0) / channels)
    position = places.double()
    if stride is not None:
        position = position / stride - 0.5
    angle = position[:, None] * frequency
    return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(1).float()


def encode(rows: Tensor, columns: Tensor, channels: int, *, stride: int | None = None) -> Tensor:
    """Encode positions: the condition of the flow.

    Args:
        rows: integer places, see `axis_places`; they broadcast with the columns.
        columns: integer places.
        channels: `P`, width of the encoding; a multiple of 4.
        stride: as for `encode_axis`.

    Returns:
        Shape `(..., P)`: the encoding of the column, then that of the row.

    Example:
        >>> encode(torch.arange(2)[:, None], torch.arange(3), 8).shape
        torch.Size([2, 3, 8])
    """
    # Each place is encoded once, however many vectors lie there.
    number = FRAME if stride is not None else int(max(rows.max(), columns.max())) + 1
    table = encode_axis(torch.arange(number, device=rows.device), channels // 2, stride=stride)
    rows, columns = torch.broadcast_tensors(rows, columns)  # type: ignore[no-untyped-call]
    return torch.cat((table[columns], table[rows]), dim=-1)
