"""Memory and threads of the whole process that trains or scores on a CPU."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_KEPT = 256 * 2**20
_LARGEST = 32 * 2**20  # more glibc does not take
_HEAP = 64 * 2**20  # of a thread's memory; with a smaller pad an empty one would be given back


def tune_process() -> None:
    """Set up this process for speed, as the command line does.

    A library should not decide this for the program that uses it. Call it once, before torch is
    imported. It changes three settings, unless environment variables set them:

    - Threads that wait for one another sleep (`OMP_WAIT_POLICY=PASSIVE`). Spinning makes a busy
      machine several times slower, and a quiet one no faster.
    - There are as many threads as `usable_cores` (`OMP_NUM_THREADS`), where a container has a
      smaller share of the processor than its number of cores says.
    - Freed memory is kept for the next image, up to 256 MiB, and in threads as well. Otherwise
      glibc returns it to the operating system after almost every layer of a network, and getting
      it back takes up to half of the time of scoring. On other systems nothing is changed.

    Example:
        >>> import cflow_ad
        >>> cflow_ad.tune_process()
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if math.isfinite(_quota(Path("/"))):
        os.environ.setdefault("OMP_NUM_THREADS", str(usable_cores()))
    if any(
        f"MALLOC_{name}_" in os.environ for name in ("TRIM_THRESHOLD", "MMAP_THRESHOLD", "TOP_PAD")
    ):
        return
    mallopt = _of_glibc("mallopt")
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGEST)
        mallopt(_M_TRIM_THRESHOLD, _KEPT)
        mallopt(_M_TOP_PAD, _HEAP)


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """Load, inside, what the process then keeps: the garbage collector leaves it alone for good.

    torch and timm are some hundred thousand objects, none of them garbage. The collector would go
    through them again and again while they are imported, and every now and then afterwards.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def usable_cores() -> int:
    """Count the processor cores that this process may use.

    These are the cores it is bound to, or fewer where its control group, such as a container's,
    has a smaller share of their time; at least 1.
    """
    if hasattr(os, "sched_getaffinity"):
        bound = len(os.sched_getaffinity(0))
    else:
        bound = os.cpu_count() or 1
    return max(1, math.ceil(min(bound, _quota(Path("/")))))


def _quota(root: Path) -> float:
    """Read how many cores' time the control group has, and those above it; infinite if unlimited.

    `root` is the file system's. Both versions of control groups are read.
    """
    quotas = [math.inf]
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return math.inf
    for line in lines:
        _, controllers, group = line.split(":", 2)
        top = root / "sys/fs/cgroup"
        if controllers:
            if "cpu" not in controllers.split(","):
                continue
            top = next((p for p in (top / "cpu", top / controllers) if p.is_dir()), top)
        inside = top / group.lstrip("/")
        # In a container the group's own path may not be there: its files are at the top.
        for folder in (inside, *inside.parents):
            quotas.append(_quota_in(folder))
            if folder == top:
                break
    return min(quotas)


def _quota_in(folder: Path) -> float:
    try:
        if (folder / "cpu.max").is_file():
            allowed, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
        else:
            allowed = (folder / "cpu.cfs_quota_us").read_text(encoding="utf-8").strip()
            period = (folder / "cpu.cfs_period_us").read_text(encoding="utf-8")
        quota = int(allowed) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf  # none, or "max"
    return quota if quota > 0 else math.inf


def give_memory_back() -> None:
    """Return freed memory to the operating system, where the C library is glibc.

    The free memory that a large image leaves is in pieces, which may be too small for the next.
    """
    trim = _of_glibc("malloc_trim")
    if trim is not None:
        trim(0)


def _use_one_core() -> None:
    """Let torch compute on one core in a process that `os.fork` made.

    The threads that share its work are not there, and it would wait for them forever.
    """
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_use_one_core)


def _of_glibc(name: str) -> Any:
    try:
        return getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):
        return None
