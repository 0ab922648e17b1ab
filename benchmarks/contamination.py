"""Defective images hidden among the good ones: are they found, and what does leaving them out save?

    python benchmarks/contamination.py DATA [--share 0.05] [--seeds 0 1 2] [--json FILE]
    python benchmarks/contamination.py --quick

For each seed, defective images of the test set, drawn at random, are put among the training images
and taken from the test set. Then three models are trained and measured on what is left of it: one
on clean images, one on the contaminated ones, and one on these less the images that stand out,
good ones among them. `screened` is also done on the clean images alone, where all that stands out
is good. `--quick` runs on a small carpet.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cflow_ad import tune_process

tune_process()  # as the command line does, before torch is imported

import numpy as np

from cflow_ad import CalibrationWarning, Detector, Settings, evaluate, open_dataset
from cflow_ad.data.carpet import write_carpet
from cflow_ad.data.layouts import GOOD, Dataset, Sample


def contaminated(dataset: Dataset, count: int, seed: int) -> tuple[Dataset, list[Path]]:
    """The data set with defective images moved from the test set to the good ones; which."""
    defective = [sample for sample in dataset.test if not sample.is_good]
    drawn = np.random.default_rng(seed).choice(len(defective), count, replace=False)
    moved = [defective[i] for i in sorted(drawn)]
    hidden = tuple(Sample(sample.path, GOOD) for sample in moved)
    test = tuple(sample for sample in dataset.test if sample not in moved)
    return dataclasses.replace(dataset, train=dataset.train + hidden, test=test), [
        sample.path for sample in moved
    ]


def fit(dataset: Dataset, settings: Settings, exclude: Sequence[str] = ()) -> Detector:
    """A model, without warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CalibrationWarning)
        return Detector.fit(dataset, settings, exclude=exclude)


def measure(dataset: Dataset, settings: Settings, share: float) -> dict[str, Any]:
    """One seed."""
    count = max(1, round(share / (1 - share) * len(dataset.train)))
    mixed, hidden = contaminated(dataset, count, settings.seed)
    clean = fit(dataset, settings)
    dirty = fit(mixed, settings)
    assert clean.screening is not None
    assert dirty.screening is not None
    flagged = list(dirty.screening.flagged)
    names = {path.relative_to(dataset.root).as_posix() for path in hidden}
    found = len(names.intersection(flagged))
    mended = fit(mixed, settings, flagged)
    result: dict[str, Any] = {
        "seed": settings.seed,
        "hidden": count,
        "flagged": len(flagged),
        "found": found,
        "flagged of clean": len(clean.screening.flagged),
        "clean": len(clean.screening.names),
    }
    for name, detector in (("clean", clean), ("contaminated", dirty), ("excluded", mended)):
        evaluation = evaluate(detector, dataclasses.replace(dataset, test=mixed.test))
        result[f"image AUROC, {name}"] = 100 * evaluation.image.auroc
        result[f"recall, {name}"] = 100 * evaluation.confusion.recall
        result[f"threshold, {name}"] = detector.threshold
    return result


def row(result: dict[str, Any]) -> str:
    """One seed, as a line of the table."""
    found, flagged = result["found"], result["flagged"]
    cells = [
        str(result["seed"]),
        f"{found} of {result['hidden']} ({found / result['hidden']:.0%})",
        f"{found} of {flagged} ({found / max(1, flagged):.0%})",
        f"{result['flagged of clean']} of {result['clean']}",
    ]
    models = ("clean", "contaminated", "excluded")
    cells += [f"{result[f'image AUROC, {name}']:.2f}" for name in models]
    cells += [
        f"{result[f'recall, {name}']:.0f} ({result[f'threshold, {name}']:.2f})" for name in models
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    settings, seeds = Settings(), arguments.seeds
    with tempfile.TemporaryDirectory() as folder:
        data = arguments.data
        if arguments.quick:
            data = Path(folder) / "carpet"
            write_carpet(data, train=16, good=4, per_defect=2, size=96)
            settings, seeds = Settings(size="96x96", steps=5), [0]
        if data is None:
            parser.error("give DATA, or --quick")
        dataset = open_dataset(data)
        print(f"{dataset.name}: {arguments.share:.0%} of the training images are defective")
        print(
            "| seed | found | of those flagged | flagged where all are good "
            "| image AUROC: clean | contaminated | excluded "
            "| recall in % (threshold): clean | contaminated | excluded |"
        )
        print(f"|{'---|' * 10}")
        results = []
        for seed in seeds:
            of_seed = dataclasses.replace(settings, seed=seed)
            results.append(measure(dataset, of_seed, arguments.share))
            print(row(results[-1]), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
