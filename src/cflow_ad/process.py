"""The memory and the threads of a process that trains or scores on a CPU, as a whole."""

from __future__ import annotations

import ctypes
import os
from typing import Any

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_KEPT = 256 * 2**20
_LARGEST = 32 * 2**20  # more glibc does not take


def tune_process() -> None:
    """Set up this process for speed, as the command line does.

    A library should not decide this for the program it is part of. Call it once, before torch is
    imported. It sets two things, where the environment does not say otherwise:

    - Threads that wait for one another sleep (`OMP_WAIT_POLICY=PASSIVE`) instead of spinning, which
      on a busy machine makes everything several times slower, and on a quiet one gains nothing.
    - Memory that is freed is kept for the next image, up to 256 MiB at a time. Else glibc gives it
      back after every other layer of a network, and the operating system clears it anew, page by
      page, which takes up to half of the time of scoring. On other systems nothing is set.

    Example:
        >>> import cflow_ad
        >>> cflow_ad.tune_process()
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if any(name in os.environ for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")):
        return
    mallopt = _of_glibc("mallopt")
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGEST)
        mallopt(_M_TRIM_THRESHOLD, _KEPT)


def give_memory_back() -> None:
    """Give what was freed back to the operating system, where the C library is glibc.

    What a large image leaves free is in pieces, into which the next one may not fit.
    """
    trim = _of_glibc("malloc_trim")
    if trim is not None:
        trim(0)


def _of_glibc(name: str) -> Any:
    try:
        return getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):
        return None
