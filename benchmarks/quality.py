"""Train and evaluate on a data set, with the last step's model, and print one row of RESULTS.md.

    python benchmarks/quality.py DATA [NAME=VALUE ...] [--seeds 0 1 2] [--json FILE]

Nothing is selected on the test data. Areas are in percent; times are wall time on this machine.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from pathlib import Path

from cflow_ad import tune_process

tune_process()  # as the command line does, before torch is imported

import numpy as np

from cflow_ad import CalibrationWarning, Detector, Settings, evaluate, open_dataset
from cflow_ad.fitting.progress import Progress


def measure(data: Path, settings: Settings) -> dict[str, float]:
    """One training and one evaluation."""
    dataset = open_dataset(data)
    began = time.perf_counter()
    encoded = began

    def watch(progress: Progress) -> None:
        nonlocal encoded
        if progress.stage == "encode":
            encoded = time.perf_counter()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CalibrationWarning)
        detector = Detector.fit(dataset, settings, progress=watch)
    trained = time.perf_counter()
    result = evaluate(detector, dataset)
    pixel = result.pixel
    return {
        "image AUROC": 100 * result.image.auroc,
        "image AP": 100 * result.image.average_precision,
        "pixel AUROC": 100 * pixel.auroc if pixel else float("nan"),
        "pixel AP": 100 * pixel.average_precision if pixel else float("nan"),
        "AUPRO": 100 * pixel.aupro if pixel else float("nan"),
        "false alarms": result.false_alarms.count,
        "good": result.false_alarms.trials,
        "found": result.confusion.tp,
        "defective": result.confusion.tp + result.confusion.fn,
        "encode s": encoded - began,
        "train s": trained - encoded,
        "images/s": len(result.images) / result.seconds,
    }


def main() -> None:
    """Measure, and print the row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("settings", nargs="*", metavar="NAME=VALUE")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    given = dict(text.split("=", 1) for text in arguments.settings)
    values = {name: Settings.parse(name, value) for name, value in given.items()}
    runs = [measure(arguments.data, Settings(**values, seed=seed)) for seed in arguments.seeds]
    cells = []
    for name in runs[0]:
        column = [run[name] for run in runs]
        spread = f" ± {np.std(column, ddof=1):.2f}" if len(column) > 1 else ""
        if not np.isnan(column).all():  # without masks there are no pixels to count
            cells.append(f"{name} {np.mean(column):.2f}{spread}")
    print(
        f"{arguments.data.name} {' '.join(arguments.settings) or '(defaults)'}: {'; '.join(cells)}"
    )
    print(f"load average {os.getloadavg()[0]:.2f}, {os.cpu_count()} cores")
    if arguments.json:
        arguments.json.write_text(json.dumps({"settings": given, "runs": runs}, indent=2) + "\n")


if __name__ == "__main__":
    main()
