"""Decode images ahead of their use, in threads, and hand them on in batches of one shape."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cflow_ad.data.images import ImageSource, as_image
from cflow_ad.data.sizing import Canvas, Sizing
from cflow_ad.errors import ImageError, SettingsError

_AHEAD = 8  # images prepared beyond the batch that is waited for

OnError = Callable[[ImageSource, ImageError], None]


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Images of one canvas shape."""

    sources: tuple[ImageSource, ...]
    canvases: tuple[Canvas, ...]

    @property
    def pixels(self) -> NDArray[Any]:
        """The canvases stacked, shape `(B, H, W, 3)`."""
        return np.stack([canvas.pixels for canvas in self.canvases])


def load_batches(
    sources: Iterable[ImageSource],
    sizing: Sizing,
    *,
    batch_size: int,
    on_error: OnError | None = None,
) -> Iterator[Batch]:
    """Prepare images in order, ahead of the consumer.

    Args:
        sources: paths, Pillow images or arrays; consumed no further ahead than needed.
        sizing: how they come into the network.
        batch_size: the most images in a batch, at least 1; a change of canvas shape ends a batch
            early.
        on_error: called with an image that cannot be used, which is then left out; unset, the
            error is raised.

    Raises:
        ImageError: an image cannot be used and `on_error` is unset.
        SettingsError: `batch_size` is below 1.
    """
    if batch_size < 1:
        raise SettingsError(f"batch_size is {batch_size}: it must be at least 1")
    waiting: list[tuple[ImageSource, Canvas]] = []
    for item in _prepared(sources, sizing, ahead=_AHEAD + batch_size, on_error=on_error):
        if waiting and waiting[0][1].pixels.shape != item[1].pixels.shape:
            yield _batch(waiting)
            waiting = []
        waiting.append(item)
        if len(waiting) == batch_size:
            yield _batch(waiting)
            waiting = []
    if waiting:
        yield _batch(waiting)


def _prepared(
    sources: Iterable[ImageSource], sizing: Sizing, *, ahead: int, on_error: OnError | None
) -> Iterator[tuple[ImageSource, Canvas]]:
    pool = ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1))
    pending: deque[tuple[ImageSource, Future[Canvas]]] = deque()

    def finish_first() -> Iterator[tuple[ImageSource, Canvas]]:
        source, future = pending.popleft()
        try:
            canvas = future.result()
        except ImageError as error:
            if on_error is None:
                raise
            on_error(source, error)
        else:
            yield source, canvas

    try:
        for source in sources:
            pending.append((source, pool.submit(_prepare, source, sizing)))
            if len(pending) > ahead:
                yield from finish_first()
        while pending:
            yield from finish_first()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _prepare(source: ImageSource, sizing: Sizing) -> Canvas:
    return sizing.prepare(as_image(source))


def _batch(items: Sequence[tuple[ImageSource, Canvas]]) -> Batch:
    sources, canvases = zip(*items, strict=True)
    # uint8 and float32 images may meet in a batch; stacking makes them float32.
    return Batch(sources, canvases)
