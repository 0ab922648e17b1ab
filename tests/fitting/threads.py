"""Processes of a group, played by threads of one process."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import torch

from cflow_ad.fitting.group import Group


class _Meeting:
    """Where the threads of a group hand over values."""

    def __init__(self, size):
        self.barrier = threading.Barrier(size, timeout=60)
        self.values = [None] * size
        self.splits = {}
        self.lock = threading.Lock()


class Threads(Group):
    """A group whose processes are threads."""

    def __init__(self, rank, size, meeting):
        self.rank, self.size = rank, size
        self._meeting = meeting
        self._splits = 0

    def gather(self, value):
        meeting = self._meeting
        meeting.values[self.rank] = value
        meeting.barrier.wait()
        found = list(meeting.values)
        meeting.barrier.wait()
        return found

    def add(self, *tensors):
        parts = self.gather([tensor.detach().clone() for tensor in tensors])
        for tensor, *of_each in zip(tensors, *parts, strict=True):
            tensor.detach().copy_(torch.stack(of_each).sum(0))

    def split(self):
        self._splits += 1
        with self._meeting.lock:
            other = self._meeting.splits.setdefault(self._splits, _Meeting(self.size))
        return Threads(self.rank, self.size, other)


def in_threads(size, work):
    """Call `work` with each member of a group of so many, and return what each returns."""
    meeting = _Meeting(size)

    def member(rank):
        try:
            return work(Threads(rank, size, meeting))
        except BaseException:
            meeting.barrier.abort()
            for other in meeting.splits.values():
                other.barrier.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        running = [pool.submit(member, rank) for rank in range(size)]
    errors = [error for each in running if (error := each.exception()) is not None]
    for error in errors:
        if not isinstance(error, threading.BrokenBarrierError):  # which the others' follow from
            raise error
    return [each.result() for each in running]
