"""Work that is repeated unchanged: on a CUDA device, one graph, launched at once.

A step of training and one image through a network are hundreds of small kernels, each of which
takes longer to launch than to run. A CUDA graph launches all of them together.
"""

from __future__ import annotations

import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import NamedTuple

import torch
from torch import Tensor

from cflow_ad.cflow.device import Lane, wait_for_own_work
from cflow_ad.errors import DeviceWarning, first_line

_EAGER = 3  # runs before the capture: libraries set themselves up in the first ones
_KEPT = 4  # sizes of images that a network keeps a graph for

_ONE_AT_A_TIME = threading.Lock()
"""A capture begins by waiting for the whole device, which fails while another thread captures."""


class Repeated:
    """Work on tensors that stay in their places, called again and again.

    The first calls run it as it is; then, on a CUDA device, it is captured, and later calls replay
    the capture. So it must read no value back, and find its input where it was. All calls must be
    made in one lane of its own. Where it cannot be captured, which is said once, it goes on as it
    is.

    Args:
        work: what is repeated.
        device: where it runs.
        on_capture: called with True before the capture, and with False if that fails.
    """

    def __init__(
        self,
        work: Callable[[], object],
        device: torch.device,
        *,
        on_capture: Callable[[bool], object] = lambda begins: None,
    ) -> None:
        self._work = work
        self._on_capture = on_capture
        self._eager = _EAGER if device.type == "cuda" else -1
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        """Do the work once."""
        if self._eager == 0:
            self._graph = self._capture()
        self._eager -= 1
        if self._graph is not None:
            self._graph.replay()
        else:
            self._work()

    def _capture(self) -> torch.cuda.CUDAGraph | None:
        self._on_capture(True)
        graph = torch.cuda.CUDAGraph()
        # In the stream of the first runs, where libraries have their workspace; and what other
        # threads do meanwhile is no part of it.
        stream = torch.cuda.current_stream()
        try:
            with (
                _ONE_AT_A_TIME,
                torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"),
            ):
                self._work()
        except RuntimeError as error:
            text = f"no CUDA graph could be made, so that work is slower ({first_line(error)})"
            warnings.warn(text, DeviceWarning, stacklevel=3)
            self._on_capture(False)
            return None
        return graph


class _Kept(NamedTuple):
    """The graph for one size, and its tensors."""

    repeated: Repeated
    x: Tensor
    results: list[Tensor]


class OneAtATime:
    """A network for inputs that come one at a time, as from a camera; for several threads.

    The last few sizes have a graph each.

    Args:
        build: builds a network for one size, a tensor to tensors. It reads no value back, and what
            it uses is its own, since a graph finds it by its place in memory.
        device: where it is.
    """

    def __init__(
        self, build: Callable[[], Callable[[Tensor], list[Tensor]]], device: torch.device
    ) -> None:
        self._build_network = build
        self._device = device
        self._lane = Lane(device)
        self._kept: OrderedDict[Hashable, _Kept] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, x: Tensor) -> list[Tensor]:
        """Run the network."""
        with self._lock:
            with self._lane.after():
                kept = self._kept_for(x)
                kept.x.copy_(x)
                kept.repeated()
                # In memory of their own: the next input overwrites the graph's results.
                results = [result.clone() for result in kept.results]
            self._lane.before(results)
        return results

    def _kept_for(self, x: Tensor) -> _Kept:
        key = (x.shape, x.dtype)
        if key not in self._kept:
            self._kept[key] = self._build(x)
            if len(self._kept) > _KEPT:
                wait_for_own_work(self._device)  # it may still be running, in this lane
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]

    def _build(self, x: Tensor) -> _Kept:
        network, fixed = self._build_network(), torch.empty_like(x)
        results: list[Tensor] = []

        def work() -> None:
            results[:] = network(fixed)

        return _Kept(Repeated(work, self._device), fixed, results)
