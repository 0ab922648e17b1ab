"""Defective images among the good ones: are they flagged, and what does excluding them restore?

    python benchmarks/contamination.py DATA [--share 0.05] [--seeds 0 1 2]
    python benchmarks/contamination.py --quick

For each seed some defective test images are moved to the training images. Three models are measured
on the other test images: one trained on clean images, one on the contaminated ones, and one on
these without the images that the screening flags, good ones among them. `flagged` also has the
number of images flagged among the clean ones, where all are good.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from cflow_ad import tune_process

tune_process()  # as the command line does, before torch is imported

import numpy as np
from common import build_parser, fit, markdown, open_data, report

from cflow_ad import Settings, evaluate
from cflow_ad.data.layouts import GOOD, Dataset, Sample

MODELS = ("clean", "contaminated", "excluded")


def contaminate(dataset: Dataset, count: int, seed: int) -> tuple[Dataset, list[Sample]]:
    """Move defective test images to the training images; returns which."""
    defective = [sample for sample in dataset.test if not sample.is_good]
    drawn = np.random.default_rng(seed).choice(len(defective), count, replace=False)
    moved = [defective[i] for i in sorted(drawn)]
    train = dataset.train + tuple(Sample(sample.path, GOOD) for sample in moved)
    test = tuple(sample for sample in dataset.test if sample not in moved)
    return dataclasses.replace(dataset, train=train, test=test), moved


def measure(dataset: Dataset, settings: Settings, share: float) -> dict[str, Any]:
    """Train the three models of one seed, and evaluate them."""
    count = max(1, round(share / (1 - share) * len(dataset.train)))
    mixed, hidden = contaminate(dataset, count, settings.seed)
    clean, contaminated = fit(dataset, settings), fit(mixed, settings)
    assert clean.screening is not None
    assert contaminated.screening is not None
    flagged = list(contaminated.screening.flagged)
    names = {sample.path.relative_to(dataset.root).as_posix() for sample in hidden}
    result: dict[str, Any] = {
        "seed": settings.seed,
        "hidden": count,
        "flagged": len(flagged),
        "found": len(names.intersection(flagged)),
        "flagged, clean": len(clean.screening.flagged),
    }
    excluded = fit(mixed, settings, exclude=flagged)
    for name, detector in zip(MODELS, (clean, contaminated, excluded), strict=True):
        evaluation = evaluate(detector, dataclasses.replace(dataset, test=mixed.test))
        result[name] = {
            "image AUROC": 100 * evaluation.image.auroc,
            "recall": 100 * evaluation.confusion.recall,
            "threshold": detector.threshold,
        }
    return result


def main() -> None:
    """Measure, and print a table."""
    parser = build_parser(__doc__, with_data=True)
    parser.add_argument("--share", type=float, default=0.05, help="of the training images")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    if options.quick:
        options.seeds = [0]
    with open_data(options, train=10, good=2, per_defect=1) as (dataset, settings):
        results = [
            measure(dataset, dataclasses.replace(settings, seed=seed), options.share)
            for seed in options.seeds
        ]
    head = ["seed", "hidden", "found", "flagged", "flagged, clean"]
    areas = [f"image AUROC, {name}" for name in MODELS]
    recalls = [f"recall in % (threshold), {name}" for name in MODELS]
    rows = [
        [
            *(result[name] for name in head),
            *(f"{result[name]['image AUROC']:.2f}" for name in MODELS),
            *(f"{result[name]['recall']:.0f} ({result[name]['threshold']:.2f})" for name in MODELS),
        ]
        for result in results
    ]
    print(f"{dataset.name}: {options.share:.0%} of the training images are defective\n")
    print(markdown([*head, *areas, *recalls], rows))
    report(results, options.json)


if __name__ == "__main__":
    main()
