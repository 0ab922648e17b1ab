"""After os.fork an open model answers as it did before; a spawned process scores the same."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest

from cflow_ad.errors import ForkError
from tests.golden.exported import exported_file
from tests.golden.images import MODEL

ASK_IN_CHILD = """
import os, sys, warnings
from pathlib import Path
import numpy as np
from cflow_ad.runtime.opening import open_detector
warnings.simplefilter("ignore")
detector = open_detector(Path(sys.argv[1]))
image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
before = detector.predict(image).score
if sys.argv[1].endswith((".safetensors", ".pt2")):  # torch's own threads have worked
    import torch
    torch.set_num_threads(2)
    large = torch.rand(4, 16, 256, 256)
    with torch.no_grad():
        torch.nn.Conv2d(16, 16, 3)(large).exp().sum()
child = os.fork()
if child == 0:
    if sys.argv[1].endswith((".safetensors", ".pt2")):
        with torch.no_grad():
            torch.nn.Conv2d(16, 16, 3)(large).exp().sum()
    same = abs(detector.predict(image).score - before) < 1e-5 * max(1, abs(before))
    del detector
    os._exit(0 if same else 3)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.parametrize("format", ["safetensors", "onnx", "openvino"])
def test_a_model_answers_after_a_fork(format):
    path = MODEL if format == "safetensors" else exported_file(format, size="64x64")
    done = subprocess.run(
        [sys.executable, "-c", ASK_IN_CHILD, path],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.strip() == "0", done.stderr


def test_a_model_on_a_gpu_says_why_it_does_not(toy_detector, monkeypatch):
    monkeypatch.setattr(type(toy_detector), "on_gpu", True)
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(ForkError, match=r"opened on a GPU before os\.fork.*spawn"):
        next(toy_detector.stream([np.zeros((64, 64, 3), np.uint8)]))


def score(path, image):
    """Score in a process of its own."""
    from cflow_ad.runtime.opening import open_detector

    return open_detector(path).predict(image).score


def test_a_spawned_process_scores_the_same():
    image = np.zeros((64, 64, 3), np.uint8)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        found = pool.submit(score, MODEL, image).result(timeout=300)
    assert found == pytest.approx(score(MODEL, image), abs=1e-5)
