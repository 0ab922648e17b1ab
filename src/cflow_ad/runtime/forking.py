"""What every library's graph offers, and how it goes on after `os.fork`."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


class Backend(Protocol):
    """A graph that is ready to run; several threads may call it at once."""

    metadata: str
    """JSON."""
    outputs: set[str]
    """Names of the graph's outputs."""
    on_cpu: bool

    def run(self, pixels: Floats, names: Sequence[str]) -> list[Floats]:
        """Compute the named outputs for a batch of canvases `(B, H, W, 3)`."""


class AfterFork:
    """A graph that is opened again in a process that `os.fork` made, on one core.

    A library's threads do not exist in such a process: it would wait for them forever, even while
    it frees the graph that was opened before the fork. So that graph is never freed.
    """

    def __init__(self, open_graph: Callable[[int | None], Backend], threads: int | None) -> None:
        self._open = open_graph
        self._backend = open_graph(threads)
        self._process = os.getpid()
        self.metadata = self._backend.metadata
        self.outputs = self._backend.outputs
        self.on_cpu = self._backend.on_cpu
        _OPENED.add(self)

    def run(self, pixels: Floats, names: Sequence[str]) -> list[Floats]:
        if self._process != os.getpid():
            self._backend, self._process = self._open(1), os.getpid()
        return self._backend.run(pixels, names)

    def keep(self) -> None:
        """Keep what was opened before a fork."""
        _KEPT.append(self._backend)


_OPENED: weakref.WeakSet[AfterFork] = weakref.WeakSet()
_KEPT: list[Backend] = []


def _keep_opened() -> None:
    for opened in list(_OPENED):
        opened.keep()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep_opened)
