"""Processes that fit or evaluate one model together.

They are started by torchrun, on one machine or several. Each does its part of the work, and what it
finds is sent to all, so that every process goes on with the same values. Where one fails, all end.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from cflow_ad.errors import ElsewhereError, GroupError, SettingsError, first_line

Value = TypeVar("Value")
Item = TypeVar("Item")

_PIECE = 32 * 2**20  # bytes of an array that are sent at once
_PATIENCE = timedelta(days=30)  # for the slowest; a process that has ended is noticed at once
_FAILED = "cflow-ad failed"  # a key in torch's store
_LOOK_SECONDS = 1.0  # between two looks for it


class Group:
    """One process alone."""

    rank = 0
    """The number of this process, from 0."""

    size = 1
    """How many processes there are."""

    is_first_here = True
    """Whether this is the first process of its machine."""

    device: str | None = None
    """Where this process is to compute; None for any."""

    def gather(self, value: Value) -> list[Value]:
        """Collect a value of each process, in the order of their numbers.

        Raises:
            GroupError: another process failed or ended. So do all methods that send.
        """
        return [value]

    def send(self, value: Value | None, source: int) -> Value | None:
        """Return the value that one of the processes, the source, gives."""
        return value

    def complete(self, array: NDArray[Any], bounds: Sequence[int]) -> None:
        """Fill in the rows of an array that the processes of other machines have written.

        Args:
            array: a file that the processes of one machine share.
            bounds: where the rows of each process begin; see `bounds`.
        """

    def bounds(self, weights: Sequence[int]) -> list[int]:
        """Cut a sequence into consecutive parts of about equal weight, one for each process.

        Returns:
            Where each part begins, and the end; `size + 1` numbers.
        """
        cuts = [sum(weights) * number // self.size for number in range(1, self.size)]
        return [0, *np.searchsorted(np.cumsum(weights), cuts, "right").tolist(), len(weights)]

    def part(self, items: Sequence[Item]) -> Sequence[Item]:
        """Take this process's part: consecutive items, so that the parts in order are all."""
        bounds = self.bounds([1] * len(items))
        return items[bounds[self.rank] : bounds[self.rank + 1]]

    def is_ending(self) -> bool:
        """Whether another process has failed, so that long work may as well stop."""
        return False

    def require_alone(self, name: str) -> None:
        """Raise a SettingsError where there are several processes, for what needs one."""
        if self.size > 1:
            raise SettingsError(f"{name} needs a single process; start without torchrun")


ALONE = Group()


class Processes(Group):
    """The processes that torchrun has started.

    Args:
        device: of this one.
        store: what torch keeps for all of them.
    """

    def __init__(self, device: str | None, store: Any) -> None:
        from torch import distributed

        self._store = store
        self._due = 0.0
        self._distributed: Any = distributed
        self.rank, self.size = distributed.get_rank(), distributed.get_world_size()
        self.is_first_here = os.environ.get("LOCAL_RANK", "0") == "0"
        self.device = device
        self._firsts = [n for n, is_first in enumerate(self.gather(self.is_first_here)) if is_first]
        self._between = distributed.new_group(self._firsts, timeout=_PATIENCE)

    def gather(self, value: Value) -> list[Value]:
        return self._meet(value, None)

    def send(self, value: Value | None, source: int) -> Value | None:
        self.gather(None)  # a process that has failed would not take part
        box = [value]
        with _lost():
            self._distributed.broadcast_object_list(box, src=source)
        return box[0]

    def complete(self, array: NDArray[Any], bounds: Sequence[int]) -> None:
        import torch

        self.gather(None)  # all have written
        if self.is_first_here and len(self._firsts) > 1:
            rows = max(1, _PIECE // max(1, array.nbytes // max(1, len(array))))
            for first, after in pairwise([*self._firsts, self.size]):
                for begin in range(bounds[first], bounds[after], rows):
                    piece = array[begin : min(bounds[after], begin + rows)]
                    as_bytes = torch.from_numpy(piece.reshape(-1).view(np.uint8))
                    with _lost():
                        self._distributed.broadcast(as_bytes, src=first, group=self._between)
        self.gather(None)

    def is_ending(self) -> bool:
        if time.monotonic() < self._due:
            return False
        self._due = time.monotonic() + _LOOK_SECONDS
        with _lost():
            return bool(self._store.check([_FAILED]))

    def fail(self, error: Exception) -> None:
        """Tell the others, in whatever they do next, that this process failed.

        Raises:
            ElsewhereError: an earlier process failed too, and says why.
        """
        with _lost():
            self._store.set(_FAILED, "")
        self._meet(None, f"process {self.rank + 1} of {self.size} failed: {first_line(error)}")

    def _meet(self, value: Value, failure: str | None) -> list[Value]:
        found: list[Any] = [None] * self.size
        with _lost():
            self._distributed.all_gather_object(found, (value, failure))
        failed = [number for number, (_, text) in enumerate(found) if text is not None]
        if failed and failed[0] != self.rank:
            raise ElsewhereError(found[failed[0]][1])
        return [of_each for of_each, _ in found]


@contextlib.contextmanager
def _lost() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise GroupError(
            f"the connection to another process was lost ({first_line(error)})"
        ) from error


@contextlib.contextmanager
def join_group() -> Iterator[Group]:
    """Join the processes that torchrun has started with this one; else be alone.

    All leave the block together. Where one of them fails in it, the others raise an ElsewhereError.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or "RANK" not in os.environ:
        yield ALONE
        return
    import torch
    from torch import distributed
    from torch.distributed.rendezvous import rendezvous

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    store, rank, size = next(rendezvous("env://"))
    distributed.init_process_group(
        "gloo", store=store, rank=rank, world_size=size, timeout=_PATIENCE
    )
    try:
        device = f"cuda:{int(os.environ['LOCAL_RANK']) % gpus}" if gpus else None
        group = Processes(device, store)
        try:
            yield group
            group.gather(None)
        except GroupError:
            raise
        except Exception as error:
            group.fail(error)
            raise
    finally:
        distributed.destroy_process_group()
