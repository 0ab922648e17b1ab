"""Process images in threads, ahead of the consumer, within a bound on memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from cflow_ad.data.images import ImageSource
from cflow_ad.errors import ImageError

ROOM = 20_000_000
"""The most pixels of canvases in work or waiting at the same time; a larger image is alone."""

Result = TypeVar("Result")
OnError = Callable[[ImageSource, ImageError], None]


def work_ahead(
    sources: Iterable[ImageSource],
    work: Callable[[ImageSource], Result],
    *,
    workers: int,
    ahead: int,
    size: Callable[[ImageSource], int] = lambda source: 0,
    on_error: OnError | None = None,
    build_pool: Callable[[int], ThreadPoolExecutor] = ThreadPoolExecutor,
) -> Iterator[tuple[ImageSource, Result]]:
    """Process each image in threads, ahead of the consumer.

    Args:
        sources: The images; consumed no further ahead than needed.
        work: Processes one image.
        workers: Number of threads.
        ahead: The most images in work, or done and waiting for the consumer.
        size: Returns an image's size in pixels; those in work or waiting have at most `ROOM`.
        on_error: Called with an image that cannot be used and its error; the image is left out.
        build_pool: Builds a pool of that many threads.

    Yields:
        Each image and its result, in the order of the images.

    Raises:
        ImageError: An image cannot be used and `on_error` is unset.
    """
    pool = build_pool(workers)
    pending: deque[tuple[ImageSource, Future[Result], int]] = deque()

    def finish_first() -> Iterator[tuple[ImageSource, Result]]:
        source, future, _ = pending.popleft()
        try:
            result = future.result()
        except ImageError as error:
            if on_error is None:
                raise
            on_error(source, error)
        else:
            yield source, result

    try:
        for source in sources:
            pixels = size(source)
            while pending and pixels + sum(taken for *_, taken in pending) > ROOM:
                yield from finish_first()
            pending.append((source, pool.submit(work, source), pixels))
            if len(pending) > ahead:
                yield from finish_first()
        while pending:
            yield from finish_first()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
