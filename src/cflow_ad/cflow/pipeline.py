"""Run a network on an accelerator over a stream of images, all parts of the machine at work.

While one batch is computed, the images of the next are decoded and resized on the CPU's threads and
sent, and the results of the one before come back and are finished on those threads. Every batch of
a canvas size has one number of images, empty places included, so that an image's values do not
depend on how many others there are. One image alone goes alone.
"""

from __future__ import annotations

import math
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from functools import cache
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from cflow_ad.cflow.device import Lane, give_memory_back, is_out_of_memory, one_line_errors
from cflow_ad.cflow.threads import one_core_pool
from cflow_ad.data.images import ImageSource
from cflow_ad.data.parallel import ROOM, OnError, OwnThread, work_ahead
from cflow_ad.errors import DeviceWarning
from cflow_ad.scoring.canvas import Canvas
from cflow_ad.scoring.loading import canvas_pixels
from cflow_ad.scoring.view import View

Result = TypeVar("Result")
Extra = Callable[[list[Tensor], Sequence[Canvas]], list[Tensor]]

_BUFFERS = 4  # kept for later batches
_RUNNING = 2  # batches on the device at once, of which one is computed
_ORIGINALS = 2**26  # pixels of the images of a batch as they came, whose maps come back together


class _Batch(NamedTuple):
    """A batch that the device computes."""

    sources: Sequence[ImageSource]
    canvases: Sequence[Canvas]
    pixels: Tensor
    """In page-locked memory, which is used again."""
    held: list[Tensor]
    """On the device, until all work with it is done."""
    levels: list[Tensor]
    """On the host, once `arrived`."""
    extra: list[Tensor]
    """On the host, once `arrived`; one for each image, or none."""
    arrived: Any


class _Member(NamedTuple):
    """One image of a batch."""

    batch: _Batch
    number: int

    @property
    def source(self) -> ImageSource:
        return self.batch.sources[self.number]

    def finish(self, finish: Callable[[Canvas, list[Tensor]], Result]) -> Result:
        batch, number = self
        tensors = [level[number] for level in batch.levels] + batch.extra[number : number + 1]
        # In memory of their own: a result may be kept, and page-locked memory is scarce.
        return finish(batch.canvases[number], [of.clone() for of in tensors])


def run_on_accelerator(
    network: Callable[[Tensor], list[Tensor]],
    finish: Callable[[Canvas, list[Tensor]], Result],
    sources: Iterable[ImageSource],
    view: View,
    *,
    device: torch.device,
    batch_size: int,
    extra: Extra | None = None,
    on_error: OnError | None = None,
) -> Iterator[tuple[ImageSource, Result]]:
    """Run a network over images, as `running.run_over`.

    Where the device's memory runs out, batches are halved, with one warning.
    """
    workers = torch.get_num_threads()
    if isinstance(sources, Sized):
        workers = max(1, min(workers, len(sources)))
    prepared = work_ahead(
        sources,
        view.prepare,
        workers=workers,
        ahead=2 * workers + batch_size,
        size=lambda source: canvas_pixels(source, view),
        on_error=on_error,
    )
    batches = _Runner(network, extra, device, batch_size).run(prepared)
    finished = work_ahead(
        (_Member(batch, number) for batch in batches for number in range(len(batch.sources))),
        lambda member: member.finish(finish),
        workers=workers,
        ahead=2 * batch_size if workers > 1 else 0,
        on_error=on_error and (lambda member, error: on_error(member.source, error)),
        build_pool=one_core_pool if workers > 1 else lambda workers: OwnThread(),
    )
    return ((member.source, result) for member, result in finished)


