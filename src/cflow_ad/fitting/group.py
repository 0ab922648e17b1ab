"""Processes that fit or evaluate one model together, each with its share of the images.

They are started by torchrun, on one machine or several. What the share of each gives is added up or
gathered, so that every process goes on with the same numbers, and each ends with the same model.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cflow_ad.errors import SettingsError

if TYPE_CHECKING:
    from torch import Tensor

Value = TypeVar("Value")
Item = TypeVar("Item")


class Group:
    """One process alone, with all images."""

    rank = 0
    """The number of this process, from 0."""

    size = 1
    """How many processes there are."""

    device: str | None = None
    """Where this process is to compute; None for any."""

    def add(self, *tensors: Tensor) -> None:
        """Add each tensor, of one type on one device, over all processes, in place."""

    def gather(self, value: Value) -> list[Value]:
        """Collect a value of each process, in the order of their numbers."""
        return [value]

    def split(self) -> Group:
        """Make a group of the same processes, for a thread of its own: calls of one group come in
        the same order in all processes.
        """
        return self

    def part(self, items: Sequence[Item]) -> Sequence[Item]:
        """Take this process's part: consecutive items, so that the parts in order are all."""
        begin, end = (len(items) * n // self.size for n in (self.rank, self.rank + 1))
        return items[begin:end]

    def own_path(self, path: Path) -> Path:
        """Name a file of this process, which alone has the name itself."""
        return path

    def require_alone(self, name: str) -> None:
        """Raise a SettingsError where there are several processes, for what needs one."""
        if self.size > 1:
            raise SettingsError(f"{name} needs a single process; start without torchrun")


ALONE = Group()


class Processes(Group):
    """The processes that torchrun has started."""

    def __init__(self, device: str | None) -> None:
        from torch import distributed

        self._distributed: Any = distributed
        self.rank, self.size = distributed.get_rank(), distributed.get_world_size()
        self.device = device
        self._own = distributed.new_group()

    def add(self, *tensors: Tensor) -> None:
        import torch

        together = torch.cat([tensor.detach().flatten() for tensor in tensors])
        self._distributed.all_reduce(together, group=self._own)
        parts = torch.split(together, [tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.detach().copy_(part.view_as(tensor))

    def gather(self, value: Value) -> list[Value]:
        found = [value] * self.size
        self._distributed.all_gather_object(found, value, group=self._own)
        return found

    def split(self) -> Group:
        return Processes(self.device)

    def own_path(self, path: Path) -> Path:
        return path.with_name(f"{path.name}.{self.rank + 1}-of-{self.size}")


@contextlib.contextmanager
def join_group() -> Iterator[Group]:
    """Join the processes that torchrun has started with this one; else be alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or "RANK" not in os.environ:
        yield ALONE
        return
    import torch
    from torch import distributed

    has_gpu = torch.cuda.is_available()
    distributed.init_process_group("cpu:gloo,cuda:nccl" if has_gpu else "gloo")
    try:
        yield Processes(f"cuda:{os.environ['LOCAL_RANK']}" if has_gpu else None)
    finally:
        distributed.destroy_process_group()
