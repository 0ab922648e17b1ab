"""Run a network over many images: decode, compute and finish at the same time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from typing import TypeVar, cast

import torch
from torch import Tensor

from cflow_ad.cflow.pipeline import Extra, run_on_accelerator
from cflow_ad.cflow.threads import one_core_pool
from cflow_ad.data.images import ImageSource
from cflow_ad.data.parallel import OnError, work_ahead
from cflow_ad.process import give_memory_back, usable_cores
from cflow_ad.scoring.canvas import Canvas
from cflow_ad.scoring.loading import canvas_pixels
from cflow_ad.scoring.view import View

Result = TypeVar("Result")

BATCH_SIZE = 32
"""Images at once on a GPU, where nothing else is said."""

LARGE = 2048 * 2048
"""An image of more pixels is computed by all cores, alone."""


def run_over(
    network: Callable[[Tensor], list[Tensor]],
    finish: Callable[[Canvas, list[Tensor]], Result],
    sources: Iterable[ImageSource],
    view: View,
    *,
    device: torch.device,
    batch_size: int = BATCH_SIZE,
    extra: Extra | None = None,
    on_error: OnError | None = None,
) -> Iterator[tuple[ImageSource, Result]]:
    """Run a network over images; the results come in the images' order.

    On a CPU each core has one image at a time, from its file to its result. That makes better use
    of the cores than sharing the work of one image among them, and makes a result bit for bit that
    of the image alone, whatever the number of cores: convolutions choose their algorithm by the
    size of the batch and the number of threads. Large images are computed one after another by all
    cores. On a GPU images go in batches, see `pipeline`.

    Args:
        network: pixels `(B, H, W, 3)` to one `(B, ...)` per level. Called from several threads.
        finish: makes the result of an image from its canvas and its levels, on the CPU.
        sources: as for `load_batches`.
        view: how they are brought to the network's input.
        device: where the network is.
        batch_size: the most images at once on a GPU.
        extra: on a GPU, computes one more tensor for each image from a batch's levels and the
            images' canvases; it is added to the levels that `finish` gets.
        on_error: as for `load_batches`.

    Raises:
        ImageError: an image cannot be used and `on_error` is unset.
        DeviceError: a GPU failed, or one image is too much for its memory.
    """
    if device.type != "cpu":
        yield from run_on_accelerator(
            network,
            finish,
            sources,
            view,
            device=device,
            batch_size=batch_size,
            extra=extra,
            on_error=on_error,
        )
        return

    def compute(canvas: Canvas) -> Result:
        with torch.no_grad():
            levels = network(torch.from_numpy(canvas.pixels)[None])
        return finish(canvas, [level[0] for level in levels])

    def work(source: ImageSource) -> tuple[Canvas | None, Result | None]:
        canvas = view.prepare(source)
        is_large = canvas.shape[0] * canvas.shape[1] > LARGE
        return (canvas, None) if is_large else (None, compute(canvas))

    workers = min(torch.get_num_threads(), usable_cores())
    if isinstance(sources, Sized):
        workers = max(1, min(workers, len(sources)))
    for source, (large, result) in work_ahead(
        sources,
        work,
        workers=workers,
        ahead=2 * workers,
        size=lambda source: canvas_pixels(source, view),
        on_error=on_error,
        build_pool=one_core_pool,
    ):
        if large is not None:  # in this thread, which has all cores
            result = compute(large)
            del large
            give_memory_back()
        yield source, cast(Result, result)
