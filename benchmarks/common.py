"""What the benchmarks share: options, a small data set, timing in rounds, tables.

Single times on a shared machine mean little. So in each round the candidates run one after another,
and the ratio of two is the median of their ratios in the same round.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # not imported here: fresh processes measure what imports take
    from cflow_ad import Detector, Settings
    from cflow_ad.data.layouts import Dataset

QUICK: Mapping[str, Any] = {
    "backbone": "test_efficientnet",
    "weights": "random",
    "size": "64x64",
    "strides": (8, 16),
    "steps": 5,
    "batch_size": 64,
    "folds": 2,
    "method": {"blocks": 2, "average": (16,)},
}
"""Settings of `--quick`: a backbone of a few kilobytes, trained in a moment."""

Times = dict[str, list[float]]
"""Seconds of each candidate, one for each round."""


def build_parser(description: str, *, with_data: bool = False) -> argparse.ArgumentParser:
    """Build a parser with the options of every benchmark.

    Args:
        description: the script's docstring, whose first line is shown.
        with_data: whether a data set is named.
    """
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    if with_data:
        parser.add_argument("data", nargs="?", type=Path, metavar="DATA")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all results there")
    parser.add_argument("--quick", action="store_true", help="a small case, as in the tests")
    return parser


@contextmanager
def open_data(options: argparse.Namespace, **counts: int) -> Iterator[tuple[Dataset, Settings]]:
    """Open the data set that is named, with the default settings.

    Args:
        options: with `data` and `quick`; with the latter, carpet and `QUICK` take their place.
        counts: of the carpet's images, see `write_carpet`.
    """
    from cflow_ad import Settings, open_dataset
    from cflow_ad.data.carpet import write_carpet

    if options.quick:
        with tempfile.TemporaryDirectory() as folder:
            write_carpet(Path(folder) / "carpet", size=64, **counts)
            yield open_dataset(Path(folder) / "carpet"), Settings.preset("default", **QUICK)
        return
    if options.data is None:
        raise SystemExit("name a data set, or give --quick")
    yield open_dataset(options.data), Settings()


def fit(data: Any, settings: Settings, **options: Any) -> Detector:
    """Fit a detector, without the warning that there are few images."""
    from cflow_ad import CalibrationWarning, Detector

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CalibrationWarning)
        return Detector.fit(data, settings, **options)


def fill_memory(detector: Detector) -> Detector:
    """Give a detector's memory as many vectors as it has at most: their number is part of the time
    and the space that an image takes.
    """
    import torch

    from cflow_ad import Detector
    from cflow_ad.cflow.memory import Memory

    model, settings = detector.model, detector.settings
    for level in model:
        if isinstance(level.density, Memory):
            vectors = torch.randn(settings.method.memory, level.density.channels)
            level.density = Memory(vectors.to(model.device))
    return Detector(  # a new one, since the other may have folded the levels already
        model,
        settings=settings,
        calibration=detector.calibration,
        training=detector.training,
        view=detector.view,
    )


def race(
    candidates: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    seconds: float = math.inf,
    untimed: int = 0,
) -> Times:
    """Time one call of each candidate in each round, after a first that is not timed.

    Args:
        candidates: by name.
        rounds: at least 1.
        seconds: no third or later round begins after them.
        untimed: calls before the timed one in each round. Without any, the caches hold what the
            candidate before used.
    """
    for run in candidates.values():
        run()
    times: Times = {name: [] for name in candidates}
    start = time.perf_counter()
    for number in range(rounds):
        if number > 1 and time.perf_counter() - start > seconds:
            break
        for name, run in candidates.items():
            for _ in range(untimed):
                run()
            began = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - began)
    return times


def ratio(times: Times, name: str, to: str) -> float:
    """Compute how many times as long one candidate takes as another: the median over rounds."""
    return statistics.median(a / b for a, b in zip(times[name], times[to], strict=True))


def tuned_environment() -> dict[str, str]:
    """Build an environment that gives another program what `tune_process` gives this one."""
    kept = {"MALLOC_TRIM_THRESHOLD_": str(256 * 2**20), "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20)}
    kept["MALLOC_TOP_PAD_"] = str(64 * 2**20)
    return {**os.environ, **kept, "OMP_WAIT_POLICY": "PASSIVE"}


def measure_alone(script: str, *arguments: object, python: str = sys.executable) -> dict[str, Any]:
    """Run `script --measure ARGUMENTS` in a fresh process; it prints its results as JSON."""
    command = [python, script, "--measure", *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def peak_memory() -> float:
    """Read the highest resident set of this process so far, in MiB."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage's begins with that of the parent
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def markdown(head: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    """Format a table; numbers to three digits or more."""

    def text(value: object) -> str:
        if not isinstance(value, float):
            return str(value)
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"

    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(text, cells))} |" for cells in lines)


def describe_machine() -> dict[str, Any]:
    """Read what a time depends on."""
    import torch

    found = {}
    for package in ("torch", "timm", "FrEIA", "anomalib", "onnxruntime", "openvino"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2),
        **found,
    }


def report(results: Any, path: Path | None) -> None:
    """Print the machine, and write everything if a file is named."""
    machine = describe_machine()
    print("\n" + ", ".join(f"{name} {value}" for name, value in machine.items()), flush=True)
    if path is not None:
        path.write_text(json.dumps({"machine": machine, "results": results}, indent=1) + "\n")
