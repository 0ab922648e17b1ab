"""Does the threshold keep its promise? A simulation over splits of unseen good images.

    python benchmarks/false_alarms.py DATA [--rates 0.01 0.05 0.1] [--splits 2000]

A detector is trained once. The good images that it has not seen (held out, and test) are then
split again and again, at random: one part sets the threshold, the other counts the false alarms.
The mean realised rate must lie within its binomial interval of what the threshold promises.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import numpy as np

from cflow_ad import tune_process

tune_process()  # as the command line does, before torch is imported

from cflow_ad import CalibrationWarning, Detector, Settings, open_dataset
from cflow_ad.evaluation.metrics import binomial_interval
from cflow_ad.scoring.threshold import conformal_calibration, split_good


def main() -> None:
    """Simulate, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--rates", type=float, nargs="+", default=[0.01, 0.05, 0.1])
    parser.add_argument("--splits", type=int, default=2000)
    parser.add_argument("--held-out", type=float, default=0.3)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    dataset = open_dataset(arguments.data)
    settings = Settings(calibration_fraction=arguments.held_out, seed=arguments.seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CalibrationWarning)
        detector = Detector.fit(dataset, settings)
    train = dataset.require_train()
    _, held_out = split_good(len(train), settings.calibration_fraction, settings.seed)
    unseen = [train[i].path for i in held_out]
    unseen += [sample.path for sample in dataset.test if sample.is_good]
    scores = np.array([prediction.score for prediction in detector.stream(unseen)])

    print(f"{dataset.name}: {len(scores)} unseen good images, {arguments.splits} splits in half")
    print("| asked | promised | realised, mean over splits | 95 % interval of one split |")
    print("|---|---|---|---|")
    rng = np.random.default_rng(arguments.seed)
    half = len(scores) // 2
    for rate in arguments.rates:
        realised = []
        for _ in range(arguments.splits):
            order = rng.permutation(len(scores))
            calibration = conformal_calibration(scores[order[:half]].tolist(), rate)
            realised.append(np.mean(scores[order[half:]] > calibration.threshold))
        trials = len(scores) - half
        low, high = binomial_interval(round(calibration.achieved_rate * trials), trials)
        print(
            f"| {rate:.1%} | {calibration.achieved_rate:.2%} | {np.mean(realised):.2%} "
            f"| {low:.2%} to {high:.2%} |"
        )


if __name__ == "__main__":
    main()
