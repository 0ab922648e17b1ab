"""The benchmarks run: each in its quick form, so that none is left behind by a change."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"


@pytest.mark.parametrize(
    ("script", "shown"),
    [
        ("ablation", "| no position | `position_channels=0` |"),
        ("alignment", "| rigid, foreground |"),
        ("contamination", "| of those flagged |"),
        ("few", "| 4 + variants |"),
        ("growth", "predict s grows with the power"),
        ("large", "| native |"),
        ("metrics", "| scikit-learn |"),
        ("scoring", "| cflow-ad, bf16, stream |"),
        ("startup", "| cflow-ad predict, one image |"),
        ("training", "passes of the paper's schedule take"),
    ],
)
def test_a_benchmark_runs(script, shown, tmp_path):
    check(script, shown, tmp_path)


def test_the_benchmark_of_runtimes_runs(carpet_folder, tmp_path):
    only = ["--size", "96x96", "--only", "torch fp32", "onnx fp32"]
    check("runtimes", "| onnx fp32 |", tmp_path, carpet_folder, *only)


def check(script, shown, tmp_path, *more):
    if not FOLDER.is_dir():
        pytest.skip("the benchmarks are not part of a source distribution")
    command = [sys.executable, FOLDER / f"{script}.py", *more, "--quick"]
    done = subprocess.run(
        [*command, "--json", tmp_path / "out.json"],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert shown in done.stdout
    assert (tmp_path / "out.json").stat().st_size > 100
