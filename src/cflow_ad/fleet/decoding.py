"""Decode and size images apart from scoring them: in threads, or in Ray tasks of any machine."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cflow_ad.data.decoding.raster import Reading
from cflow_ad.data.encoded import EncodedImage
from cflow_ad.data.images import AS_STORED, ComputedImage, ImageSource
from cflow_ad.errors import ImageError
from cflow_ad.fleet.reading import Item
from cflow_ad.scoring.canvas import Canvas, Shape
from cflow_ad.scoring.view import View

TOGETHER = 8
"""Images of one Ray task: their canvases are a few MiB."""


class Source(ComputedImage):
    """An image of an archive, which is decoded when it is needed.

    Args:
        item: its file.
        canvas: the network's input, where it was made already; or why it could not be.
    """

    def __init__(self, item: Item, canvas: Canvas | str | None = None) -> None:
        self.item = item
        self.canvas = canvas
        self._encoded = EncodedImage(item.data, item.name)

    @property
    def name(self) -> str:
        return self.item.name

    def shape(self, reading: Reading = AS_STORED) -> Shape:
        if isinstance(self.canvas, Canvas):
            return self.canvas.original
        self._require()
        return self._encoded.shape(reading)

    def pixels(self, reading: Reading = AS_STORED) -> NDArray[Any]:
        self._require()
        return self._encoded.pixels(reading)

    def _require(self) -> None:
        if isinstance(self.canvas, str):
            raise ImageError(self.canvas)
        if self.item.error:
            raise ImageError(self.item.error)


class ReadyView(View):
    """A view for images whose canvas was made elsewhere, by the view that this is made from."""

    @classmethod
    def from_view(cls, view: View) -> ReadyView:
        """Build it from the view of a model."""
        return cls(**{each.name: getattr(view, each.name) for each in dataclasses.fields(view)})

    def prepare(self, source: ImageSource) -> Canvas:
        if isinstance(source, Source) and isinstance(source.canvas, Canvas):
            return source.canvas
        return super().prepare(source)


def decode(items: Iterable[Item], view: View) -> list[Canvas | str]:
    """Make the network's input of images; where that fails, return why."""
    made: list[Canvas | str] = []
    for item in items:
        try:
            made.append(view.prepare(Source(item)))
        except ImageError as error:
            made.append(str(error))
    return made


def decode_in_threads(items: Iterable[Item], view: View, threads: int) -> Iterator[Source]:
    """Decode images in threads of this process, ahead of their use and in order."""
    pool = ThreadPoolExecutor(threads)
    try:
        yield from _in_order(
            ([item] for item in items),
            lambda some: pool.submit(decode, some, view),
            lambda future: future.result(),
            2 * threads,
        )
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def decode_on_ray(items: Iterable[Item], view: View, tasks: int) -> Iterator[Source]:
    """Decode images in Ray tasks of one core each, wherever one is free, and in order.

    Ray runs a task again whose machine is lost.
    """
    import ray

    remote = ray.remote(num_cpus=1, max_retries=-1)(decode)
    shared = ray.put(view)
    source = iter(items)
    batches = iter(lambda: list(islice(source, TOGETHER)), [])
    yield from _in_order(batches, lambda some: remote.remote(some, shared), ray.get, tasks + 1)


def _in_order(
    batches: Iterable[list[Item]],
    submit: Callable[[list[Item]], Any],
    result: Callable[[Any], list[Canvas | str]],
    most: int,
) -> Iterator[Source]:
    pending: deque[tuple[list[Item], Any]] = deque()

    def first() -> Iterator[Source]:
        items, handle = pending.popleft()
        for item, canvas in zip(items, result(handle), strict=True):
            # The encoded bytes are not needed any more.
            yield Source(item._replace(data=b""), _owned(canvas))

    for batch in batches:
        pending.append((batch, submit(batch)))
        if len(pending) >= most:
            yield from first()
    while pending:
        yield from first()


def _owned(canvas: Canvas | str) -> Canvas | str:
    """A canvas whose pixels can be written; those from Ray's shared memory cannot."""
    if isinstance(canvas, str) or canvas.pixels.flags.writeable:
        return canvas
    return dataclasses.replace(canvas, pixels=np.array(canvas.pixels))
