"""Threads on one core each leave the number of threads elsewhere as it was."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest
import torch

from cflow_ad.cflow.threads import one_core_pool

PREAMBLE = """
from concurrent.futures import ThreadPoolExecutor

import torch

from cflow_ad.cflow.threads import one_core_pool

torch.set_num_threads(2)


def check():
    with ThreadPoolExecutor(1) as pool:  # a new thread
        assert pool.submit(torch.get_num_threads).result() == 2
    assert torch.get_num_threads() == 2
"""


def run(script):
    """Run a script in a process of its own, in which torch has two threads."""
    whole = PREAMBLE + textwrap.dedent(script)
    result = subprocess.run(
        [sys.executable, "-c", whole], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("workers", [1, 3])
def test_every_thread_of_the_pool_has_one_core(workers):
    def count():
        torch.ones(8) @ torch.ones(8, 8)
        return torch.get_num_threads()

    with one_core_pool(workers) as pool:
        found = [pool.submit(count) for _ in range(4 * workers)]
        assert {future.result() for future in found} == {1}


def test_new_threads_have_as_many_as_before():
    run("""
        with one_core_pool(3) as pool:
            check()
            assert pool.submit(torch.get_num_threads).result() == 1
        check()
        with ThreadPoolExecutor(8) as callers:  # at the same time
            pools = list(callers.map(one_core_pool, [2] * 40))
        for pool in pools:
            pool.shutdown()
        check()
    """)


def test_a_detector_leaves_the_number_as_well(toy_detector, images, tmp_path):
    toy_detector.save(tmp_path / "model.safetensors")
    run(f"""
        import numpy as np

        from cflow_ad import Detector

        detector = Detector.load({str(tmp_path / "model.safetensors")!r}, device="cpu")
        image = np.zeros((64, 64, 3), np.uint8)
        detector.predict(image)
        check()
        list(detector.stream([image] * 3))
        check()
    """)
