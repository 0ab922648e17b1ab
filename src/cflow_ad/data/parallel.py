"""Process images in threads, ahead of the consumer, within a bound on memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, TypeVar

from cflow_ad.data.images import ImageSource
from cflow_ad.errors import ImageError

ROOM = 20_000_000
"""The most pixels of canvases in work or waiting at the same time; a larger image is alone."""

Item = TypeVar("Item")
Result = TypeVar("Result")
OnError = Callable[[ImageSource, ImageError], None]


def work_ahead(
    items: Iterable[Item],
    work: Callable[[Item], Result],
    *,
    workers: int,
    ahead: int,
    size: Callable[[Item], int] = lambda item: 0,
    on_error: Callable[[Item, ImageError], None] | None = None,
    build_pool: Callable[[int], Executor] = ThreadPoolExecutor,
) -> Iterator[tuple[Item, Result]]:
    """Process each image in threads, ahead of the consumer.

    Args:
        items: The images, or what is known of each; consumed no further ahead than needed.
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
    pending: deque[tuple[Item, Future[Result], int]] = deque()

    def finish_first() -> Iterator[tuple[Item, Result]]:
        item, future, _ = pending.popleft()
        try:
            result = future.result()
        except ImageError as error:
            if on_error is None:
                raise
            on_error(item, error)
        else:
            yield item, result

    try:
        for item in items:
            pixels = size(item)
            while pending and pixels + sum(taken for *_, taken in pending) > ROOM:
                yield from finish_first()
            pending.append((item, pool.submit(work, item), pixels))
            if len(pending) > ahead:
                yield from finish_first()
        while pending:
            yield from finish_first()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


class OwnThread(Executor):
    """Works in the thread that submits, at once: for a single image, which needs no other."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future
