"""Where a network runs, and what its device offers beside the CPU's own way."""

from __future__ import annotations

import contextlib
import math
from contextlib import AbstractContextManager
from typing import Any

import torch

from cflow_ad.errors import SettingsError


def pick_device(device: str | torch.device | None = None) -> torch.device:
    """The device asked for; unset, a GPU if there is one.

    Raises:
        SettingsError: torch has no such device.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.zeros(1, device=chosen).item()  # some can be named but hold no values
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise SettingsError(
            f"device {str(device)!r} is not available ({reason}); give cpu, or leave it out"
        ) from error
    return chosen


def own_stream(device: torch.device) -> AbstractContextManager[Any]:
    """Make a queue of work that runs beside others on a CUDA device; it begins after the work that
    is already queued. On other devices, the common queue.
    """
    if device.type != "cuda":
        return contextlib.nullcontext()
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(device))
    return torch.cuda.stream(stream)


def free_memory(device: torch.device) -> float:
    """Read how many bytes of an accelerator's own memory are free; infinite where torch does not
    tell.
    """
    try:
        return float(getattr(torch, device.type).mem_get_info(device)[0])
    except (AttributeError, RuntimeError):
        return math.inf
