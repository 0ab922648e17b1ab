"""Seeds for torch's initialisations, which draw from the generator of the whole process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_ONE_AT_A_TIME = threading.Lock()


@contextmanager
def torch_seed(seed: int) -> Iterator[None]:
    """Seed torch's generator of the CPU for a block, and restore its state afterwards.

    Blocks of other threads wait. Generators of accelerators are left alone.
    """
    with _ONE_AT_A_TIME, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
