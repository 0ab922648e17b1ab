"""Time an exported graph beside another, on one image."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

_ROUNDS = 15
_UNTIMED = 2  # rounds; by then onnxruntime has a graph for the image's shape, see `backends`
_SECONDS = 10.0  # after which no more rounds begin


@dataclass(frozen=True, slots=True)
class Times:
    """Milliseconds of one image through a graph and through another, decoding and map left out."""

    own: float
    other: float
    ratio: float
    """How many times as long as the other it takes: the median over rounds."""
    beside: str
    """What the other is."""


def time_side_by_side(own: Callable[[], object], other: Callable[[], object], beside: str) -> Times:
    """Run both in turns, since single times on a shared machine mean little.

    Args:
        own: runs the graph.
        other: runs the other one.
        beside: what that is.
    """
    taken: tuple[list[float], list[float]] = ([], [])
    end = time.perf_counter() + _SECONDS
    for number in range(_UNTIMED + _ROUNDS):
        for run, times in zip((own, other), taken, strict=True):
            run()  # by then the caches hold what it uses, and not what the other does
            began = time.perf_counter()
            run()
            if number >= _UNTIMED:
                times.append(1e3 * (time.perf_counter() - began))
        if taken[1] and time.perf_counter() > end:
            break
    ratios = [a / b for a, b in zip(*taken, strict=True)]
    median = statistics.median
    return Times(median(taken[0]), median(taken[1]), median(ratios), beside)
