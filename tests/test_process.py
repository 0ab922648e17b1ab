"""`tune_process` sets what it says for the whole process."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest

ALLOCATE_AND_FREE = """
import resource, sys
import numpy as np
if sys.argv[1] == "tuned":
    from cflow_ad import tune_process
    tune_process()
def work():
    large = np.ones(1 << 20)
    return np.ones(1 << 20) + large
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(how, **environment):
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", ALLOCATE_AND_FREE, how],
        capture_output=True,
        check=True,
        text=True,
        env=clean | environment,
    )
    return int(done.stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc")
def test_freed_memory_is_kept_unless_the_environment_says_otherwise():
    plain = page_faults("plain")
    assert plain > 1000
    assert page_faults("tuned") < plain / 20
    assert page_faults("tuned", MALLOC_TRIM_THRESHOLD_="65536") > plain / 2


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
