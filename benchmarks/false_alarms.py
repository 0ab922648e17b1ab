"""Does the threshold keep the stated false-alarm rate, over random splits of unseen good images?

    python benchmarks/false_alarms.py DATA [--rates 0.01 0.05 0.1] [--splits 2000]
    python benchmarks/false_alarms.py --quick

A detector is trained once, with 30 % of the good images held out. These and the good test images
are then split in half many times: one half is the calibration set, the false alarms are counted on
the other. Their mean rate must be that which the calibration promises.
"""

from __future__ import annotations

import dataclasses

from cflow_ad import tune_process

tune_process()  # as the command line does, before torch is imported

import numpy as np
from common import build_parser, fit, markdown, open_data, report

from cflow_ad.evaluation.metrics import binomial_interval
from cflow_ad.scoring.threshold import calibrate_thresholds

HELD_OUT = 0.3
HEAD = ("asked", "promised", "mean rate", "95 % interval of one split")


def count_alarms(scores: np.ndarray, rate: float, splits: int) -> dict[str, float]:
    """Split scores of good images, set the threshold on one half and count on the other."""
    rng = np.random.default_rng(0)
    half = len(scores) // 2
    rates = []
    for _ in range(splits):
        order = rng.permutation(len(scores))
        known = scores[order[:half]].tolist()
        calibration = calibrate_thresholds(known, known, rate)
        rates.append(np.mean(scores[order[half:]] > calibration.threshold))
    trials = len(scores) - half
    low, high = binomial_interval(round(calibration.achieved_rate * trials), trials)
    values = (rate, calibration.achieved_rate, float(np.mean(rates)), low, high)
    return dict(zip(("asked", "promised", "mean rate", "low", "high"), values, strict=True))


def main() -> None:
    """Simulate, and print a table."""
    parser = build_parser(__doc__, with_data=True)
    parser.add_argument("--rates", type=float, nargs="+", default=[0.01, 0.05, 0.1])
    parser.add_argument("--splits", type=int, default=2000)
    options = parser.parse_args()
    if options.quick:
        options.rates, options.splits = [0.2], 20
    with open_data(options, train=12, good=8, per_defect=0) as (dataset, settings):
        detector = fit(dataset, dataclasses.replace(settings, calibration_fraction=HELD_OUT))
        split = detector.split(dataset)
        unseen = [split.images.sources[i] for i in split.unseen]
        unseen += [sample.path for sample in dataset.test if sample.is_good]
        scores = np.array([prediction.score for prediction in detector.stream(unseen, maps=False)])
    results = [count_alarms(scores, rate, options.splits) for rate in options.rates]
    rows = [
        [
            *(f"{result[name]:.2%}" for name in HEAD[:3]),
            f"{result['low']:.2%} to {result['high']:.2%}",
        ]
        for result in results
    ]
    print(f"{dataset.name}: {len(scores)} unseen good images, {options.splits} splits\n")
    print(markdown(HEAD, rows))
    report(results, options.json)


if __name__ == "__main__":
    main()
