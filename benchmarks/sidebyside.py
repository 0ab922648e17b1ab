"""What the speed benchmarks share: rounds in which every candidate runs once, and their ratios.

The machine is shared, so single times mean little: in each round the candidates run one after
another, and the ratio of two is the median of their ratios in the same round.
"""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

Times = dict[str, list[float]]
"""Seconds of each candidate, one for each round."""


def race(
    candidates: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    calls: int = 1,
    seconds: float = math.inf,
) -> Times:
    """Seconds a call of each candidate takes, in each round; the mean over the calls of a round.

    No round begins after so many seconds, but for the second.
    """
    for run in candidates.values():
        run()  # what happens once is not timed
    times: Times = {name: [] for name in candidates}
    start = time.perf_counter()
    for number in range(rounds):
        if number > 1 and time.perf_counter() - start > seconds:
            break
        for name, run in candidates.items():
            began = time.perf_counter()
            for _ in range(calls):
                run()
            times[name].append((time.perf_counter() - began) / calls)
    return times


def ratio(times: Times, name: str, to: str) -> float:
    """How many times as long one candidate takes as another: the median over rounds."""
    return statistics.median(a / b for a, b in zip(times[name], times[to], strict=True))


def tuned() -> dict[str, str]:
    """The environment of another program that is measured: what `tune_process` does for this one
    is done for it, so that they differ in nothing but themselves.
    """
    kept = {"MALLOC_TRIM_THRESHOLD_": str(256 * 2**20), "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20)}
    return {**os.environ, **kept, "OMP_WAIT_POLICY": "PASSIVE"}


def machine() -> dict[str, Any]:
    """What a figure depends on, and how busy the machine is."""
    found = {}
    for package in ("torch", "timm", "FrEIA", "anomalib", "onnxruntime", "openvino"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2),
        **found,
    }


def markdown(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table; numbers to three digits."""

    def text(value: object) -> str:
        return f"{value:.3g}" if isinstance(value, float) else str(value)

    lines = [head, ["---"] * len(head), *[[text(cell) for cell in row] for row in rows]]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def report(results: Mapping[str, Any], path: Path | None) -> None:
    """Print the machine, and keep everything if a file is named."""
    everything = {"machine": machine(), **results}
    print("\n" + ", ".join(f"{name} {value}" for name, value in everything["machine"].items()))
    if path is not None:
        path.write_text(json.dumps(everything, indent=1) + "\n")
