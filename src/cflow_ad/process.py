"""Memory and threads of the whole process that trains or scores on a CPU."""

from __future__ import annotations

import ctypes
import os
from typing import Any

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_KEPT = 256 * 2**20
_LARGEST = 32 * 2**20  # more glibc does not take


def tune_process() -> None:
    """Set up this process for speed, as the command line does.

    A library should not decide this for the program that uses it. Call it once, before torch is
    imported. It changes two settings, unless environment variables set them:

    - Threads that wait for one another sleep (`OMP_WAIT_POLICY=PASSIVE`). Spinning makes a busy
      machine several times slower, and a quiet one no faster.
    - Freed memory is kept for the next image, up to 256 MiB. Otherwise glibc returns it to the
      operating system after almost every layer of a network, and getting it back takes up to half
      of the time of scoring. On other systems nothing is changed.

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
    """Return freed memory to the operating system, where the C library is glibc.

    The free memory that a large image leaves is in pieces, which may be too small for the next.
    """
    trim = _of_glibc("malloc_trim")
    if trim is not None:
        trim(0)


def _of_glibc(name: str) -> Any:
    try:
        return getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):
        return None
