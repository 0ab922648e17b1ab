"""Threads in which torch computes on one core each."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Result = TypeVar("Result")

_ONE_AT_A_TIME = threading.Lock()


def one_core_pool(workers: int) -> ThreadPoolExecutor:
    """Start threads in which torch computes on one core, and leave it as it was elsewhere.

    `torch.set_num_threads` sets the number for the calling thread, and for every thread that
    computes for the first time later. So all threads are started here, and the number for later
    ones is then put back.
    """
    started = threading.Barrier(workers)

    def start() -> None:
        torch.get_num_threads()  # else the first computation would undo the next line
        torch.set_num_threads(1)
        started.wait()

    with _ONE_AT_A_TIME:  # else one caller would take another's 1 for the number to put back
        later = _in_new_thread(torch.get_num_threads)
        pool = ThreadPoolExecutor(workers, initializer=start)
        for _ in range(workers):
            pool.submit(int)
        pool.submit(int).result()
        _in_new_thread(lambda: torch.set_num_threads(later))
    return pool


def _in_new_thread(work: Callable[[], Result]) -> Result:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()