class _Runner:
    """Runs batches on the device, two at a time."""

    def __init__(
        self,
        network: Callable[[Tensor], list[Tensor]],
        extra: Extra | None,
        device: torch.device,
        batch_size: int,
    ) -> None:
        self._network, self._extra, self._device = network, extra, device
        self._queues = _queues_of(device)
        self._most = batch_size
        self._running: deque[_Batch] = deque()
        self._has_warned = False

    def run(self, prepared: Iterable[tuple[ImageSource, Canvas]]) -> Iterator[_Batch]:
        """Compute all images, batch by batch."""
        with one_line_errors(self._device):
            for images in self._group(prepared):
                yield from self._submit(images)
            while self._running:
                yield self._finish_oldest()

    def _group(
        self, prepared: Iterable[tuple[ImageSource, Canvas]]
    ) -> Iterator[list[tuple[ImageSource, Canvas]]]:
        """Join neighbouring images of one canvas size."""
        waiting: list[tuple[ImageSource, Canvas]] = []
        for item in prepared:
            canvas = item[1]
            if waiting and not (
                waiting[0][1].pixels.shape == canvas.pixels.shape
                and waiting[0][1].pixels.dtype == canvas.pixels.dtype
                and sum(math.prod(other.original) for _, other in waiting) < _ORIGINALS
            ):
                yield waiting
                waiting = []
            waiting.append(item)
            if len(waiting) >= self._places(canvas):
                yield waiting
                waiting = []
        if waiting:
            yield waiting

    def _places(self, canvas: Canvas) -> int:
        """Count the images of a full batch."""
        return min(self._most, max(1, ROOM // math.prod(canvas.shape)))

    def _submit(self, images: Sequence[tuple[ImageSource, Canvas]]) -> Iterator[_Batch]:
        """Start the work on images, in several batches where memory runs out for one."""
        most = self._places(images[0][1])
        if len(images) > most:
            for start in range(0, len(images), most):
                yield from self._submit(images[start : start + most])
            return
        try:
            self._running.append(self._start(images))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        else:
            while len(self._running) >= _RUNNING:
                yield self._finish_oldest()
            return
        while self._running:  # their memory is needed
            yield self._finish_oldest()
        give_memory_back(self._device)
        if len(images) == 1:
            self._running.append(self._start(images))
            return
        self._halve(most)
        yield from self._submit(images)

    def _halve(self, places: int) -> None:
        self._most = places // 2
        if not self._has_warned:
            self._has_warned = True
            warnings.warn(
                f"device {self._device}: its memory is too small for {places} images at once; "
                f"going on with {self._most}",
                DeviceWarning,
                stacklevel=2,
            )

    @torch.no_grad()
    def _start(self, images: Sequence[tuple[ImageSource, Canvas]]) -> _Batch:
        sources, canvases = zip(*images, strict=True)
        count = len(canvases)
        up, compute, down, buffers = self._queues
        pixels = buffers.take(1 if count == 1 else self._places(canvases[0]), canvases[0])
        for number, canvas in enumerate(canvases):
            pixels[number].copy_(torch.from_numpy(canvas.pixels))
        with up.after():
            sent = pixels.to(self._device, non_blocking=True)
            mark = up.mark()
        with compute.after(mark):
            levels = self._network(sent)
            extra = [] if self._extra is None else self._extra(levels, canvases)
            levels = [level[:count] for level in levels]
            mark = compute.mark()
        with down.after(mark):
            levels_back, extra_back = (
                [of.to("cpu", non_blocking=True) for of in some] for some in (levels, extra)
            )
            mark = down.mark()
        held = [sent, *levels, *extra]
        return _Batch(sources, canvases, pixels, held, levels_back, extra_back, mark)

    def _finish_oldest(self) -> _Batch:
        batch = self._running.popleft()
        if batch.arrived is not None:
            batch.arrived.synchronize()
        self._queues.buffers.give(batch.pixels)
        return batch


class _Buffers:
    """Memory for batches of pixels on their way to a device, page-locked, which is used again."""

    def __init__(self, device: torch.device) -> None:
        self._is_locked = device.type in ("cuda", "xpu")
        self._free: deque[Tensor] = deque(maxlen=_BUFFERS)
        self._lock = threading.Lock()

    def take(self, places: int, canvas: Canvas) -> Tensor:
        """Find memory that is not in use for canvases like this one, or take some more."""
        shape = (places, *canvas.pixels.shape)
        dtype = torch.from_numpy(canvas.pixels).dtype
        with self._lock:
            for number, tensor in enumerate(self._free):
                if tensor.shape == shape and tensor.dtype == dtype:
                    del self._free[number]
                    return tensor
        return torch.zeros(shape, dtype=dtype, pin_memory=self._is_locked)

    def give(self, tensor: Tensor) -> None:
        """Put memory back, once its pixels are on the device."""
        with self._lock:
            self._free.append(tensor)


class _Queues(NamedTuple):
    """What a device does at the same time, and the memory of what is sent to it."""

    up: Lane
    compute: Lane
    down: Lane
    buffers: _Buffers


@cache
def _queues_of(device: torch.device) -> _Queues:
    """The queues of a device, the same for all threads: libraries have a workspace in each lane."""
    return _Queues(Lane(device), Lane(device), Lane(device), _Buffers(device))
