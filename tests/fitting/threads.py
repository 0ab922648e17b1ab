"""Processes of a group on one machine, played by threads of one process."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from cflow_ad.fitting.group import Group


class Threads(Group):
    """A group whose processes are threads."""

    def __init__(self, rank, values, barrier):
        self.rank, self.size, self.is_first_here = rank, len(values), rank == 0
        self._values, self._barrier = values, barrier

    def gather(self, value):
        self._values[self.rank] = value
        self._barrier.wait()
        found = list(self._values)
        self._barrier.wait()
        return found

    def send(self, value, source):
        return self.gather(value)[source]

    def complete(self, array, bounds):
        self.gather(None)


def in_threads(size, work):
    """Call `work` with each member of a group of so many, and return what each returns."""
    values, barrier = [None] * size, threading.Barrier(size, timeout=60)

    def member(rank):
        try:
            return work(Threads(rank, values, barrier))
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        running = [pool.submit(member, rank) for rank in range(size)]
    errors = [error for each in running if (error := each.exception()) is not None]
    for error in errors:
        if not isinstance(error, threading.BrokenBarrierError):  # which the others' follow from
            raise error
    return [each.result() for each in running]
