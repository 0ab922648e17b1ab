"""Does the threshold keep the stated false-alarm rate on new good images?

    python benchmarks/false_alarms.py DATA... [--images 60] [--splits 10] [--preset fast]
    python benchmarks/false_alarms.py --quick

In each split, images are drawn at random from all good ones of a data set, those for testing too. A
detector is fitted to them, and false alarms are counted on the others, at thresholds for several
rates. The mean over splits must be the promised rate. Its interval is by the standard error over
splits, as images of one split share a threshold.
"""

from __future__ import annotations

import argparse
import math
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cflow_ad import tune_process

tune_process()  # as the command line does, before torch is imported

import numpy as np
from common import build_parser, fit, markdown, open_data, report

from cflow_ad import CalibrationWarning, Settings, open_dataset
from cflow_ad.data.layouts import Dataset

HEAD = ("data", "good", "new", "splits", "asked", "promised", "mean rate", "95 % interval")


def simulate(
    sources: Sequence[Path], n: int, rates: Sequence[float], splits: int, settings: Settings
) -> Iterator[list[tuple[float, float]]]:
    """Fit to `n` random images; yield, for each rate, what is promised and the share of alarms."""
    for split in range(splits):
        order = np.random.default_rng([split, n]).permutation(len(sources))
        detector = fit([sources[i] for i in order[:n]], settings, device="cpu")
        new = [sources[i] for i in order[n:]]
        scores = np.array([prediction.score for prediction in detector.stream(new, maps=False)])
        found = []
        for rate in rates:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", CalibrationWarning)
                calibration = detector.calibrate(false_alarm_rate=rate).calibration
            share = float(np.mean(scores > calibration.threshold))
            found.append((calibration.achieved_rate, share))
        yield found


def measure(dataset: Dataset, options: argparse.Namespace, settings: Settings) -> list[Any]:
    """Simulate on one data set; returns a row for each rate."""
    sources = [sample.path for sample in (*dataset.train, *dataset.test) if sample.is_good]
    n = min(options.images, len(sources) - 1)
    found = np.array(list(simulate(sources, n, options.rates, options.splits, settings)))
    rows = []
    for rate, (promised, shares) in zip(options.rates, found.transpose(1, 2, 0), strict=True):
        mean = float(shares.mean())
        error = 1.96 * float(shares.std(ddof=1)) / math.sqrt(len(shares))
        row = (dataset.name, n, len(sources) - n, len(shares), rate, float(promised[0]), mean)
        rows.append(dict(zip(HEAD, (*row, (max(0.0, mean - error), mean + error)), strict=True)))
    return rows


def show(row: dict[str, Any]) -> list[str]:
    """Format a row of the table."""
    low, high = row["95 % interval"]
    rates = [f"{row[name]:.2%}" for name in HEAD[4:7]]
    return [*(str(row[name]) for name in HEAD[:4]), *rates, f"{low:.2%} to {high:.2%}"]


def main() -> None:
    """Simulate, and print a table."""
    parser = build_parser(__doc__, with_data=True)
    parser.add_argument("more", nargs="*", type=Path, metavar="DATA")
    parser.add_argument("--rates", type=float, nargs="+", default=[0.01, 0.05, 0.1])
    parser.add_argument("--splits", type=int, default=10)
    parser.add_argument("--images", type=int, default=60, help="good images to fit to")
    parser.add_argument("--preset", default="fast", help="the settings; `default` takes longer")
    parser.add_argument("--folds", type=int, help="see Settings.folds")
    options = parser.parse_args()
    if options.quick:
        options.rates, options.splits, options.images = [0.2], 2, 8
    with open_data(options, train=12, good=2, per_defect=0) as (dataset, settings):
        if not options.quick:
            settings = Settings.preset(options.preset, folds=options.folds)
        rows = []
        for each in (dataset, *map(open_dataset, options.more)):
            rows += measure(each, options, settings)
            print(markdown(HEAD, [show(row) for row in rows[-len(options.rates) :]]), flush=True)
    print("\n" + markdown(HEAD, [show(row) for row in rows]))
    report(rows, options.json)


if __name__ == "__main__":
    main()
