"""Trainings that do not depend on one another, side by side: on the cores of a CPU, in the streams
of a GPU.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeAlias, TypeVar

import torch

from cflow_ad.cflow.device import Lane, one_line_errors
from cflow_ad.cflow.threads import one_core_pool

Result = TypeVar("Result")

Start: TypeAlias = Callable[[float, Callable[[], bool]], Generator[None, None, Result]]
"""Starts a training, which goes on each time it is resumed. It is given its time limit, in seconds,
and a function that is true once it is to stop."""


def run_all(
    starts: Sequence[Start[Result]],
    device: torch.device,
    *,
    lanes: int,
    seconds: float = math.inf,
    is_ending: Callable[[], bool] = lambda: False,
) -> list[Result]:
    """Run trainings to their end.

    On a CPU each has a core: its steps are too small to be shared among cores. So what a training
    gives does not depend on how many there are. On a GPU several take turns, in a stream each.

    Args:
        starts: of the trainings; on a CPU in this order, the longest best come first.
        device: where they compute.
        lanes: how many share a GPU.
        seconds: time limit for all, of which each that begins has an equal part.
        is_ending: once true, those that run are stopped, and no other begins.

    Returns:
        What each gives; not of all, where they were to end.
    """
    deadline = time.monotonic() + seconds
    on_cpu = device.type == "cpu"
    width = 1 if on_cpu else lanes
    rounds = [starts[first : first + width] for first in range(0, len(starts), width)]
    workers = max(1, min(len(rounds), torch.get_num_threads() if on_cpu else 1))
    stopped, lock = threading.Event(), threading.Lock()
    waiting = len(rounds)

    def is_stopped() -> bool:
        if is_ending():
            stopped.set()
        return stopped.is_set()

    def run(some: Sequence[Start[Result]]) -> list[Result]:
        nonlocal waiting
        with lock:
            own = max(0.0, deadline - time.monotonic()) / math.ceil(waiting / workers)
            waiting -= 1
        if is_stopped():
            return []
        try:
            return run_in_turn([start(own, is_stopped) for start in some], device)
        except BaseException:
            stopped.set()  # at once, so that no other begins
            raise

    with (one_core_pool if on_cpu else ThreadPoolExecutor)(workers) as pool:
        running = [pool.submit(run, some) for some in rounds]
        try:
            for future in as_completed(running):  # the first error is raised at once
                future.result()
            return [result for future in running for result in future.result()]
        except BaseException:
            stopped.set()
            pool.shutdown(cancel_futures=True)
            raise


def run_in_turn(
    trainings: Sequence[Generator[None, None, Result]], device: torch.device
) -> list[Result]:
    """Run trainings to their end, each as far as it goes in turn."""
    lanes = [Lane(device) for _ in trainings]
    results: dict[int, Result] = {}
    while len(results) < len(trainings):
        for number, training in enumerate(trainings):
            if number not in results:
                with one_line_errors(device), lanes[number].after():
                    try:
                        next(training)
                    except StopIteration as stop:
                        results[number] = stop.value
                        lanes[number].before([])
    return [results[number] for number in range(len(trainings))]
