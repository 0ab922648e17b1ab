"""Where a network runs, and what its device offers beside the CPU's own way."""

from __future__ import annotations

import contextlib
import math
import threading
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from cflow_ad.errors import CflowError, DeviceError, SettingsError, first_line


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


_STREAMS = 32  # that torch has for a device, and hands out in turn
_LANES: weakref.WeakSet[Lane] = weakref.WeakSet()
_ONE_AT_A_TIME = threading.Lock()


class Lane:
    """A queue of work on a device, beside its others: a stream of CUDA or XPU. Devices without
    streams have one queue for all.

    No other lane has the stream while there are enough of them: what one thread queues in a stream
    fails while another captures a graph there.
    """

    def __init__(self, device: torch.device) -> None:
        self._module = _module_of(device)
        self._stream: Any = None
        if device.type in ("cuda", "xpu"):
            with _ONE_AT_A_TIME:
                taken = {lane._stream for lane in _LANES}
                streams = (self._module.Stream(device) for _ in range(_STREAMS))
                self._stream = next((one for one in streams if one not in taken), None)
                self._stream = self._stream or self._module.Stream(device)
                _LANES.add(self)

    @contextlib.contextmanager
    def after(self, mark: Any = None) -> Iterator[None]:
        """Queue the work of this block here, after a mark of another lane; unset, after what the
        calling thread has queued outside.
        """
        if self._stream is None:
            yield
            return
        if mark is None:
            self._stream.wait_stream(self._module.current_stream(self._stream.device))
        else:
            self._stream.wait_event(mark)
        with self._module.stream(self._stream):
            yield

    def mark(self) -> Any:
        """Mark the end of the work queued so far; None where there is nothing to wait for."""
        return None if self._stream is None else self._stream.record_event()

    def before(self, tensors: Iterable[Tensor]) -> None:
        """Let what the calling thread queues outside come after the work queued here, whose results
        these tensors are.
        """
        if self._stream is None:
            return
        outside = self._module.current_stream(self._stream.device)
        outside.wait_stream(self._stream)
        for tensor in tensors:
            tensor.record_stream(outside)


def wait_for_own_work(device: torch.device) -> None:
    """Wait until a device has done what the calling thread has queued, so that others may read it
    in any queue.
    """
    module = _module_of(device)
    if device.type in ("cuda", "xpu") and module.is_available():  # tensors may be torch's fake ones
        module.current_stream(device).synchronize()


def free_memory(device: torch.device) -> float:
    """Read how many bytes of an accelerator's own memory are free, with those that torch keeps for
    later; infinite where torch does not tell.
    """
    module = _module_of(device)
    try:
        kept = module.memory_reserved(device) - module.memory_allocated(device)
        return float(module.mem_get_info(device)[0] + kept)
    except (AttributeError, RuntimeError):
        return math.inf


def give_memory_back(device: torch.device) -> None:
    """Free what torch keeps of an accelerator's memory for later."""
    if hasattr(_module_of(device), "empty_cache"):
        _module_of(device).empty_cache()


def _module_of(device: torch.device) -> Any:
    """Torch's functions for a kind of device, such as `torch.cuda`; None for `meta`."""
    return getattr(torch, device.type, None)


@contextlib.contextmanager
def one_line_errors(device: torch.device) -> Iterator[None]:
    """Turn what torch raises when a device fails into an error of one line."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, CflowError):
            raise
        if is_out_of_memory(error):
            raise DeviceError(
                f"device {device}: its memory is too small, or other programs have it "
                f"({first_line(error)}); give a smaller size, or --device cpu"
            ) from error
        if device.type != "cpu" and ("CUDA" in str(error) or "device" in str(error).lower()):
            raise DeviceError(
                f"device {device}: it failed ({first_line(error)}); start the program again, or "
                "give --device cpu"
            ) from error
        raise


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error says that a device's memory is used up."""
    text = str(error)
    return (
        isinstance(error, torch.OutOfMemoryError)
        or "out of memory" in text
        or "ALLOC_FAILED" in text  # as CUDA's libraries say it
    )
