"""Work that is repeated unchanged: on a CUDA device, one graph, launched at once.

A step of training and one image through a network are hundreds of small kernels, each of which
takes longer to launch than to run. A CUDA graph launches all of them together.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

_EAGER = 3  # runs before the capture: libraries set themselves up in the first ones


class Repeated:
    """Work on tensors that stay in their places, called again and again.

    The first calls run it as it is; then, on a CUDA device, it is captured, and later calls replay
    the capture. So it must read no value back, and find its input where it was. All calls must be
    made in one stream of work, which on a CUDA device must not be the default one.

    Args:
        work: what is repeated.
        device: where it runs.
        before_capture: called once, before the capture.
    """

    def __init__(
        self,
        work: Callable[[], object],
        device: torch.device,
        *,
        before_capture: Callable[[], object] = lambda: None,
    ) -> None:
        self._work = work
        self._before_capture = before_capture
        self._eager = _EAGER if device.type == "cuda" else -1
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        """Do the work once."""
        if self._graph is not None:
            self._graph.replay()
        elif self._eager == 0:
            self._graph = self._capture()
            self._graph.replay()  # since a capture runs nothing
        else:
            self._eager -= 1
            self._work()

    def _capture(self) -> torch.cuda.CUDAGraph:
        self._before_capture()
        graph = torch.cuda.CUDAGraph()
        # In the stream of the first runs, where libraries have their workspace; and what other
        # threads do meanwhile is no part of it.
        stream = torch.cuda.current_stream()
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            self._work()
        return graph
