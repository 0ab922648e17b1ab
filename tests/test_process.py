"""`tune_process` sets what it says for the whole process."""

from __future__ import annotations

import ctypes
import math
import os
import subprocess
import sys

import pytest

from cflow_ad import process

ALLOCATE_AND_FREE = """
import resource, sys, threading
import numpy as np
if sys.argv[1] == "tuned":
    from cflow_ad import tune_process
    tune_process()
def work():
    large = np.ones(1 << 20)
    return np.ones(1 << 20) + large
def measure():
    work()
    nearly_a_heap = [np.ones(1 << 17) for _ in range(60)]
    work()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        work()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
if sys.argv[2] == "thread":
    thread = threading.Thread(target=measure)
    thread.start()
    thread.join()
else:
    measure()
"""


def page_faults(how, where, **environment):
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", ALLOCATE_AND_FREE, how, where],
        capture_output=True,
        check=True,
        text=True,
        env=clean | environment,
    )
    return int(done.stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc")
def test_freed_memory_is_kept_unless_the_environment_says_otherwise():
    plain = page_faults("plain", "main")
    assert plain > 1000
    assert page_faults("tuned", "main") < plain / 20
    assert page_faults("tuned", "main", MALLOC_TRIM_THRESHOLD_="65536") > plain / 2


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc")
def test_freed_memory_is_kept_in_a_thread_whose_heap_is_nearly_full():
    untuned = page_faults("tuned", "thread", MALLOC_TRIM_THRESHOLD_="65536")
    assert untuned > 1000
    assert page_faults("tuned", "thread") < untuned / 20


def test_waiting_threads_sleep_unless_the_environment_says_otherwise():
    asked = "import os, cflow_ad; cflow_ad.tune_process(); print(os.environ['OMP_WAIT_POLICY'])"
    for given, expected in ((None, "PASSIVE"), ("ACTIVE", "ACTIVE")):
        environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
        if given:
            environment["OMP_WAIT_POLICY"] = given
        done = subprocess.run(
            [sys.executable, "-c", asked],
            capture_output=True,
            check=True,
            text=True,
            env=environment,
        )
        assert done.stdout.strip() == expected


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, math.inf),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, math.inf),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5),
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/cpu.max": "200000 100000\n",
                "sys/fs/cgroup/a/b/cpu.max": "max 100000\n",
            },
            2,
        ),
        ({"proc/self/cgroup": "0::/docker/x\n", "sys/fs/cgroup/cpu.max": "300000 100000"}, 3),
        (
            {
                "proc/self/cgroup": "4:memory:/x\n1:cpu,cpuacct:/x\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "50000\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            0.5,
        ),
        (
            {
                "proc/self/cgroup": "1:cpu:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            math.inf,
        ),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "odd\n"}, math.inf),
    ],
)
def test_a_control_groups_share_is_read(tmp_path, files, expected):
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert process._quota(tmp_path) == expected


CAPPED = """
import cflow_ad.process as process
process._quota = lambda root: 1.5
if hasattr(process.os, "sched_getaffinity"):
    process.os.sched_getaffinity = lambda pid: set(range(64))
process.os.cpu_count = lambda: 64
process.tune_process()
import torch
print(process.usable_cores(), torch.get_num_threads())
"""


def test_threads_follow_a_containers_cap():
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", CAPPED], capture_output=True, check=True, text=True, env=environment
    )
    assert done.stdout.split() == ["2", "2"]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="not on this system")
def test_cores_are_those_that_the_process_is_bound_to():
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
    code += "from cflow_ad.process import usable_cores; print(usable_cores())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout.strip() == "1"


def test_the_collector_leaves_alone_what_is_loaded_for_good():
    asked = (
        "import gc; from cflow_ad.process import loading\n"
        "before = gc.get_freeze_count()\n"
        "with loading():\n"
        "    assert not gc.isenabled()\n"
        "    kept = [[] for _ in range(10_000)]\n"
        "print(gc.isenabled(), gc.get_freeze_count() - before > 10_000)\n"
    )
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True"]
