"""The means of good vectors at each place of an image.

Where parts lie alike in all images, vectors differ mostly by their place. The flow would have to
learn this from the position by gradient descent; the means have a closed form. Images of different
aspect ratios mostly show different parts, so each ratio has means of its own, shrunk towards those
of all images, the more so the fewer images have it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cflow_ad.cflow.position import FRAME, axis_places

STEPS = 8
"""Aspect ratios that have means of their own, to each doubling of height over width."""

_WHOLE = slice(None)


class PlaceMeans(nn.Module):
    """Mean vectors by place and aspect ratio, between which both are interpolated.

    Args:
        tables: shape `(K + 1, n, n, C)`: of `n x n` parts of an image, first for images of any
            other aspect ratio, then for each of `aspects`.
        aspects: whole numbers, shape `(K,)`, as `aspect_of` counts them.
    """

    tables: Tensor
    aspects: Tensor

    def __init__(self, tables: Tensor, aspects: Tensor) -> None:
        super().__init__()
        self.register_buffer("tables", tables)
        self.register_buffer("aspects", aspects)

    def forward(self, height: int, width: int, rows: slice = _WHOLE) -> Tensor:
        """Interpolate the means at every position of a map of `height x width` positions, or of
        some of its rows, shape `(h, w, C)`.
        """
        places = [axis_places(side, "relative").to(self.tables.device) for side in (height, width)]
        # Counted by tensors, since sides may be unknown until an exported graph runs.
        tall, wide = (torch.ones_like(of, dtype=torch.float32).sum() for of in places)
        n = self.tables.shape[1]
        share = shares(STEPS * (tall / wide).log2(), self.aspects)
        # Not tensordot: the ONNX exporter takes the product wrongly where there are n tables.
        mixed = share[None].to(self.tables) @ self.tables.flatten(1)
        mixed = mixed.view(self.tables.shape[1:])
        first, second, nearness = _between(places[0][rows], n)
        along = torch.lerp(mixed[first], mixed[second], nearness[:, None, None])
        first, second, nearness = _between(places[1], n)
        return torch.lerp(along[:, first], along[:, second], nearness[:, None])

    def of_vectors(self, aspects: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Interpolate the means of vectors from anywhere, shape `(m, C)`.

        Of each vector are given its image's aspect ratio, and row and column as relative places,
        integers, all of shape `(m,)`.
        """
        n = self.tables.shape[1]
        which, near = nearest(aspects, self.aspects)
        cells, share = corners(rows, columns, n)
        indices = (which[:, :, None] * n * n + cells[:, None]).flatten(1)
        weights = (near[:, :, None] * share[:, None]).flatten(1)
        return F.embedding_bag(
            indices, self.tables.flatten(0, 2), per_sample_weights=weights, mode="sum"
        )

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *arguments: Any
    ) -> None:
        # How many aspect ratios there are is in the tensors alone; all else must be as expected.
        tables, aspects = (state_dict.get(prefix + name) for name in ("tables", "aspects"))
        if tables is not None and aspects is not None and len(tables) == len(aspects) + 1:
            self.tables = self.tables.new_empty(len(tables), *self.tables.shape[1:])
            self.aspects = self.aspects.new_empty(len(aspects))
        super()._load_from_state_dict(state_dict, prefix, *arguments)


def aspect_of(height: float, width: float) -> float:
    """Height over width, as the logarithm in which `STEPS` are a doubling.

    Example:
        >>> aspect_of(64, 32), aspect_of(96, 96)
        (8.0, 0.0)
    """
    return STEPS * math.log2(height / width)


def shares(aspect: Tensor, aspects: Tensor) -> Tensor:
    """What each table counts for at an aspect ratio.

    Args:
        aspect: a scalar.
        aspects: shape `(K,)`, whole numbers.

    Returns:
        Shape `(K + 1,)`, summing to 1: the two nearest `aspects` less than 1 away; what is left
        falls to the first table.
    """
    further = aspect - aspects
    # Not abs: in a graph for one canvas OpenVINO leaves it out, even of a negative number.
    near = torch.minimum(1 - further, 1 + further).clamp(min=0)
    return torch.cat((1 - near.sum(0, keepdim=True), near))


def nearest(aspect: Tensor, aspects: Tensor) -> tuple[Tensor, Tensor]:
    """`shares` without those that are 0.

    Args:
        aspect: shape `(m,)`.
        aspects: shape `(K,)`, at least one, whole numbers in rising order.

    Returns:
        Numbers of tables and their shares, shape `(m, 2)` each.
    """
    low = aspect.floor()
    wanted = torch.stack((low, low + 1), dim=1)
    share = torch.stack((low + 1 - aspect, aspect - low), dim=1)
    number = torch.searchsorted(aspects, wanted).clamp(max=len(aspects) - 1)
    return torch.where(aspects[number] == wanted, number + 1, 0), share


def corners(rows: Tensor, columns: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """The four of `n x n` parts whose centres are around each place, and their bilinear shares.

    Args:
        rows: relative places, integers, shape `(m,)`.
        columns: likewise.
        n: parts along either side.

    Returns:
        Numbers of parts, row by row, and shares, shape `(m, 4)` each.
    """
    top, bottom, down = _between(rows, n)
    left, right, across = _between(columns, n)
    cells = torch.stack((top * n + left, top * n + right, bottom * n + left, bottom * n + right), 1)
    up, back = 1 - down, 1 - across
    return cells, torch.stack((up * back, up * across, down * back, down * across), dim=1)


def _between(places: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """The parts whose centres a place lies between, and how far it is on the way to the second."""
    position = (places * (n / FRAME) - 0.5).clamp(0, n - 1)  # as in `encode_axis`
    first = position.floor().long()
    return first, (first + 1).clamp(max=n - 1), position - first
