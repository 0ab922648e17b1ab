"""Prepare images in threads, ahead of their use, and return them in batches of one shape."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cflow_ad.data.images import ImageSource, image_shape
from cflow_ad.data.parallel import ROOM, OnError, work_ahead
from cflow_ad.errors import ImageError
from cflow_ad.process import usable_cores
from cflow_ad.scoring.canvas import Canvas
from cflow_ad.scoring.view import View

_AHEAD = 8  # images prepared beyond the batch that is waited for


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Images of one canvas shape."""

    sources: tuple[ImageSource, ...]
    canvases: tuple[Canvas, ...]

    @property
    def pixels(self) -> NDArray[Any]:
        """The canvases stacked, shape `(B, H, W, 3)`; float32 where any of them is."""
        return np.stack([canvas.pixels for canvas in self.canvases])


def load_batches(
    sources: Iterable[ImageSource], view: View, *, batch_size: int, on_error: OnError | None = None
) -> Iterator[Batch]:
    """Prepare images in order, ahead of the consumer.

    Args:
        sources: Paths, Pillow images or arrays; consumed no further ahead than needed.
        view: Prepares them.
        batch_size: The most images in a batch, at least 1; a change of canvas shape ends a batch
            early.
        on_error: Called with an image that cannot be used and its error; the image is left out.

    Raises:
        ImageError: An image cannot be used and `on_error` is unset.
    """
    waiting: list[tuple[ImageSource, Canvas]] = []
    prepared = work_ahead(
        sources,
        view.prepare,
        workers=min(4, usable_cores()),
        ahead=_AHEAD + batch_size,
        size=lambda source: canvas_pixels(source, view),
        on_error=on_error,
    )
    for item in prepared:
        if waiting and waiting[0][1].pixels.shape != item[1].pixels.shape:
            yield Batch(*zip(*waiting, strict=True))
            waiting = []
        waiting.append(item)
        if len(waiting) >= min(batch_size, max(1, ROOM // math.prod(item[1].shape))):
            yield Batch(*zip(*waiting, strict=True))
            waiting = []
    if waiting:
        yield Batch(*zip(*waiting, strict=True))


def canvas_pixels(source: ImageSource, view: View) -> int:
    """Return how many pixels an image's canvas has; 0 where only decoding would show it."""
    sizing = view.sizing
    if sizing.mode not in ("native", "longest"):
        return math.prod(sizing.canvas_shape((sizing.height, sizing.width)))  # at most
    try:
        return math.prod(sizing.canvas_shape(image_shape(source, view.reading)))
    except ImageError:
        return 0  # decoding will report it
