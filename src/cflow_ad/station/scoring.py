"""Score pictures as they come: on a CPU one in each core, on a GPU those that come together.

A score does not depend on what else is scored: on a CPU each picture is computed by itself, and on
a GPU all in a batch have one shape.
"""

from __future__ import annotations

import hashlib
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cflow_ad.data.arrays import ArrayImage
from cflow_ad.data.encoded import EncodedImage
from cflow_ad.errors import CflowError, ImageError
from cflow_ad.process import usable_cores
from cflow_ad.scoring.base import BaseDetector, Scored
from cflow_ad.scoring.canvas import Canvas
from cflow_ad.scoring.prediction import Prediction
from cflow_ad.station.drift.measures import compute_measures

Result = TypeVar("Result")

_THUMBNAIL = 8  # pixels of either side of the vector of a model that gives none
_GPU_BATCH = 32


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Outcome:
    """What was found in a picture."""

    prediction: Prediction
    vector: bytes
    """float16."""
    measures: dict[str, float]
    sha256: str
    """Of the picture's file."""
    pixels: NDArray[Any]
    """As decoded, shape `(H, W, 3)`, 0 to 255."""
    score_ms: float
    """From the begin of decoding to the verdict."""


class QueueFullError(CflowError):
    """As many pictures wait as may; the client may ask again."""


class ScorerPool:
    """Threads that score.

    Args:
        workers: how many, on a CPU; unset, one for each core.
        limit: pictures that may wait or be scored at the same time.
        max_pixels: of a picture.
        gather: seconds that a picture may wait for others, on a GPU.
    """

    def __init__(
        self,
        *,
        workers: int | None,
        limit: int,
        max_pixels: int,
        gather: float = 0.005,
    ) -> None:
        workers = workers or usable_cores()
        self.limit = limit
        self._max_pixels = max_pixels
        # One thread more than compute, which writes its picture to the disk meanwhile.
        self._pool = _build_pool(workers + 1)
        self._cores = threading.Semaphore(workers)
        self._lock = threading.Lock()
        self._waiting: dict[Future[Any], float] = {}
        self._gpu = _GpuThread(gather)

    def submit(
        self, work: Callable[..., Result], *args: Any, is_extra: bool = False
    ) -> Future[Result]:
        """Call a function in one of the threads.

        Args:
            work: the function.
            args: its arguments.
            is_extra: it comes from the page and not from the line: a quarter of the places is
                not for it.

        Raises:
            QueueFullError: too many wait already.
        """
        limit = self.limit * 3 // 4 if is_extra else self.limit
        with self._lock:
            if len(self._waiting) >= max(1, limit):
                n = len(self._waiting)
                raise QueueFullError(
                    f"{n} images wait already; try again soon", code="inspect.queue", n=n
                )
            future = self._pool.submit(work, *args)
            self._waiting[future] = time.monotonic()
        future.add_done_callback(self._forget)
        return future

    def score(self, detector: BaseDetector, data: bytes, name: str = "the image") -> Outcome:
        """Score an image file, in this thread, which should be one of the pool.

        Args:
            detector: of the model.
            data: the file's bytes.
            name: of the image, in errors.

        Raises:
            ImageError: the image cannot be used.
        """
        image = EncodedImage(data, name)
        with self._cores:
            began = time.monotonic()
            try:
                height, width = image.shape(detector.reading)
                if height * width > self._max_pixels:
                    raise ImageError(
                        f"{name}: it has {height} x {width} pixels, more than the "
                        f"{self._max_pixels:,} that this station takes; shrink it",
                        code="image.pixels",
                        name=name,
                        height=height,
                        width=width,
                        limit=self._max_pixels,
                    )
                pixels = detector.pixels_of(image)
                canvas = detector.view.prepare(ArrayImage(pixels, scale=255))
                scored = self._run_network(detector, canvas)
            except ImageError as error:
                text = str(error).replace("the image array", name)
                values = {**error.values, "name": name}
                raise ImageError(text, code=error.code, **values) from error
            return Outcome(
                prediction=scored.prediction,
                vector=_vector(scored, canvas),
                measures=compute_measures(pixels),
                sha256=hashlib.sha256(data).hexdigest(),
                pixels=pixels,
                score_ms=1000 * (time.monotonic() - began),
            )

    @property
    def waiting(self) -> int:
        """Pictures that wait or are scored."""
        return len(self._waiting)

    @property
    def longest_wait(self) -> float:
        """Seconds that the oldest of them has waited."""
        with self._lock:
            now = time.monotonic()
            return now - min(self._waiting.values(), default=now)

    def close(self) -> None:
        """Finish what was begun, and stop."""
        self._pool.shutdown(wait=True)
        self._gpu.close()

    def _forget(self, future: Future[Any]) -> None:
        with self._lock:
            self._waiting.pop(future, None)

    def _run_network(self, detector: BaseDetector, canvas: Canvas) -> Scored:
        if detector.on_gpu:
            return self._gpu.submit(detector, canvas).result()
        return detector.score_canvases([canvas])[0]


class _GpuThread:
    """The one thread that runs networks on a GPU: canvases that come together go together."""

    def __init__(self, gather: float) -> None:
        self._gather = gather
        self._queue: queue.Queue[tuple[BaseDetector, Canvas, Future[Scored]] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work, name="gpu", daemon=True)
        self._thread.start()

    def submit(self, detector: BaseDetector, canvas: Canvas) -> Future[Scored]:
        """Score a canvas."""
        future: Future[Scored] = Future()
        self._queue.put((detector, canvas, future))
        return future

    def close(self) -> None:
        """Stop."""
        self._queue.put(None)
        self._thread.join(timeout=10)

    def _work(self) -> None:
        while (first := self._queue.get()) is not None:
            batch, until = [first], time.monotonic() + self._gather
            while len(batch) < _GPU_BATCH:
                try:
                    item = self._queue.get(timeout=max(0.0, until - time.monotonic()))
                except queue.Empty:
                    break
                if item is None:
                    self._queue.put(None)
                    break
                batch.append(item)
            groups: dict[Any, list[tuple[BaseDetector, Canvas, Future[Scored]]]] = {}
            for item in batch:
                pixels = item[1].pixels
                groups.setdefault((id(item[0]), pixels.shape, pixels.dtype), []).append(item)
            for group in groups.values():
                self._run(group)

    def _run(self, group: list[tuple[BaseDetector, Canvas, Future[Scored]]]) -> None:
        try:
            found = group[0][0].score_canvases([canvas for _, canvas, _ in group])
        except Exception as error:
            for *_, future in group:
                future.set_exception(error)
        else:
            for (*_, future), scored in zip(group, found, strict=True):
                future.set_result(scored)


def _vector(scored: Scored, canvas: Canvas) -> bytes:
    """The encoder's mean vector; for an exported model, the picture shrunk to a few pixels."""
    if scored.vector is not None:
        return scored.vector.astype(np.float16).tobytes()
    height, width = canvas.valid
    small = Image.fromarray(np.clip(canvas.pixels[:height, :width], 0, 255).astype(np.uint8))
    tiny = small.resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BOX)
    values: NDArray[np.float32] = np.asarray(tiny, np.float32).ravel()
    return (values / max(1.0, float(np.linalg.norm(values)))).astype(np.float16).tobytes()


def _build_pool(workers: int) -> ThreadPoolExecutor:
    """Threads that compute on one core each, where torch is there to be told so."""
    try:
        from cflow_ad.cflow.threads import one_core_pool
    except ModuleNotFoundError:
        return ThreadPoolExecutor(workers, thread_name_prefix="scorer")
    return one_core_pool(workers)
